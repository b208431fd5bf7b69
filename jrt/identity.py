"""Who a model and a tokenizer are, so that a saved state can refuse any other."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

_SAMPLES = 16  # values of each parameter that enter the fingerprint


def model_identity(model: Any) -> dict[str, str]:
    """What must be equal for a state to be continued: class, data type and weights.

    The weights are sampled: a few values of every parameter, evenly spaced, with its name and shape. That tells a
    fine-tuned copy, another size and another revision apart without reading gigabytes.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        flat = tensor.detach().reshape(-1)
        picked = flat[:: max(1, flat.numel() // _SAMPLES)][: _SAMPLES + 1]
        digest.update(picked.to("cpu", torch.float32).numpy().tobytes())
    return {"class": type(model).__name__, "dtype": str(model.dtype), "weights": digest.hexdigest()[:32]}


def tokenizer_identity(tokenizer: Any) -> str:
    """A fingerprint of the vocabulary and the chat template."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    template = str(getattr(tokenizer, "chat_template", None))
    return hashlib.sha256((json.dumps(vocabulary) + template).encode()).hexdigest()[:32]
