"""Which columns place the window, which answers are right, and that a cut row still asks its question."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from jrt.errors import DataFormatError, InvalidOptionError, UnknownNameError
from jrt.prompts import JRTPrompt, cut_row, document_column, labels, render, window_answers

FILLER = "abcdefghij" * 10
LONG = f"{FILLER[:60]}KEY{FILLER[:20]}GOLD{FILLER[:80]}ALT{FILLER}"
PUBLISHED: dict[str, dict[str, Any]] = {
    "fda": {"key": "key", "value": "gold", "text": LONG},
    "swde": {"key": "key", "value": "gold", "text": LONG},
    "squad": {"text": LONG + " It is", "value": "gold", "context": LONG, "question": "What?"},
    "nq": {"context": LONG, "question": "It is", "orig_question": "what", "answers": ["gold", "more"]},
    "drop": {"context": LONG, "question": "It is", "orig_question": "what", "answers": ["gold", "more"]},
    "triviaqa": {"context": LONG, "question": "It is", "orig_question": "what", "answers": ["gold", "more"]},
}
LOCAL = {"id": "7", "context": LONG, "question": "Key:", "answers": ["gold", "more"]}


def cut(task: str, row: dict[str, Any], rule: Any = "compat", width: int = 40) -> dict[str, Any] | None:
    return cut_row(task, row, rule=rule, encode=list, decode="".join, context_length=width + 8, answer_length=8)


@pytest.mark.parametrize("task", PUBLISHED)
def test_fields_of_the_published_rows(task: str) -> None:
    row = PUBLISHED[task]
    assert document_column(task, row) == ("text" if task in ("fda", "swde", "squad") else "context")
    assert labels(task, row) == (("gold",) if "value" in row else ("gold", "more"))
    expected = {"fda": ("key", "gold"), "swde": ("key", "gold"), "squad": ("gold",), "nq": ("gold",)}
    assert window_answers(task, row) == expected.get(task, ())


@pytest.mark.parametrize("task", PUBLISHED)
def test_fields_of_local_rows(task: str) -> None:
    assert document_column(task, LOCAL) == "context"
    assert labels(task, LOCAL) == ("gold", "more")
    expected = {"fda": ("Key", "gold"), "swde": ("Key", "gold"), "squad": ("gold",), "nq": ("gold",)}
    assert window_answers(task, LOCAL) == expected.get(task, ())
    assert window_answers("fda", {**LOCAL, "question": "Which?"}) == ("gold",)


# where "KEY" and "GOLD" start in LONG
KEY, GOLD = 60, 83
STARTS = {"fda": KEY - 20, "swde": KEY - 20, "squad": GOLD - 20, "nq": GOLD - 20, "drop": 0, "triviaqa": 0}


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("task", PUBLISHED)
def test_compat_places_the_window_as_the_table_says(task: str, local: bool) -> None:
    row = LOCAL if local else PUBLISHED[task]
    before = copy.deepcopy(row)
    column, short = document_column(task, row), cut(task, row)
    assert short is not None
    assert short == {**row, column: LONG[STARTS[task] : STARTS[task] + 40]}
    assert row == before


def test_nq_falls_back_to_alternatives_and_then_to_the_token_position() -> None:
    row = PUBLISHED["nq"] | {"answers": ["none"], "alt_answers": ["nor this", "alt"], "tok_pos": 30}
    short = cut("nq", row)
    assert short is not None and short["context"][20:23] == "ALT"
    short = cut("nq", row | {"alt_answers": None})
    assert short is not None and short["context"] == LONG[10:50]
    short = cut("drop", row | {"answers": ["none"]})
    assert short is not None and short["context"] == LONG[:40]


def test_rows_that_the_released_evaluation_drops() -> None:
    assert cut("fda", PUBLISHED["fda"] | {"value": "5"}) is None
    assert cut("swde", PUBLISHED["swde"] | {"key": "k"}) is None
    assert cut("nq", PUBLISHED["nq"] | {"answers": ["5"]}) is None
    assert cut("drop", PUBLISHED["drop"] | {"answers": ["5"]}) is not None
    assert cut("fda", PUBLISHED["fda"] | {"value": "5"}, "strict") is not None


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("task", PUBLISHED)
def test_strict_keeps_the_answer_and_the_question(task: str, local: bool) -> None:
    row = LOCAL if local else PUBLISHED[task]
    short = cut(task, row, "strict")
    assert short is not None
    for method in (JRTPrompt(passes=1), JRTPrompt(passes=2)):
        plan = render(task, short, method)
        assert plan.text.count("GOLD") == method.passes
        assert plan.suffix == render(task, row, method).suffix
    contexts = [part.text for part in plan.parts if part.role == "context"]
    assert all(40 <= len(context) <= 41 for context in contexts), "40 characters and the full stop of the template"


def test_strict_refuses_to_lose_the_question_of_squad() -> None:
    with pytest.raises(DataFormatError, match="may cut off the question"):
        cut("squad", PUBLISHED["squad"] | {"context": "something else"}, "strict")


def test_what_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="'drop'"):
        cut("dropp", LOCAL)
    with pytest.raises(InvalidOptionError, match="no window rule 'head'"):
        cut("drop", LOCAL, "head")
    with pytest.raises(InvalidOptionError, match="holds nothing"):
        cut("drop", LOCAL, width=0)
    for answers in (None, [], [5]):
        with pytest.raises(DataFormatError, match="Row '7' of task 'nq' has no answers"):
            labels("nq", LOCAL | {"answers": answers})
    assert labels("nq", LOCAL | {"answers": "gold"}) == ("gold",)
