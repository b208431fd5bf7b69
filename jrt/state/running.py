"""Running a model as it answers: in evaluation mode, on the device where it computes, without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """`model` in evaluation mode while the context lasts; afterwards every module of it is in the mode it was in.

    `model.train(was_training)` would set all of them alike, also those that are kept in another mode than the rest.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def device_of(model: Any) -> torch.device:
    """Where `model` takes its tokens. Weights that accelerate has offloaded are on no device; its hooks know where."""
    device: torch.device = model.device
    if device.type != "meta":
        return device
    for module in model.modules():
        found = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if found is not None:
            return torch.device(found)
    return device
