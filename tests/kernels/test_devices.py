"""What a CUDA device can hold, from properties as torch gives them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from jrt.kernels.devices import Limits, limits


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (dict(shared_memory_per_block=49_152, shared_memory_per_block_optin=166_912), 166_912),
        (dict(shared_memory_per_block=65_536), 65_536),
        ({}, 49_152),
    ],
)
def test_limits_of_a_device(memory: dict[str, int], expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = SimpleNamespace(major=8, minor=6, **memory)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    limits.cache_clear()
    try:
        assert limits(torch.device("cuda", 1)) == Limits((8, 6), expected)
        assert limits(torch.device("cpu")) == Limits()
    finally:
        limits.cache_clear()
