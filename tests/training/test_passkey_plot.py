"""The heat maps of a passkey table add seeds up and leave gaps where nothing was measured."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from jrt.errors import DataFormatError
from jrt.training.passkey_plot import panels, plot


def row(model: str, memory: str, tokens: int, right: int) -> dict[str, Any]:
    return {"model": model, "memory": memory, "tokens": tokens, "depths": {"start": [right, 4], "end": [4, 4]}}


def test_seeds_are_added_up_and_recipes_are_not() -> None:
    rows = [row("seed 0", "on", 64, 1), row("seed 1", "on", 64, 2), row("seed 0", "off", 64, 0)]
    found = panels([*rows, row("plain, seed 0", "on", 64, 3)])
    assert found["memory on"] == {("start", 64): (3, 8), ("end", 64): (8, 8)}
    assert found["memory off"]["start", 64] == (0, 4) and found["plain recipe"]["start", 64] == (3, 4)


def test_another_file_is_refused() -> None:
    with pytest.raises(DataFormatError, match="none of a passkey table"):
        panels([{"memory": "on"}])


def test_the_shipped_table_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    table = json.loads((files("jrt.checkpoints") / "tiny-infini" / "table.json").read_text())
    written = plot(table, tmp_path / "table.png")
    assert written.read_bytes().startswith(b"\x89PNG") and written.stat().st_size > 5000
