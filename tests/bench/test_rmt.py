"""The RMT benchmark measures what it says: ratios are against the short inputs, and inputs are as long as asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from jrt.bench import rmt
from jrt.errors import InvalidOptionError


def test_ratios_are_against_the_short_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rmt, "_measured", rmt.read)
    report = rmt.run(segments=6, against=2, segment_length=20, layers=1, width=12, rounds=2)
    assert [row["segments"] for row in report.rows] == [2, 6, 2]
    short = [row for row in report.rows if row["segments"] == 2]
    for name, value in (("memory ratio", "peak MB"), ("time ratio", "µs a token")):
        mean = sum(row[value] for row in short) / 2
        for row in report.rows:
            assert abs(row[name] - row[value] / mean) < 1e-6, name
    assert all(50 < row["peak MB"] < 20000 for row in report.rows)


def test_what_is_read_is_as_long_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []

    class Recorder(torch.nn.Module):
        def forward(self, ids: Any) -> Any:
            lengths.append(ids.shape[1])
            return SimpleNamespace(memory=torch.zeros(1))

    monkeypatch.setattr(rmt, "_encoder", lambda case: Recorder())
    rmt.read(dict(threads=1, device="cpu", segment_length=20, read=40))
    assert lengths[-1] == 800


def test_a_width_that_no_heads_divide_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rmt, "_measured", lambda case: pytest.fail("something was measured"))
    with pytest.raises(InvalidOptionError, match="--width 13 is no multiple of 12") as caught:
        rmt.run(width=13)
    assert caught.value.hint == "--width 24"
