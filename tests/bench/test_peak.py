"""The peak is what tensors hold at once, not what they sum to, and what was there before does not count."""

from __future__ import annotations

import pytest
import torch

from jrt.bench.peak import peak_bytes

MEGABYTE = 1 << 20


def test_freed_tensors_do_not_add_up() -> None:
    def call() -> None:
        first = torch.zeros(MEGABYTE, dtype=torch.uint8)
        second = first + 1
        del first
        second.add(1)

    assert peak_bytes(call) == pytest.approx(2 * MEGABYTE, rel=0.01)


def test_what_was_there_before_does_not_count(capfd: pytest.CaptureFixture[str]) -> None:
    before = torch.zeros(5 * MEGABYTE, dtype=torch.uint8)
    assert peak_bytes(lambda: before[:MEGABYTE] + 1) == pytest.approx(MEGABYTE, rel=0.01)
