"""The benchmark of long inputs reads what it says it reads, and its table of updates counts real ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from jrt.bench import infini
from jrt.errors import InvalidOptionError

CASE: dict[str, Any] = {"segment_length": 16, "rule": "delta", "layers": 1, "width": 32, "device": "cpu"}


@torch.no_grad()
def test_reads_in_parts_and_at_once() -> None:
    parts = infini.read(CASE | {"read": 96, "call": 32})
    once = infini.read(CASE | {"read": 96, "call": 96})
    assert parts["state"] == once["state"] > 0 and parts["seconds"] > 0 and parts["peak"] > 1e7


@torch.no_grad()
def test_every_update_is_one_more_in_the_normaliser() -> None:
    few, many = (infini.write({"updates": count, "write": "linear"}) for count in (50, 4050))
    assert many["updates"] == 4050 and many["all finite"] and many["largest z"] > 20 * few["largest z"]


def test_compares_with_the_mean_of_the_short_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(case: dict[str, Any]) -> dict[str, Any]:
        long = case.get("read", 0) > 10
        return {"seconds": 3.0 * case["read"], "cpu": 1.0 * case["read"], "state": 5, "peak": 110.0 if long else 100.0}

    monkeypatch.setattr(infini, "_measured", measured)
    report = infini.run(tokens=40, against=10, rounds=2, updates=0)
    assert [row["tokens"] for row in report.rows] == [10, 40, 40, 10]
    assert [row["calls"] for row in report.rows] == [1, 4, 1, 1]
    assert [row["memory ratio"] for row in report.rows] == [1.0, 1.1, 1.1, 1.0]
    assert all(row["time ratio"] == row["CPU time ratio"] == 1.0 for row in report.rows)
    assert json.loads(report.model_dump_json())["name"] == "infini"


@pytest.mark.parametrize(("width", "instead"), [(8, 16), (40, 48)])
def test_a_width_of_odd_heads_is_refused_before_anything_runs(
    width: int, instead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infini, "_measured", lambda case: pytest.fail("something was measured"))
    with pytest.raises(InvalidOptionError, match=f"--width {width} is no multiple of 16") as caught:
        infini.run(width=width)
    assert caught.value.hint == f"--width {instead}"
