"""Summaries: ROUGE against values worked out by hand and against a table, rows of files, and a whole run."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from fakes import FakeReader, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from jrt.errors import DataFormatError, HubUnavailableError, InvalidOptionError
from jrt.evals.rouge import FILE, NAMES, common, main, rouge, score_run, words
from jrt.evals.runner import evaluate
from jrt.evals.schema import load_result
from jrt.evals.tasks.registry import parse_task
from jrt.methods import parse_method

WORDS = st.lists(st.sampled_from("abcd"), max_size=12)
ROWS = [
    {"id": "1", "document": "The cat sat on the mat all day.", "summary": "the cat sat"},
    {"document": "A dog ran home.", "summary": ["a dog ran", "the dog went home"]},
]


def table(first: Sequence[str], second: Sequence[str]) -> int:
    """The longest common subsequence by its definition."""
    rows = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            rows[i + 1][j + 1] = rows[i][j] + 1 if one == other else max(rows[i][j + 1], rows[i + 1][j])
    return rows[-1][-1]


def test_rouge_by_hand() -> None:
    """Lin 2004, section 3: the same words in another order are told apart by the longest common subsequence only."""
    assert rouge("Police kill the gunman", ["police killed the gunman."]) == pytest.approx(
        {"rouge_1": 3 / 4, "rouge_2": 1 / 3, "rouge_l": 3 / 4, "overall": (3 / 4 * 1 / 3 * 3 / 4) ** (1 / 3)}
    )
    assert rouge("the gunman kill police", ["police killed the gunman"])["rouge_l"] == pytest.approx(2 / 4)
    # A word said three times counts as often as the right summary has it: 2 x 1 / (3 + 2).
    assert rouge("the the the", ["the cat"])["rouge_1"] == pytest.approx(2 / 5)
    # Two-word runs: (a b), (b c), (c d) against (a b), (b x), (x c), (c d): 2 x 2 / 7.
    assert rouge("a b c d", ["a b x c d"])["rouge_2"] == pytest.approx(4 / 7)
    assert words("Don't: two_words, 3rd Café!") == ["don", "t", "two", "words", "3rd", "café"]


@settings(deadline=None, max_examples=100)
@given(WORDS, WORDS)
def test_rouge_properties(first: list[str], second: list[str]) -> None:
    assert common(first, second) == table(first, second)
    one, other = " ".join(first), " ".join(second)
    scores = rouge(one, [other])
    assert scores == pytest.approx(rouge(other, [one]))
    assert all(0 <= scores[name] <= 1 for name in NAMES)
    assert scores["rouge_l"] <= scores["rouge_1"] + 1e-12
    assert rouge(one, [other, one])["rouge_1"] == (1.0 if first else 0.0)


def test_rows_of_a_file(tmp_path: Path) -> None:
    first, second = parse_task("summarisation").items(path=write_rows(tmp_path / "data.jsonl", ROWS))
    assert (first.id, first.answers) == ("1", ("the cat sat",))
    assert (second.id, second.answers) == ("summarisation-2", ("a dog ran", "the dog went home"))
    text = parse_task("summarisation").plan(first, parse_method("twice")).text
    assert text.count(str(ROWS[0]["document"])) == 2 and text.endswith("\nSummary:")
    assert "the cat sat" not in text
    other = write_rows(tmp_path / "other.jsonl", [{"chapter": "Long text.", "short": "Text."}])
    (item,) = parse_task("summarisation:document_column=chapter,summary_column=short").items(path=other)
    assert (item.context, item.answers) == ("Long text.", ("Text.",))


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="--data summarisation=FILE"):
        parse_task("summarisation").items()
    with pytest.raises(DataFormatError, match=r"line 1: .*columns document; summary is missing"):
        parse_task("summarisation").items(path=write_rows(tmp_path / "data.jsonl", [{"document": "x"}]))
    with pytest.raises(DataFormatError, match="line 1: context is empty"):
        parse_task("summarisation").items(
            path=write_rows(tmp_path / "empty.jsonl", [{"document": " ", "summary": "x"}])
        )


def test_rows_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    class Datasets:
        @staticmethod
        def load_dataset(name: str, split: str) -> list[dict[str, object]]:
            assert (name, split) == ("owner/books", "validation")
            return list(ROWS)

    monkeypatch.setitem(sys.modules, "datasets", Datasets)
    task = parse_task("summarisation:dataset=owner/books,split=validation")
    assert task.source == "hub:owner/books"
    assert [item.id for item in task.items()] == ["summarisation-0", "summarisation-1"]


def test_what_a_file_in_place_of_the_hub_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    class Datasets:
        @staticmethod
        def load_dataset(name: str, split: str) -> list[dict[str, object]]:
            raise OSError("no network")

    monkeypatch.setitem(sys.modules, "datasets", Datasets)
    task = parse_task("summarisation:dataset=owner/books,document_column=book,summary_column=short")
    with pytest.raises(HubUnavailableError, match=r"a local file with book, short: --data summarisation=FILE\.jsonl"):
        task.items()
    with pytest.raises(HubUnavailableError, match="a local file with id, context, question, answers: --data squad="):
        parse_task("squad").items()


def test_a_run_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(plan: object, method: object) -> str:
        twice = getattr(method, "passes", 1) > 1
        return " the cat sat\nand more" if twice else " nothing"

    path = write_rows(tmp_path / "data.jsonl", ROWS[:1])
    out = tmp_path / "run"
    evaluate(FakeReader(answer), "summarisation", "once,twice", data={"summarisation": path}, out=out)  # type: ignore[arg-type]
    for method, value in (("once", 0.0), ("twice", 1.0)):
        score = load_result(out).score("summarisation", method)
        assert {name: interval.value for name, interval in score.scores.items()} == dict.fromkeys(NAMES[:3], value)
        assert all(0 <= interval.low < interval.high <= 1 for interval in score.scores.values())
    once, twice = score_run(out)["scores"]
    assert [once[name]["value"] for name in NAMES[:3]] == [0, 0, 0] and once["overall"] == 0
    assert [twice[name]["value"] for name in NAMES[:3]] == [100, 100, 100] and twice["overall"] == 100
    monkeypatch.setattr(sys, "argv", ["rouge", str(out)])
    main()
    assert json.loads((out / FILE).read_text())["scores"] == [once, twice]
