"""Set disjointness and multi-pass MQAR: arrays against the paper's description, and the text by the same rules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jrt.errors import InvalidOptionError
from jrt.evals.tasks.mqar import mqar_arrays
from jrt.evals.tasks.registry import parse_task
from jrt.evals.tasks.set_disjointness import BEGIN, BETWEEN, END, SPECIAL, set_disjointness_arrays


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3), st.integers(0, 99), st.integers(0, 5))
def test_arrays(first: int, second: int, passes: int, seed: int, spare: int) -> None:
    vocab_size = SPECIAL + first + second + spare
    inputs, answers = set_disjointness_arrays(seed, 8, first, second, vocab_size=vocab_size, num_passes=passes)
    length = first + second + 2
    assert inputs.shape == (8, passes * length + 1) and answers.shape == (8,)
    assert (inputs[:, -1] == END).all()
    for turn in range(passes):
        assert np.array_equal(inputs[:, turn * length : (turn + 1) * length], inputs[:, :length])
    assert (inputs[:, 0] == BEGIN).all() and (inputs[:, first + 1] == BETWEEN).all()
    for row, answer in zip(inputs, answers, strict=True):
        before, after = row[1 : first + 1], row[first + 2 : length]
        assert len(set(before)) == first and len(set(after)) == second
        assert set(before) & set(after) == {answer}
        assert min(before.min(), after.min()) >= SPECIAL and max(before.max(), after.max()) < vocab_size
    again, _ = set_disjointness_arrays(seed, 8, first, second, vocab_size=vocab_size, num_passes=passes)
    assert np.array_equal(again, inputs)


def test_shared_symbols_are_drawn_evenly() -> None:
    """Every symbol is the answer equally often, and so is every place in both lists: nothing to guess from."""
    inputs, answers = set_disjointness_arrays(0, 20_000, 4, 8, vocab_size=SPECIAL + 20)
    symbols = np.bincount(answers - SPECIAL, minlength=20)
    places = [
        np.bincount((inputs[:, 1:5] == answers[:, None]).argmax(1), minlength=4),
        np.bincount((inputs[:, 6:14] == answers[:, None]).argmax(1), minlength=8),
    ]
    for counts in (symbols, *places):
        expected = counts.sum() / len(counts)
        assert ((counts - expected) ** 2 / expected).sum() < 3 * len(counts)


@pytest.mark.parametrize("first", ["short", "long", None])
def test_text(first: str | None) -> None:
    options = "" if first is None else f",first={first}"
    seen = set()
    for item in parse_task(f"set_disjointness:short=3,long=7,vocab_size=40{options}").items(limit=40):
        lists = [part.partition(":")[2].split() for part in item.context.rstrip(".").split(". ")]
        assert set(lists[0]) & set(lists[1]) == {item.answers[0]}
        shorter = "short" if len(lists[0]) == 3 else "long"
        assert {len(lists[0]), len(lists[1])} == {3, 7} and item.extras["first"] == shorter
        seen.add(shorter)
    assert seen == ({"short", "long"} if first is None else {first})


def test_refusals() -> None:
    with pytest.raises(InvalidOptionError, match="Lists of 4 and 5 different symbols cannot be drawn from 8"):
        set_disjointness_arrays(0, 1, 4, 5, vocab_size=SPECIAL + 8)
    with pytest.raises(InvalidOptionError, match=r"Lists of 4 and 32 .* from 20 symbols"):
        parse_task("set_disjointness:vocab_size=20").items()
    with pytest.raises(InvalidOptionError, match="set_disjointness:first='both'"):
        parse_task("set_disjointness:first=both")


def test_passes_of_mqar_repeat_the_pairs_and_ask_the_same() -> None:
    """What a prompt read twice is: the same pairs again, and only then the questions."""
    once, asked = mqar_arrays(5, 16, num_pairs=4, length=40, vocab_size=64, num_passes=1)
    twice, asked_later = mqar_arrays(5, 16, num_pairs=4, length=48, vocab_size=64, num_passes=2)
    assert np.array_equal(twice[:, :8], once[:, :8]) and np.array_equal(twice[:, 8:16], once[:, :8])
    assert (asked_later[:, :16] == -100).all() and ((asked_later != -100).sum(1) == 4).all()
    pairs = [dict(zip(row[:8:2], row[1:8:2], strict=True)) for row in once]
    for row, labels, known in zip(twice, asked_later, pairs, strict=True):
        assert all(known[row[place]] == labels[place] for place in np.flatnonzero(labels != -100))
    assert np.array_equal(np.sort(asked[asked != -100]), np.sort(asked_later[asked_later != -100]))
