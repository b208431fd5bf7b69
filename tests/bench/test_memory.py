"""Table 1 of the Infini-attention paper, figures of real models worked out by hand, and caches that were filled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jrt.bench import memory
from jrt.bench.memory_formulas import (
    PAPER,
    PRESETS,
    AttentionShape,
    infini,
    key_value_cache,
    paper_rows,
    parse_shape,
    table_row,
)
from jrt.errors import InputNotFoundError, InvalidOptionError, UnsupportedModelError


def test_the_table_of_the_paper() -> None:
    rows = {row["table 1"]: row for row in paper_rows()}
    millions = {name: round(row["millions"], 3) for name, row in rows.items()}
    assert millions == {"Transformer-XL": 50.332, "Memorizing": 183.452, "RMT": 2.458, "Infini": 1.585}
    assert round(rows["Memorizing"]["their quotient"]) == 114
    assert round(rows["Memorizing"]["times Infini"], 1) == 115.7


@pytest.mark.parametrize(
    ("name", "state_megabytes", "cache_gigabytes"),
    [("llama-3-8b", 16.9, 131.1), ("llama-3.2-1b", 2.1, 32.8), ("gpt2", 2.4, 36.9), ("qwen2.5-0.5b", 0.8, 12.3)],
)
def test_models_that_people_use(name: str, state_megabytes: float, cache_gigabytes: float) -> None:
    """A float32 state against a bfloat16 cache of a million tokens."""
    assert round(infini(PRESETS[name]) * 4 / 1e6, 1) == state_megabytes
    assert round(key_value_cache(PRESETS[name], 1_000_000) * 2 / 1e9, 1) == cache_gigabytes


@pytest.mark.parametrize(("width", "tokens"), [(64, 65), (128, 129)])
def test_a_state_is_a_cache_of_as_many_tokens_as_a_head_is_wide(width: int, tokens: int) -> None:
    shape = AttentionShape(3, 4, 2, width, width, 256)
    assert infini(shape) * 4 == key_value_cache(shape, tokens) * 2


def test_what_grows_with_the_length() -> None:
    short, long = table_row(PAPER, 100_000, 2048), table_row(PAPER, 200_000, 2048)
    assert [name for name in short if long[name] > short[name]] == ["Memorizing", "AutoCompressors"]
    assert short["Compressive"] == pytest.approx(1024 * 4096 * 12 / 1e6)
    assert long["AutoCompressors"] == pytest.approx(1024 * 100 * (98 + 1) * 12 / 1e6)


def test_caches_that_were_filled_have_the_formulas_bytes(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "memory.png"
    numbers = "layers=2,heads=4,key_value_heads=2,key_width=16,width=64"
    report = memory.run(
        model=[numbers, "gpt2"], lengths="1000,2000", measured="5,40", measured_segment=16, plot_to=picture
    )
    measured = [row for row in report.rows if "measured bytes" in row]
    caches = [row for row in measured if row["cache"] == "DynamicCache"]
    assert [row["measured bytes"] for row in caches if row["model"] == numbers] == [
        2 * 2 * 2 * 16 * n * 2 for n in (5, 40)
    ]
    assert {row["model"] for row in measured} == {numbers, "gpt2"}
    counter = {"DynamicCache": 0, "InfiniCache": 8}
    assert all(row["difference"] == counter[row["cache"]] for row in measured)
    infinite = [row["measured bytes"] for row in measured if row["cache"] == "InfiniCache" and row["model"] == numbers]
    state = 2 * 2 * 16 * 17 * 4
    assert infinite == [8 + state + 2 * 2 * 2 * 16 * unfinished * 2 for unfinished in (5, 8)]
    assert picture.stat().st_size > 1000


def test_a_folder_and_its_errors(tmp_path: Path) -> None:
    def config(**numbers: Any) -> str:
        (tmp_path / "config.json").write_text(json.dumps(numbers), encoding="utf-8")
        return str(tmp_path)

    llama = dict(model_type="llama", num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=2, hidden_size=64)
    assert memory._shape(config(**llama)) == AttentionShape(3, 8, 2, 8, 8, 64)
    assert memory._shape(config(**llama, head_dim=32)) == AttentionShape(3, 8, 2, 32, 32, 64)
    with pytest.raises(UnsupportedModelError, match="mamba"):
        memory._shape(config(model_type="mamba"))
    with pytest.raises(InputNotFoundError, match=r"no model 'lama-3-8b'.*llama-3-8b"):
        memory._shape("lama-3-8b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layers=2,heads=4", "lack width"),
        ("layers=2,heads=0,width=64", "'heads=0' is not one of"),
        ("layers=2,head=4,width=64", "'head=4' is not one of"),
        ("layers=x,heads=4,width=64", "'layers=x' is not one of"),
    ],
)
def test_numbers_that_are_none(text: str, message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        parse_shape(text)


def test_numbers_not_given_follow_from_the_others() -> None:
    assert parse_shape("layers=2,heads=4,width=64") == AttentionShape(2, 4, 4, 16, 16, 64)
    with pytest.raises(InvalidOptionError, match="float64"):
        memory.run(dtype="float64")
