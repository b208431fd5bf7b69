"""What a CUDA device can hold, for the choice between a Triton kernel and plain torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch


@dataclass(frozen=True)
class Limits:
    """Of a CUDA device; by default an H200's, for a device that is not there.

    Attributes:
        capability: (major, minor).
        shared_memory: bytes of it that one program may have.
    """

    capability: tuple[int, int] = (9, 0)
    shared_memory: int = 232_448


@lru_cache(maxsize=16)
def limits(device: torch.device) -> Limits:
    """The limits of a CUDA device; the defaults where there is none (tensors without memory may still name it)."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return Limits()
    properties = torch.cuda.get_device_properties(device)
    names = ("shared_memory_per_block_optin", "shared_memory_per_block")  # AMD's have the second only
    shared = next((getattr(properties, name) for name in names if hasattr(properties, name)), 49_152)
    return Limits((properties.major, properties.minor), shared)
