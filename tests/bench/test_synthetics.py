"""The synthetic benchmark: equal states and parameters, models that learn, and none that is trained twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from jrt.bench import synthetics
from jrt.bench.synthetics import READINGS, Recipe, measure, run, state_floats, untrained
from jrt.errors import InvalidOptionError

RECIPE = Recipe(((2, 4),), 20, 60, 16, 3e-3, 200)


@pytest.mark.parametrize("feature_dim", [2, 4, 8])
def test_equal_states_and_parameters(feature_dim: int) -> None:
    sizes = {}
    for reading in READINGS:
        model = untrained(reading, feature_dim, RECIPE).eval()
        sizes[reading] = sum(parameter.numel() for parameter in model.parameters())
        cache = model(torch.randint(4, 20, (1, 9)), use_cache=True).past_key_values
        kept = [layer for layer, mixer in zip(cache.layers, model.config.mixers, strict=True) if mixer != "conv"]
        tensors = [value for layer in kept for value in vars(layer).values() if isinstance(value, torch.Tensor)]
        floats = sum(int(value.count_nonzero()) for value in tensors if value.is_floating_point())
        assert floats == state_floats(feature_dim)  # features that only fill up a block are zeros
    assert max(sizes.values()) <= 1.03 * min(sizes.values())


def test_rows_the_plot_and_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    options = dict(shapes="2x4", steps=4, batch_size=4, vocab_size=20, test_items=50, feature_dims="2,4", seeds="0")
    report = run(**options, keep=tmp_path / "kept.jsonl", plot_to=tmp_path / "plot.png")
    assert [(row["feature_dim"], row["reading"]) for row in report.rows] == [(f, r) for f in (2, 4) for r in READINGS]
    for row in report.rows:
        assert row["difference"] == pytest.approx(row["short first"] - row["long first"])
        assert row["short first"] == row["2 then 4"] and row["long first"] == row["4 then 2"]
    assert (tmp_path / "plot.png").stat().st_size > 5000
    monkeypatch.setattr(synthetics, "measure", lambda *_: pytest.fail("trained again"))
    assert run(**options, keep=tmp_path / "kept.jsonl").rows == report.rows
    lines = (tmp_path / "kept.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in lines] == report.rows
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        run(**(options | {"steps": 5}), keep=tmp_path / "kept.jsonl")


def test_a_model_learns_and_a_seed_gives_it_again() -> None:
    row = measure("once", 4, 0, Recipe(((1, 2),), 12, 120, 16, 1e-2, 200))
    assert row["short first"] > 40  # a guess among eight symbols has 12.5 %
    short = Recipe(((2, 4),), 20, 5, 8, 1e-2, 200)
    rows = [measure("prefix", 2, seed, short) | {"CPU s": 0} for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2] | {"seed": 0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"readings": "onse"}, "no reading 'onse'.*'once'"),
        ({"shapes": "8x2"}, "'8x2' is no list of shapes"),
        ({"shapes": "2by8"}, "no list of shapes"),
        ({"seeds": "a"}, "no list of numbers"),
        ({"vocab_size": 12, "steps": 1, "feature_dims": "2"}, "cannot be drawn from 8 symbols"),
    ],
)
def test_refusals(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        run(**options)  # type: ignore[arg-type]
