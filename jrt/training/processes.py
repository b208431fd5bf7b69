"""Several processes as one program, and a program that leaves its process as it found it."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch

from jrt.errors import JRTError

Result = TypeVar("Result")


def in_first(processes: Any, function: Callable[[], Result]) -> Result | None:
    """Calls a function in the first process while the others wait; its error ends all of them.

    Args:
        processes: accelerate's PartialState.
        function: what to call.

    Returns:
        What it returns, in the first process; None in the others.
    """
    from accelerate.utils import broadcast_object_list

    result, error = None, None
    if processes.is_main_process:
        try:
            result = function()
        except Exception as raised:
            error = raised
    if processes.num_processes > 1:
        told = [None if error is None else (type(error), error.args, getattr(error, "hint", ""))]
        broadcast_object_list(told)
        if told[0] is not None and error is None:
            error = _same_error(*told[0])
    if error is not None:
        raise error
    return result


def _same_error(owner: type[Exception], arguments: tuple[Any, ...], hint: str) -> Exception:
    return owner(arguments[0], hint) if issubclass(owner, JRTError) else owner(*arguments)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """The Trainer seeds every generator there is; afterwards they are as they were."""
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hides warnings that are about how the Trainer is used here, not about the run."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step.*")
        logger = logging.getLogger("accelerate.utils.other")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
