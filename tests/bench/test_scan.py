"""The scan benchmark measures what it says: every way runs, ratios are those of the times, nothing stays changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from jrt.bench.scan import _contexts, _model, run
from jrt.kernels.switch import VARIABLE


def test_every_way_reads_and_the_ratios_fit(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    threads, switch = torch.get_num_threads(), os.environ.get(VARIABLE)
    report = run(lengths="4,9", threads="1,2", layers=1, rounds=3, plot_to=tmp_path / "plot.png")
    assert torch.get_num_threads() == threads and os.environ.get(VARIABLE) == switch
    assert {(row["tokens"], row["threads"]) for row in report.rows} == {(4, 1), (9, 1), (4, 2), (9, 2)}
    assert {"transformers", "torch", "transformers without scan"} <= {row["scan"] for row in report.rows}
    for row in report.rows:
        assert 0 < row["lowest"] <= row["ratio"] <= row["highest"]
        assert row["scan"] != "transformers" or row["ratio"] == row["CPU ratio"] == 1.0
    assert (tmp_path / "plot.png").stat().st_size > 1000


@torch.no_grad()
def test_ours_read_the_same_and_the_floor_does_not() -> None:
    model, ids = _model(1, "cpu"), torch.arange(20)[None]
    right = model(ids).logits
    for name, context in _contexts(torch.device("cpu")).items():
        with context(model):
            found = model(ids).logits
        same = torch.allclose(found, right, rtol=1e-3, atol=1e-3 * float(right.abs().max()))
        assert same == (name != "transformers without scan"), name
