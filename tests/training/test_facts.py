"""Documents of facts: the same everywhere, honest splits, questions that can be answered."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jrt.errors import InvalidOptionError
from jrt.training.facts import HELDOUT_SHARE, RELATIONS, SUBJECTS, Fact, documents, facts_of, words

SPLITS = ("train", "heldout")
seeds = st.integers(0, 2**31)
sizes = st.integers(1, len(SUBJECTS))
splits = st.sampled_from(SPLITS)


@settings(deadline=None, max_examples=50)
@given(seed=seeds, other=seeds, size=sizes, other_size=sizes)
def test_splits_share_no_fact(seed: int, other: int, size: int, other_size: int) -> None:
    trained = {fact for item in documents(seed, 3, size, "train") for fact in item.facts}
    heldout = {fact for item in documents(other, 3, other_size, "heldout") for fact in item.facts}
    assert trained and heldout and not trained & heldout


@settings(deadline=None, max_examples=50)
@given(seed=seeds, size=sizes, split=splits)
def test_the_question_asks_for_a_fact_of_the_document(seed: int, size: int, split: str) -> None:
    for item in documents(seed, 2, size, split):  # type: ignore[arg-type]
        asked = item.facts[item.asked]
        assert len(item.facts) == size == len({fact.subject for fact in item.facts})
        assert len({fact.relation for fact in item.facts}) == 1
        assert item.context == " ".join(fact.sentence for fact in item.facts)
        assert item.answers == (asked.value,)
        assert item.question == RELATIONS[asked.relation].question.format(subject=asked.subject)
        assert set(item.context.replace(".", " .").split()) <= set(words())
        assert set(item.question.replace("?", " ?").split()) <= set(words())


@settings(deadline=None, max_examples=25)
@given(seed=seeds, size=sizes, split=splits, count=st.integers(1, 6))
def test_an_item_does_not_depend_on_how_many_are_drawn(seed: int, size: int, split: str, count: int) -> None:
    assert list(documents(seed, count, size, split)) == list(documents(seed, 9, size, split))[:count]  # type: ignore[arg-type]


def test_another_seed_gives_other_documents() -> None:
    first, second = ([item.context for item in documents(seed, 20, 4, "heldout")] for seed in (0, 1))
    assert not set(first) & set(second)


def test_items_are_the_same_in_another_process_and_no_torch_is_loaded() -> None:
    code = (
        "import sys; from jrt.training.facts import documents\n"
        "print([item.context for item in documents(3, 5, 7, 'heldout')]); assert 'torch' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == repr([item.context for item in documents(3, 5, 7, "heldout")])


def test_every_subject_and_relation_has_facts_in_both_splits_and_the_share_is_right() -> None:
    sizes_by_split = {
        split: [len(facts_of(split, subject, relation)) for subject in SUBJECTS for relation in RELATIONS]  # type: ignore[arg-type]
        for split in SPLITS
    }
    assert all(min(counts) >= 1 for counts in sizes_by_split.values())
    heldout, trained = sum(sizes_by_split["heldout"]), sum(sizes_by_split["train"])
    assert heldout + trained == len(SUBJECTS) * sum(len(relation.values) for relation in RELATIONS.values())
    assert abs(heldout / (heldout + trained) - HELDOUT_SHARE) < 0.02


def test_the_split_of_a_fact_is_fixed_for_ever() -> None:
    """Worked out with sha256sum: `printf 'Mira|home|Oslo' | sha256sum`; held out below 0x40000000."""
    assert Fact("Mira", "home", "Oslo").split == "train"
    assert Fact("Mira", "home", "Lima").split == "heldout"


def test_no_word_hides_in_another_so_that_contains_is_fair() -> None:
    values = [value for relation in RELATIONS.values() for value in relation.values]
    everything = [*values, *SUBJECTS]
    assert len(set(everything)) == len(everything)
    assert not [(a, b) for a in values for b in everything if a != b and a.lower() in b.lower()]


@pytest.mark.parametrize("size", [0, -1, len(SUBJECTS) + 1])
def test_an_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(InvalidOptionError, match=f"{size} facts"):
        next(documents(0, 1, size, "train"))


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="'test'"):
        next(documents(0, 1, 4, "test"))  # type: ignore[arg-type]
