"""Reports of memories as tables: every figure lands in its column, and cut facts are taken out of whole ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jrt.errors import DataFormatError, InvalidOptionError
from jrt.evals.memory_table import by_place, by_tenth, runs, scores
from jrt.training.places import PLACES


def share(right: int, of: int) -> dict[str, Any]:
    return {"right": right, "of": of, "value": 100 * right / of, "low": 1.0, "high": 2.0}


def record(kind: str, segments: int, right: int) -> dict[str, Any]:
    parts: dict[str, Any] = {"all": share(right, 10), "without_memory": share(2, 10), "cut": share(1, 4)}
    places = {place: share(1, 1) if place != "office" else None for place in PLACES}
    return {"kind": kind, "segments": segments, **parts, "by_place": places, "by_tenth": [share(1, 2)] + [None] * 9}


def write(folder: Path, name: str, split: str, *results: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps({"split": split, "results": results}))


def test_a_run_is_a_column_and_a_measurement_a_line(tmp_path: Path) -> None:
    write(tmp_path, "gated-0-64.json", "heldout", record("detect", 64, 9), record("memorize", 64, 10))
    write(tmp_path, "gated-0-more.json", "heldout", record("detect", 64, 1), record("detect", 128, 8))
    write(tmp_path, "replace-0-64.json", "train", record("detect", 64, 3))
    found = runs(tmp_path)
    header, _, *lines = scores(found).splitlines()
    assert header.endswith("| gated-0 | replace-0 | gated-0, last segment only |")
    ten = "(1.0 to 2.0; n = 10)"
    assert lines == [
        f"| detect | heldout | 64 | 99.7 | 90.0 {ten} | - | 20.0 {ten} |",  # the first file's, not the later one's
        f"| detect | heldout | 128 |  | 80.0 {ten} | - | 20.0 {ten} |",
        f"| detect | train | 64 | 99.7 | - | 30.0 {ten} | - |",
        f"| memorize | heldout | 64 | 98.2 | 100.0 {ten} | - | 20.0 {ten} |",
    ]
    assert list(runs(tmp_path, ["replace-0", "gated-0"])) == ["replace-0", "gated-0"]
    place = by_place(found["gated-0"]).splitlines()[2]
    assert place.startswith("| detect | heldout | 64 | 1 of 1 | 1 of 1 | 1 of 1 | - |")
    assert place.endswith("| 8 of 6 | 1 of 4 |")
    assert [line.split(" | ")[0] for line in by_tenth(found["gated-0"]).splitlines()[2:]] == ["| detect", "| detect"]


def test_a_run_without_a_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match=r"RUN-\*"):
        runs(tmp_path)
    write(tmp_path, "gated-0-64.json", "heldout", record("detect", 64, 9))
    with pytest.raises(InvalidOptionError, match=r"gated-1-\*"):
        runs(tmp_path, ["gated-0", "gated-1"])


@pytest.mark.parametrize("text", ["{}", "[]", "no JSON", '{"results": [{}], "split": "train"}'])
def test_a_file_that_is_no_report_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad-1.json").write_text(text)
    with pytest.raises(DataFormatError, match=r"bad-1\.json is no report"):
        runs(tmp_path)
