"""The FLOPs formula against the paper's figure, read off to two decimals, and against a count of multiplications."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from jrt.bench import flops, flops_plot
from jrt.bench.flop_formulas import OPT, PAPER_TOKENS, VARIANTS, forward_flops, saving, segmented_flops
from jrt.errors import InvalidOptionError

FIGURE = {
    4_096: (1.51, 1.27, 1.14, 1.08, 1.05),
    32_768: (5.63, 3.42, 2.27, 1.75, 1.44),
    128_000: (19.31, 10.55, 6.02, 3.95, 2.74),
    512_000: (74.46, 39.33, 21.15, 12.84, 8.00),
    1_024_000: (148.00, 77.69, 41.31, 24.69, 15.00),
    2_048_000: (295.07, 154.42, 81.65, 48.38, 29.02),
    2_097_152: (302.13, 158.10, 83.59, 49.52, 29.69),
}
"""The paper's figure: dense over segments for OPT-125M, 1.3B, 6.7B, 30B and 175B."""


@pytest.mark.parametrize("tokens", FIGURE)
def test_the_figure_of_the_paper(tokens: int) -> None:
    assert [round(saving(shape, tokens), 2) for shape in OPT.values()] == list(FIGURE[tokens])


def test_one_segment_of_each_size() -> None:
    found = [forward_flops(shape, 512) for shape in OPT.values()]
    assert found == pytest.approx([1.3655e11, 1.3959e12, 6.9480e12, 3.1042e13, 1.8001e14], rel=1e-4)


@pytest.mark.parametrize(
    ("name", "smallest", "largest"),
    [
        ("Hoffmann to the letter", 223.4, 28.5),
        ("Hoffmann without embedding", 287.9, 28.6),
        ("10 memory tokens in 512 (encoder)", 289.3, 28.4),
        ("13 lost positions in 512 (BERT)", 287.6, 28.3),
        ("2 x 10 memory tokens (decoder)", 283.5, 27.9),
    ],
)
def test_other_ways_to_count(name: str, smallest: float, largest: float) -> None:
    count = VARIANTS[name]
    assert count(OPT["OPT-125M"], PAPER_TOKENS) == pytest.approx(smallest, abs=0.06)
    assert count(OPT["OPT-175B"], PAPER_TOKENS) == pytest.approx(largest, abs=0.06)


def test_half_the_scores_halve_the_quadratic_part() -> None:
    shape = OPT["OPT-125M"]
    whole, causal, none = (
        forward_flops(shape, 10_000, **kept) for kept in ({}, {"causal": True}, {"softmax": -4 * 64})
    )
    linear = none  # softmax = -4 d / h cancels the scores
    assert (causal - linear) / (whole - linear) == pytest.approx(0.5, rel=1e-3)
    assert VARIANTS["causal scores only"](shape, PAPER_TOKENS) < 0.55 * saving(shape, PAPER_TOKENS)


def test_segments_cost_the_same_a_token_at_any_length_and_need_room() -> None:
    shape = OPT["OPT-1.3B"]
    assert segmented_flops(shape, 512_000) == pytest.approx(1000 * forward_flops(shape, 512))
    assert saving(shape, 512) == 1.0
    with pytest.raises(ValueError, match="512 memory positions"):
        segmented_flops(shape, 512_000, memory=512)


def test_the_formula_is_what_torch_counts_of_the_measured_model() -> None:
    """Without the softmax, which torch's counter leaves out."""
    model, tokens = flops._model(300), 256
    model.config._attn_implementation = "eager"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randint(4, 500, (1, tokens)), use_cache=False)
    assert counter.get_total_flops() == forward_flops(flops._MEASURED, tokens, softmax=0)


def test_the_benchmark_measures_both_ways(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "flops.png"
    report = flops.run(lengths="512,2048000", measured="32,256", segment=32, memory=2, rounds=1, plot_to=picture)
    short, long = (row for row in report.rows if row["counted"] == "measured")
    assert long["dense MB"] > 5 * short["dense MB"] and long["segments MB"] < 2 * short["segments MB"]
    assert long["by formula"] > short["by formula"] and long["time ratio"] > 0
    (_, cells), (columns, _) = report.tables()
    assert cells[1][1:3] == ["2048000", "295.07"] and cells[1][-1] == "29.02" and "time ratio" in columns
    assert picture.stat().st_size > 1000


@pytest.mark.parametrize(
    ("lengths", "measured"),
    [
        ("2097152", ""),  # longer than the paper's
        ("2097152,512,2048000", ""),
        ("512", "32"),
        ("", "32"),
    ],
)
def test_every_length_is_in_the_picture(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lengths: str, measured: str
) -> None:
    pytest.importorskip("matplotlib")
    drawn: list[Any] = []

    @contextlib.contextmanager
    def figure_of(path: Path, panels: int) -> Iterator[list[Any]]:
        with original(path, panels) as axes:
            yield axes
            drawn.extend(axes)

    original = flops_plot.figure_of
    monkeypatch.setattr(flops_plot, "figure_of", figure_of)
    picture = tmp_path / "flops.png"
    flops.run(lengths=lengths, measured=measured, segment=32, memory=2, rounds=1, plot_to=picture)
    assert picture.stat().st_size > 1000 and len(drawn) == bool(lengths) + 2 * bool(measured)
    wanted = sorted(int(length) for length in lengths.split(",") if length)
    for axes in drawn[: bool(lengths)]:
        assert [line.get_label() for line in axes.lines] == list(OPT)
        for line in axes.lines:
            assert list(line.get_xdata()) == wanted
            assert line.get_ydata()[-1] == saving(OPT[str(line.get_label())], wanted[-1])
        told = {"2097152": "302", "2097152,512,2048000": "295"}.get(lengths)  # the paper's length where it is drawn
        assert [text.get_text() for text in axes.texts[:1]] == ([told] if told else [])


def test_a_picture_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="nothing to draw"):
        flops.run(lengths="", measured=" ", plot_to=tmp_path / "flops.png")
    assert flops.run(lengths="", measured="").rows
