"""The window rules: closed forms for an answer in the head, middle or tail, absent, and of one character."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jrt.errors import InvalidOptionError
from jrt.prompts import compat_window, strict_window

WORDS = [f"w{number}" for number in range(100)]


def encode(text: str) -> list[int]:
    """Every word is a token; its id is its place in `VOCABULARY`."""
    return [VOCABULARY.setdefault(word, len(VOCABULARY)) for word in text.split()]


def decode(ids: list[int]) -> str:
    names = {number: word for word, number in VOCABULARY.items()}
    return " ".join(names[number] for number in ids)


VOCABULARY: dict[str, int] = {}
DOCUMENT = " ".join(WORDS)


def document_with(answer: str, place: int) -> str:
    return " ".join([*WORDS[:place], answer, *WORDS[place:]])


def words(start: int, end: int, answer: str, place: int) -> str:
    return " ".join(document_with(answer, place).split()[start:end])


# place of the answer, then start and end of the compat window and of the strict window, at width 20 of 101 tokens
PLACES = [
    pytest.param(0, (0, 20), (0, 20), id="first"),
    pytest.param(9, (0, 20), (0, 20), id="head"),
    pytest.param(50, (40, 60), (40, 60), id="middle"),
    pytest.param(95, (85, 101), (81, 101), id="tail: compat is not moved left to fill"),
    pytest.param(100, (90, 101), (81, 101), id="last"),
]


@pytest.mark.parametrize(("place", "compat", "strict"), PLACES)
def test_answer_found(place: int, compat: tuple[int, int], strict: tuple[int, int]) -> None:
    text = document_with("GOLD", place)
    window = compat_window(f"  {text}\n", ["gold"], encode=encode, decode=decode, width=20)
    assert window is not None and window.found
    assert (window.start, window.end) == compat
    assert window.text == words(*compat, "GOLD", place)
    window = strict_window(text, ["gold"], encode=encode, decode=decode, width=20)
    assert (window.start, window.end, window.found) == (*strict, True)
    assert window.text == words(*strict, "GOLD", place)


def test_absent_answer_is_the_tail_in_compat_and_the_head_in_strict() -> None:
    window = compat_window(DOCUMENT, ["gold"], encode=encode, decode=decode, width=20)
    assert window is not None and not window.found
    # the document without its last character still has 100 tokens, so the window is the last 10
    assert (window.start, window.end) == (90, 100)
    strict = strict_window(DOCUMENT, ["gold"], encode=encode, decode=decode, width=20)
    assert (strict.start, strict.end, strict.found) == (0, 20, False)


def test_absent_answer_with_a_token_position() -> None:
    def window(document: str, position: int) -> tuple[int, int]:
        found = compat_window(
            document, ["gold"], encode=encode, decode=decode, width=20, token_position=position, alternatives=["none"]
        )
        assert found is not None
        return found.start, found.end

    assert window(DOCUMENT, 30) == (20, 40)
    short = " ".join(WORDS[:20])  # not longer than the window: the position does not count
    assert window(short, 3) == (10, 20)
    assert window(" ".join(WORDS[:21]), 3) == (0, 20)


@pytest.mark.parametrize("answer", ["", "x"])
def test_one_character_drops_the_document_in_compat_only(answer: str) -> None:
    assert compat_window("x y z", ["gold", answer], encode=encode, decode=decode, width=2) is None
    assert strict_window("x y z", [answer], encode=encode, decode=decode, width=2).text == "x y"


def test_nothing_to_look_for_is_the_head() -> None:
    window = compat_window(DOCUMENT, [], encode=encode, decode=decode, width=20)
    assert window is not None and (window.start, window.end) == (0, 20)
    assert strict_window(DOCUMENT, [], encode=encode, decode=decode, width=20).start == 0


def test_compat_takes_the_earliest_answer_and_strict_the_most_important() -> None:
    window = compat_window(DOCUMENT, ["w70", "w40"], encode=encode, decode=decode, width=20)
    assert window is not None and window.start == 30
    assert strict_window(DOCUMENT, ["w70", "w40"], encode=encode, decode=decode, width=20).start == 60


def test_alternatives_count_in_their_order() -> None:
    def start(answers: list[str], alternatives: list[str]) -> int:
        window = compat_window(DOCUMENT, answers, encode=encode, decode=decode, width=20, alternatives=alternatives)
        assert window is not None
        return window.start

    assert start(["gold"], ["none", "w70", "w40"]) == 60
    assert start(["w50"], ["w40"]) == 40


def test_answers_are_literal_and_regular_expressions_are_not_meant() -> None:
    text = document_with("C++ ($5.00)", 50)
    window = strict_window(text, ["c++ ($5.00)"], encode=encode, decode=decode, width=10)
    assert window.found and "C++ ($5.00)" in window.text


def test_special_tokens_of_the_tokenizer_move_the_compat_window() -> None:
    def with_bos(text: str) -> list[int]:
        return [-1, *encode(text)]

    def without_bos(ids: list[int]) -> str:
        return decode([token for token in ids if token >= 0])

    window = compat_window(DOCUMENT, ["w50"], encode=with_bos, decode=without_bos, width=20)
    assert window is not None and (window.start, window.end) == (41, 61)
    assert window.text == " ".join(WORDS[40:60])


def test_no_room_is_refused() -> None:
    for rule in (compat_window, strict_window):
        with pytest.raises(InvalidOptionError, match="-2 tokens"):
            rule("text", ["text"], encode=encode, decode=decode, width=-2)


def test_tokens_that_depend_on_what_follows() -> None:
    def merging(text: str) -> list[str]:
        return re.findall(r"GD(?!E)|DE|.", text)  # "GD" alone is one token; in "GDE" it is a token and a half

    text = "a" * 30 + "XXXXXGDE" + "b" * 30
    assert "XXXXXGD" in strict_window(text, ["XXXXXGD"], encode=merging, decode="".join, width=8).text


def characters(text: str) -> list[str]:
    return list(text)


def triples(text: str) -> list[str]:
    """Tokens that cross the answer's boundaries, as those of a real vocabulary do."""
    return re.findall(r"(?s).{1,3}", text)


