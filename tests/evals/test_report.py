"""Tables and the picture say what the result says."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from fakes import FakeReader, half_right, likes_rows, write_rows

from jrt.errors import DataFormatError, InputNotFoundError, MissingDependencyError, WriteError
from jrt.evals import EvalResult, evaluate, load_result, plot, rich_table, to_markdown
from jrt.evals.report import percent
from jrt.evals.statistics import wilson
from jrt.prompts import JRTPrompt, Plan


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> EvalResult:
    folder = tmp_path_factory.mktemp("data")
    write_rows(folder / "squad.jsonl", likes_rows(30))
    write_rows(folder / "nq.jsonl", likes_rows(12))
    methods = ["once", "context_twice", "twice"]
    return evaluate(FakeReader(name="a|b [c]"), ["squad", "nq"], methods, data=folder, command="jrt eval --seed 0")


def cells(markdown: str, first: str) -> list[str]:
    line = next(line for line in markdown.splitlines() if line.startswith(f"| {first} "))
    return [cell.strip() for cell in line.strip("| ").split(" | ")]


def test_the_main_table(result: EvalResult) -> None:
    text = to_markdown(result)
    assert cells(text, "task") == ["task", "items", "once", "context_twice", "twice", "gain [95 %]"]
    once, gain = result.score("squad", "once").contains, result.comparisons[1].difference
    row = cells(text, "squad v1")
    assert row[:2] == ["squad v1", "30"]
    assert row[2] == f"{100 * once.value:.1f} [{100 * once.low:.1f}, {100 * once.high:.1f}]"
    assert row[5] == f"{100 * gain.value:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
    values = [result.score(task, "once").contains.value for task in ("squad", "nq")]
    assert cells(text, "average")[:3] == ["average", "42", f"{50 * sum(values):.1f}"]
    assert "```sh\njrt eval --seed 0\n```" in text and "seed 0" in text and "torch" in text


def test_every_table_row_has_the_cells_of_its_header(result: EvalResult) -> None:
    blocks = [block for block in to_markdown(result).split("\n\n") if block.startswith("| ")]
    assert len(blocks) == 3
    for block in blocks:
        assert len({line.replace("\\|", "").count("|") for line in block.splitlines()}) == 1


def test_one_method_has_no_gain(result: EvalResult, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "squad.jsonl", likes_rows(5))
    alone = evaluate(FakeReader(), ["squad"], ["once"], data=path)
    assert alone.comparisons == [] and "gain" not in to_markdown(alone).lower()
    assert "average" not in to_markdown(alone)


def test_a_task_with_metrics_of_its_own_has_columns_for_them(tmp_path: Path) -> None:
    """BABILong's official rule finds "no" in "know" and reads the first sentence; whole words do not."""
    rows = [
        {"id": str(i), "context": "John left.", "question": "Is Mary here?", "answers": [answer]}
        for i, answer in enumerate(["no", "no", "yes"])
    ]
    data = {
        "babilong": write_rows(tmp_path / "b.jsonl", rows),
        "squad": write_rows(tmp_path / "s.jsonl", likes_rows(3)),
    }

    def answer(plan: Plan, method: JRTPrompt) -> str:
        return " I do not know\n yes" if "Mary" in plan.text else half_right(plan, method)

    tasks, out = ["babilong:task=qa6,length=0", "squad"], tmp_path / "run"
    result = evaluate(FakeReader(answer), tasks, ["once", "twice"], data=data, out=out)
    score = load_result(out).score("babilong:task=qa6,length=0", "once")
    assert (score.scores["official"].value, score.scores["by_words"].value) == (2 / 3, 0)
    assert tuple(score.scores["official"].model_dump().values()) == wilson(2, 3)
    lines = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    own = {line["id"]: line["scores"] for line in lines if line["method"] == "once"}
    assert own["0"] == own["1"] == {"official": 1, "by_words": 0} and own["2"] == {"official": 0, "by_words": 0}
    assert own["row-0"] == {} == result.score("squad", "once").scores
    header, *rows_of = [
        line for line in (out / "report.md").read_text().split("All metrics")[1].splitlines() if "|" in line
    ]
    place = [cell.strip() for cell in header.split("|")].index("official")
    found = {row.split("|")[1].strip(): row.split("|")[place].strip() for row in rows_of}
    assert found["squad"] == "-" and found["babilong:task=qa6,length=0"] == percent(score.scores["official"])


def test_the_terminal_table_shows_names_with_brackets(result: EvalResult) -> None:
    from rich.console import Console

    console = Console(width=100, record=True, file=io.StringIO())
    console.print(rich_table(result))
    text = console.export_text()
    assert "a|b [c]" in text and "context_twice" in text
    assert all(
        word in text
        for word in ("squad v1", "nq v1", "average", f"{100 * result.score('nq', 'once').contains.value:.1f}")
    )
    gain = result.comparisons[-1].difference
    assert f"{100 * gain.value:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]" in text


def test_the_picture(result: EvalResult, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    before = set(sys.modules)
    image = imread(plot(result, tmp_path / "result.png"))
    assert "matplotlib.pyplot" not in set(sys.modules) - before  # nothing global
    assert image.shape[0] > 400 and image.shape[1] > 400
    drawn = {tuple(color) for color in (image[:, :, :3].reshape(-1, 3) * 255).round().astype(int).tolist()}
    assert {(0xB8, 0xBE, 0xC7), (0x7A, 0x9C, 0xC6), (0x1F, 0x5A, 0x99)} <= drawn  # a bar for each of three methods
    with pytest.raises(WriteError, match="could not be written"):
        plot(result, tmp_path / "nowhere" / "result.png")


def test_a_picture_without_matplotlib(result: EvalResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r"just-read-twice\[plot\]"):
        plot(result, tmp_path / "result.png")


def test_loading_what_is_no_result(result: EvalResult, tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match=r"no result .*result\.json"):
        load_result(tmp_path)
    path = tmp_path / "result.json"
    for content, message in [
        (result.to_json()[:500], "Invalid JSON"),
        (json.dumps({**json.loads(result.to_json()), "format_version": 99}), "format_version"),
        (json.dumps({**json.loads(result.to_json()), "more": 1}), "more"),
    ]:
        path.write_text(content)
        with pytest.raises(DataFormatError, match=message):
            load_result(tmp_path)
    path.write_text(result.to_json())
    assert load_result(path) == result
