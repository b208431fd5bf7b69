"""Metrics against what the paper's evaluation and SQuAD's script give, and against properties."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jrt.evals.metrics import METRICS, contains, exact_match, f1, first_line, normalise

words = st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1, max_size=20)
ascii_words = st.lists(st.sampled_from(["red", "green", "blue", "1984", "Oslo"]), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("output", "answers", "score"),
    [
        (" C++ and more", ["C++"], 1),
        (" C and more", ["C++"], 0),
        (" it costs $5.00.", ["$5.00"], 1),
        (" it costs $5x00.", ["$5.00"], 0),
        (" (a|b)* matches", ["(A|B)*"], 1),
        (" back\\slash", ["back\\SLASH"], 1),
        (" OSLO", ["Oslo"], 1),
        (" Osl\no", ["Oslo"], 0),
        ("\nOslo", ["Oslo"], 0),
        ("", ["Oslo"], 0),
        (" Paris\nOslo", ["Oslo"], 0),
        (" somewhere in Oslo, Norway", ["Rome", "Oslo"], 1),
        (" Oslostrand", ["Oslo"], 1),  # a substring, not a word
        (" the Beatles", ["Beatles", "The Beatles"], 1),
        (" Beatles", ["The Beatles"], 0),  # articles count
        (" 1,000", ["1000"], 0),  # punctuation counts
        (" Oslo", [], 0),
    ],
)
def test_contains_is_a_literal_substring_of_the_first_line(output: str, answers: list[str], score: int) -> None:
    assert contains(output, answers) == score


@settings(deadline=None, max_examples=200)
@given(words, words, words)
def test_any_answer_is_found_between_any_texts(before: str, answer: str, after: str) -> None:
    assert contains(before + answer + after, ["\0 not there", answer]) == 1
    assert contains("\n" + before + answer + after, [answer]) == 0


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=30), st.text(string.printable.replace("\n", ""), min_size=1, max_size=3))
def test_contains_agrees_with_lower_case_search_on_ascii(output: str, answer: str) -> None:
    ascii_output = "".join(c for c in output if c.isascii())
    assert contains(ascii_output, [answer]) == (answer.lower() in ascii_output.split("\n")[0].lower())


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Cat!", "cat"),
        ("a an the", ""),
        ("U.S.A.", "usa"),
        ("theory of A", "theory of"),
        ("an apple-pie", "applepie"),
    ],
)
def test_normalisation_is_that_of_squad(text: str, normal: str) -> None:
    assert normalise(text) == normal


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing_more_than_articles_that_met(text: str) -> None:
    once = normalise(text)
    assert not set(once) & set(string.punctuation)
    assert normalise(once).split() == [word for word in once.split() if word not in ("a", "an", "the")]


@pytest.mark.parametrize(
    ("output", "answers", "exact", "score"),
    [
        (" The Oslo.", ["oslo"], 1, 1),
        (" in Oslo", ["Oslo"], 0, 2 / 3),
        (" red red blue", ["red blue blue"], 0, 2 / 3),  # counted with repetitions
        (" red", ["green", "red blue"], 0, 2 / 3),
        (" Paris", ["Oslo"], 0, 0),
        (" Oslo", [], 0, 0),
        (" Oslo\nParis", ["Oslo"], 1, 1),
        ("\nOslo", ["Oslo"], 0, 0),
        (" the", ["a"], 1, 1),
        (" x", ["the"], 0, 0),
    ],
)
def test_exact_match_and_f1(output: str, answers: list[str], exact: float, score: float) -> None:
    assert exact_match(output, answers) == exact
    assert f1(output, answers) == pytest.approx(score)


@settings(deadline=None, max_examples=100)
@given(ascii_words, ascii_words)
def test_f1_is_symmetric_bounded_and_one_for_the_same_words(first: list[str], second: list[str]) -> None:
    one, other = " ".join(first), " ".join(second)
    assert f1(one, [other]) == pytest.approx(f1(other, [one]))
    assert 0 <= f1(one, [other]) <= 1
    assert (f1(one, [other]) == 1) == (sorted(one.lower().split()) == sorted(other.lower().split()))
    assert f1(one, [other, one]) == 1


def test_every_metric_reads_the_first_line_only() -> None:
    for metric in METRICS.values():
        assert metric("Oslo\nParis", ["Oslo"]) == 1
        assert metric("Paris\nOslo", ["Oslo"]) == 0
    assert first_line("a\r\nb") == "a\r"