def test_a_window_of_the_one_token_that_holds_the_answer() -> None:
    assert strict_window("aaaaXaaaa", ["X"], encode=triples, decode="".join, width=1).text == "aXa"


@settings(deadline=None, max_examples=200)
@given(
    before=st.text("ab ", max_size=60),
    answer=st.text("XYZ", min_size=1, max_size=8),
    after=st.text("ab ", max_size=60),
    width=st.integers(1, 50),
)
def test_strict_keeps_the_answer_and_fills_the_window(before: str, answer: str, after: str, width: int) -> None:
    text = (before + answer + after).strip()
    window = strict_window(text, [answer.lower()], encode=characters, decode="".join, width=width)
    assert len(window.text) == min(width, len(text)) == window.end - window.start
    assert window.text == text[window.start : window.end]
    if len(answer) <= width:
        assert answer in window.text
    else:
        assert window.text == answer[:width]
    window = strict_window(text, [answer], encode=triples, decode="".join, width=width)
    place = text.index(answer)
    if width >= -(-(place + len(answer)) // 3) - place // 3:  # the tokens that hold the answer, whole
        assert answer in window.text
    assert window.end - window.start == min(width, len(triples(text)))


@settings(deadline=None, max_examples=200)
@given(
    text=st.text("ab X", max_size=60).map(str.strip),
    answers=st.lists(st.text("abX", min_size=2, max_size=4), max_size=2),
    width=st.integers(1, 30),
)
def test_compat_window_has_the_published_shape(text: str, answers: list[str], width: int) -> None:
    window = compat_window(text, answers, encode=characters, decode="".join, width=width)
    assert window is not None
    places = [text.lower().find(answer.lower()) for answer in answers if answer.lower() in text.lower()]
    place = min(places, default=0 if not answers else max(len(text) - 1, 0))
    assert window.start == max(0, place - width // 2)
    assert window.text == text[window.start : window.start + width]
