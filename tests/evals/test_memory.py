"""`python -m jrt.evals.memory` writes a report, and says in one line what it cannot do."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from jrt.evals.memory import main
from jrt.evals.memory_table import runs


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["memory", *arguments])
    main()


def test_the_report_is_what_the_tables_are_made_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "new" / "run-2.json")
    options = ["--tasks", "detect,detect", "--segments", "2,2", "--limit", "3", "--split", "train"]
    run(monkeypatch, "jrt/tiny-rmt", *options, "--out", out)
    (record,) = json.loads(Path(out).read_text())["results"]
    assert record["all"]["of"] == 3 and len(capsys.readouterr().out.splitlines()) == 1
    assert runs(tmp_path / "new") == {"run": {("detect", "train", 2): record}}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--segments", "a"], "'a' is no list of positive numbers such as 64,512"),
        (["--segments", ""], "is no list of positive numbers"),
        (["--segments", "4,0"], "'4,0' is no list of positive numbers"),
        (["--limit", "0"], "'0' is no list of positive numbers"),
        (["--limit", "3,4"], "'3,4' is no positive number"),
        (["--tasks", "memorise"], "there is no task 'memorise' here; there are memorize, detect, reason"),
        (["--out", "."], "is a folder; name a file in it"),
    ],
)
def test_bad_options_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "jrt/tiny-rmt", "--out", "report-1.json", *arguments)
    assert caught.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("jrt/tiny-recurrent", "jrt/tiny-recurrent is no classifier of places that reads in segments."),
        ("jrt/tiny-infini", "jrt/tiny-infini is no classifier of places that reads in segments."),
        ("nowhere/", "There is no model folder nowhere/."),
    ],
)
def test_other_models_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: str, said: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, model, "--out", "report-1.json")
    assert caught.value.code == 2 and said in capsys.readouterr().err
