"""The orders on token ids, and that they say what the orders on text say."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jrt.errors import EmptyInputError, InvalidOptionError
from jrt.methods import parse_method
from jrt.prompts import JRTPrompt, Query, repeat_ids

BOS, SLASH, PLUS = 1, 90, 91
IDS = [BOS, 5, 6, 9]  # context 5 6, question 9

EXPECTED = {
    "once": [BOS, 5, 6, 9],
    "question_first": [BOS, 9, PLUS, 5, 6, 9],
    "twice": [BOS, 9, PLUS, 5, 6, SLASH, 5, 6, 9],
    "context_twice": [BOS, 5, 6, SLASH, 5, 6, 9],
    "repeat": [BOS, 5, 6, 9, SLASH, 5, 6, 9],
    "jrt_prompt:passes=3,order=context_first": [BOS, 5, 6, SLASH, 5, 6, SLASH, 5, 6, 9],
}


def method_of(text: str) -> JRTPrompt:
    method = parse_method(text)
    assert isinstance(method, JRTPrompt)
    return method


@pytest.mark.parametrize("text", EXPECTED)
def test_orders(text: str) -> None:
    given_ids = list(IDS)
    ids = repeat_ids(
        method_of(text), given_ids, context_length=3, num_special=1, separator_ids=[SLASH], joint_ids=(PLUS,)
    )
    assert ids == EXPECTED[text]
    assert given_ids == IDS


def test_repeat_and_once_need_no_boundary() -> None:
    assert repeat_ids(method_of("repeat"), [5, 6, 9]) == [5, 6, 9, 5, 6, 9]
    assert repeat_ids(method_of("once"), [5, 6, 9]) == [5, 6, 9]
    for text in ("twice", "context_twice", "question_first"):
        with pytest.raises(InvalidOptionError, match=r"where the context ends.*context_length.*repeat"):
            repeat_ids(method_of(text), [5, 6, 9])


def test_a_question_of_its_own_for_the_first_reading() -> None:
    ids = repeat_ids(method_of("twice"), IDS, context_length=3, num_special=1, question_ids=[7], joint_ids=[PLUS])
    assert ids == [BOS, 7, PLUS, 5, 6, 5, 6, 9]
    assert repeat_ids(method_of("twice"), [5, 6], context_length=2, joint_ids=[PLUS]) == [5, 6, 5, 6]


@pytest.mark.parametrize(
    ("ids", "context_length", "num_special", "error", "message"),
    [
        ([], None, 0, EmptyInputError, "no tokens"),
        ([1], 1, 1, EmptyInputError, "no tokens"),
        ([1, 2], 1, 1, EmptyInputError, "no context"),
        ([1, 2], 0, 1, EmptyInputError, "no context"),
        ([1, 2], 3, 0, InvalidOptionError, "context_length=3 of a prompt of 2"),
        ([1, 2], -1, 0, InvalidOptionError, "context_length=-1"),
        ([1, 2], 2, 3, InvalidOptionError, "num_special=3"),
    ],
)
def test_boundaries_are_checked(
    ids: list[int], context_length: int | None, num_special: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        repeat_ids(method_of("twice"), ids, context_length=context_length, num_special=num_special)


@settings(deadline=None, max_examples=100)
@given(
    context=st.text("ab", min_size=1, max_size=5),
    question=st.text("xy", min_size=1, max_size=5),
    passes=st.integers(1, 4),
    order=st.sampled_from(["question_first", "context_first", "repeat"]),
    special=st.text("#", max_size=2),
)
def test_ids_say_what_the_text_says(context: str, question: str, passes: int, order: str, special: str) -> None:
    method = JRTPrompt(passes=passes, order=order, separator="/")
    text = method.arrange([context] * passes, Query(question, question, joint="+", cue_joint="")).text
    ids = repeat_ids(
        method,
        [ord(c) for c in special + context + question],
        context_length=len(special + context),
        num_special=len(special),
        separator_ids=[ord("/")],
        joint_ids=[ord("+")],
    )
    assert "".join(map(chr, ids)) == special + text
