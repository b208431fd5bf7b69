"""Floors worked out by hand for 16 rows, 16 heads and 32,768 positions, in milliseconds on an H200 and an H100."""

from __future__ import annotations

from typing import Any

import pytest

from jrt.bench import roofline
from jrt.bench.roofline import H100, H200, Work

N = 16 * 16 * 32768


def milliseconds(work: Work) -> list[float]:
    return [round(1e3 * work.floor(device), 2) for device in (H200, H100)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"features": 272, "selection": 0}, [0.85, 0.89]),
        ({}, [0.76, 0.89]),
        ({"selection": 0}, [0.62, 0.89]),
        ({"encoder": N // 2}, [0.92, 1.12]),
        ({"encoder": N}, [1.09, 1.34]),
    ],
)
def test_taylor_forward(options: dict[str, Any], expected: list[float]) -> None:
    assert milliseconds(roofline.taylor(N, **options)) == expected


def test_attention_and_the_other_passes() -> None:
    assert milliseconds(roofline.attention(256, 32768)) == [44.54, 44.54]
    assert (
        round(roofline.attention_backward(256, 32768).floor(H200) / roofline.attention(256, 32768).floor(H200), 3)
        == 2.5
    )
    assert milliseconds(roofline.taylor_backward(N)) == [1.87, 1.87]
    assert round(1e6 * roofline.taylor_step(256).floor(H200)) == 5
    assert round(1e6 * roofline.attention_step(256, 32768).floor(H200)) == 499


def test_a_window_bounds_the_work_and_reaches_no_further_than_there_is() -> None:
    windowed = roofline.attention(256, 32768, window=128)
    assert windowed.flops / roofline.attention(256, 32768).flops == pytest.approx(128 / 16384)
    assert roofline.attention(1, 100, window=200) == roofline.attention(1, 100)


@pytest.mark.parametrize(("width", "local", "memory"), [(64, 0.275, 0.017), (128, 0.550, 0.069)])
def test_infini_per_head_over_a_million_tokens(width: int, local: float, memory: float) -> None:
    """Tera-operations of the local part and of one read and one write of the memory."""
    length = 2**20
    work = roofline.infini(1, length, 2048, width=width)
    assert work.flops / 1e12 == pytest.approx(local + memory, abs=1e-3)
    assert roofline.infini(1, 1000, 2048, width=width).flops < roofline.infini(1, 3000, 2048, width=width).flops


def test_a_floor_is_the_longer_of_both() -> None:
    device = roofline.Ceilings(flops=10.0, bandwidth=5.0)
    assert Work(100, 5).floor(device) == 10 and Work(10, 100).floor(device) == 20
    assert roofline.scan(2, 3, 5, 7).bytes == 2 * 2 * 5 * (3 * 3 + 2 * 7)
