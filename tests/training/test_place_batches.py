"""What the recipe of `jrt/tiny-rmt` draws: texts that answer their questions, of the kinds that a level asks for."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from jrt.errors import InvalidOptionError
from jrt.training.distractors import pieces
from jrt.training.place_batches import ANSWERS, SEGMENT_LENGTH, Drawer, Wanted, _tells
from jrt.training.places import ACTIONS, NAMES, PLACES, REVERSE, TOWNS, moves, relations
from jrt.training.tiny_rmt import build_tokenizer

DRAWN = [
    {},
    {"cut_share": 0.5, "carried_share": 0.8, "shared_share": 0.6, "landmark_share": 0.6},
    {"shared_share": 1.0, "landmark_share": 1.0, "turned": True},
    {"only_directions": True, "one_axis": True, "landmark_share": 0.5},
]


@pytest.mark.parametrize("num_segments", [1, 3])
@pytest.mark.parametrize("wanted", DRAWN)
def test_a_batch_asks_what_its_texts_answer(num_segments: int, wanted: dict[str, Any]) -> None:
    """Every question is solved from the words of its text alone, and has one answer.

    Where it is about a town there is one among the places: distractors speak of two towns.
    """
    tokenizer = build_tokenizer()
    batch = draw(Drawer(tokenizer, "train"), num_segments, **wanted)
    assert batch.before.shape == (9, (num_segments - 1) * SEGMENT_LENGTH)
    assert batch.sizes[:2] == [2, 3] and batch.sizes[3:] == [8]  # both directions of four texts
    assert batch.last.shape == (sum(batch.sizes), SEGMENT_LENGTH)
    for last, row, label in zip(batch.last, batch.rows.tolist(), batch.labels.tolist(), strict=True):
        text = tokenizer.decode(torch.cat([batch.before[row], last]))
        assert tokenizer.unk_token not in text
        assert answers(text) == {ANSWERS[label]}, text
        asked = set(text.split()[-7:]) & set(TOWNS)
        assert not asked or ANSWERS[label] not in TOWNS


def answers(text: str) -> set[str]:
    """What the sentences of a text, each turned around too, answer to the question at its end."""
    if asked := re.search(r"Where is (\w+) \?$", text):
        return set(re.findall(rf"{asked[1]} (?:{'|'.join(ACTIONS)}) to the (\w+) \.", text))
    told = re.findall(rf"The (\w+) is ({'|'.join(REVERSE)}) of the (\w+) \.", text)
    told = [fact for fact in told if not {fact[0], fact[2]} <= set(TOWNS)]  # that is a distractor
    told += [(other, REVERSE[way], one) for one, way, other in told]
    if asked := re.search(r"What is (\w+) of the (\w+) \?$", text):
        return {one for one, way, other in told if (way, other) == asked.groups()}
    if asked := re.search(r"Locate the (\w+) from the (\w+) \.$", text):
        return {way for one, way, other in told if (one, other) == asked.groups()}
    asked = re.search(r"What is the (\w+) (\w+) of \?$", text)
    assert asked, text
    return {other for one, way, other in told if (one, way) == asked.groups()}


def draw(drawer: Drawer, num_segments: int, seed: int = 0, **options: Any) -> Any:
    rows: Any = {"memorize": 2, "detect": 3, "reason": 4}
    unanswerable = options.pop("unanswerable", 0)
    return drawer.draw(np.random.default_rng(seed), rows, num_segments, Wanted(**options), unanswerable=unanswerable)


def test_borders_cut_facts_where_that_is_asked_for() -> None:
    """With every text cut, each of the three about a move has its fact in two neighbouring segments."""
    tokenizer = build_tokenizer()
    drawn = [draw(Drawer(tokenizer, "train"), 7, cut_share=share) for share in (0.0, 1.0)]
    touched = [[(~torch.cat([b.quiet[row], b.settled[row : row + 1]])).sum() for row in range(2, 5)] for b in drawn]
    assert all(count == 2 for count in touched[1]) and any(count == 1 for count in touched[0])


def test_relations_are_cut_where_that_is_asked_for() -> None:
    drawer, generator = Drawer(build_tokenizer(), "train"), np.random.default_rng(0)
    cut = []
    for share in (0.0, 1.0):
        passages = drawer.sources["reason"].passages
        drawn = [drawer._passage(generator, passages, 7, Wanted(cut_share=share), None) for _ in range(20)]
        cut.append([any(len(found) > 1 for found in passage.segments(SEGMENT_LENGTH)) for passage in drawn])
    assert all(cut[1]) and not all(cut[0])


@pytest.mark.parametrize("num_segments", [2, 5])
def test_facts_stand_before_the_last_segment_where_that_is_asked_for(num_segments: int) -> None:
    tokenizer = build_tokenizer()
    for share, cut in ((1.0, 0.0), (1.0, 1.0), (0.0, 0.0)):
        drawer, wanted = Drawer(tokenizer, "train"), {"carried_share": share, "cut_share": cut}
        settled = [bool(draw(drawer, num_segments, seed, **wanted).settled.all()) for seed in range(5)]
        assert all(settled) == (share == 1.0)


def test_shared_places_are_asked_about_where_that_is_asked_for() -> None:
    tokenizer = build_tokenizer()
    batch, axes = draw(Drawer(tokenizer, "train"), 1, shared_share=1.0), set()
    for last in batch.last[5 : sum(batch.sizes[:3])]:
        words = tokenizer.decode(last).split()
        relations = re.findall(r"is (\w+) of the", " ".join(words[:-7]))
        axes.add(len({word in ("north", "south") for word in relations}))
        named = [word for word in words[:-7] if word in PLACES]
        asked = next(word for word in words[-7:] if word in PLACES)
        assert named.count(asked) == 2, words
    assert axes == {1, 2}


@pytest.mark.parametrize("forms", [1, 4])
def test_only_directions_tell_relations_apart_where_that_is_asked_for(forms: int) -> None:
    """Both name the asked place at the same end; either can be the right one."""
    tokenizer, named = build_tokenizer(), "|".join((*PLACES, *TOWNS))
    batch = draw(Drawer(tokenizer, "train"), 1, forms=forms, only_directions=True, landmark_share=0.5)
    answers, ends = set(), set()
    for last, label in zip(batch.last[5:], batch.labels[5 : sum(batch.sizes[:3])].tolist(), strict=False):
        text = tokenizer.decode(last)
        facts = re.findall(rf"The ({named}) is (?:{'|'.join(REVERSE)}) of the ({named}) \.", text)
        asked = set(text.split()[-7:]) & {*PLACES, *TOWNS}
        end = next(end for end in (0, 1) if {fact[end] for fact in facts} == asked)
        answers.add([fact[1 - end] for fact in facts].index(ANSWERS[label]))
        ends.add(end)
    assert answers == {0, 1} and ends == ({1} if forms == 1 else {0, 1})


def test_relations_are_on_one_axis_where_that_is_asked_for() -> None:
    tokenizer = build_tokenizer()
    batch = draw(Drawer(tokenizer, "train"), 1, only_directions=True, one_axis=True)
    for last in batch.last[5:]:
        one, other = re.findall(rf"The \w+ is ({'|'.join(REVERSE)}) of the \w+ \.", tokenizer.decode(last))
        assert REVERSE[one] == other


@pytest.mark.parametrize("turned", [False, True])
def test_directions_are_asked_for_in_the_words_of_relations_or_from_the_shared_place(turned: bool) -> None:
    tokenizer, named = build_tokenizer(), "|".join(PLACES)
    batch, orders = draw(Drawer(tokenizer, "train"), 1, turned=turned), set()
    for last in batch.last[-batch.sizes[3] :]:
        text = tokenizer.decode(last)
        facts = re.findall(rf"The ({named}) is \w+ of the ({named}) \.", text)
        (shared,) = set(facts[0]) & set(facts[1])
        asked = re.findall(rf"Locate the ({named}) from the ({named}) \.$", text)[0]
        assert asked[1] == shared if turned else asked in facts
        orders.add(asked in facts)
    assert orders == ({True, False} if turned else {True})


def test_places_and_towns_lie_beside_each_other_where_that_is_asked_for() -> None:
    """Questions ask for both; nothing of it is a relation that is held out."""
    tokenizer, said = build_tokenizer(), set()
    batch = draw(Drawer(tokenizer, "train"), 1, landmark_share=1.0, shared_share=0.5)
    heldout = {fact.text.replace(".", " .") for fact in relations("heldout")}
    for last, label in zip(batch.last[5:], batch.labels[5:].tolist(), strict=True):
        text = tokenizer.decode(last)
        facts = re.findall(r"The \w+ is \w+ of the \w+ \.", text)
        assert any(set(TOWNS) & set(fact.split()) and set(PLACES) & set(fact.split()) for fact in facts), text
        assert any(ANSWERS[label] in fact for fact in facts) and not heldout & set(facts)
        assert tokenizer.unk_token not in text
        said.add(ANSWERS[label])
    assert all(said & set(words) for words in (PLACES, TOWNS, REVERSE))


@pytest.mark.parametrize(
    ("fact", "beginnings", "ends"),
    [
        ("Mary went to the garden.", {2, 3, 4, 5}, {1, 2, 3, 4}),
        ("The garden is north of the office.", {3, 4, 5, 6, 7}, {1, 2, 3, 4, 5, 6}),
        ("The garden is north of the market.", {3, 4, 5, 6, 7}, {3, 4, 5, 6}),
        ("The market is north of the garden.", {7}, {1, 2, 3, 4}),
    ],
)
def test_how_many_words_of_a_fact_tell_that_it_is_one(fact: str, beginnings: set[int], ends: set[int]) -> None:
    """By how many words stand before the border of two segments."""
    words = [piece.strip() for piece in pieces(fact)]
    told = {inside: _tells(words, inside) for inside in range(1, len(words))}
    assert {inside for inside, (begun, _) in told.items() if begun} == beginnings
    assert {inside for inside, (_, ended) in told.items() if ended} == ends
    assert _tells(words, len(words))[0]


def test_gates_are_told_what_the_words_of_a_segment_tell() -> None:
    """The facts are found again in the text; a name alone, "The garden" alone and a full stop alone tell nothing."""
    tokenizer = build_tokenizer()
    batch = draw(Drawer(tokenizer, "train"), 4, cut_share=1.0)
    places, names, actions, ways = ("|".join(words) for words in (PLACES, NAMES, ACTIONS, REVERSE))
    fact = rf"(?:(?:{names}) (?:{actions}) to the (?:{places})|The (?:{places}) is (?:{ways}) of the (?:{places})) \."
    seen = set()
    for row, ids in enumerate(batch.before):
        text = tokenizer.decode(torch.cat([ids, batch.last[batch.rows == row][0]]))
        clear, touched = [False] * 4, [False] * 4
        for found in re.finditer(fact, text):
            first, words = text[: found.start()].count(" "), found.group().split()
            by_segment = [[word for at, word in enumerate(words, first) if at // SEGMENT_LENGTH == n] for n in range(4)]
            for number, part in enumerate(by_segment):
                touched[number] |= bool(part)
                told = len(part) > (2 if words[0] == "The" else 1) if part[:1] == words[:1] else len(part) > 1
                clear[number] |= told
                seen |= {(bool(part), told)}
        assert clear[:3] == batch.clear[row].tolist() and [not t for t in touched[:3]] == batch.quiet[row].tolist()
    assert seen >= {(True, True), (False, False)}


def test_unanswerable_questions_stand_behind_segments_without_a_fact() -> None:
    tokenizer = build_tokenizer()
    batch = draw(Drawer(tokenizer, "train"), 2, unanswerable=40)
    assert batch.unanswerable.shape == (40, SEGMENT_LENGTH)
    questions = {tuple(last[-7:].tolist()) for last in batch.last[: sum(batch.sizes[:3])]}
    facts = [fact.text for fact in (*moves("train"), *relations("train"))]
    for segment in batch.unanswerable:
        assert "Locate" not in tokenizer.decode(segment)
        ending = tuple(segment[-7:].tolist())
        assert ending in questions or tokenizer.decode(segment[-4:]).startswith("Where is")
        assert not any(fact in tokenizer.decode(segment).replace(" .", ".") for fact in facts)


def test_one_axis_is_about_relations_that_only_directions_tell_apart() -> None:
    with pytest.raises(InvalidOptionError, match="only_directions"):
        Wanted(one_axis=True)
