"""Texts that say something about a place among other things, with a question at the end.

In *memorize* the fact stands at the start, in *detect* and *reason* at any offset, where the border of two segments can
cut it too. The same passages train models (`jrt.training.tiny_rmt`) and are the evaluation tasks `memorize`, `detect`
and `reason`. No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jrt.errors import InvalidOptionError
from jrt.training.distractors import Distractors, pieces
from jrt.training.places import FORMS, PLACES, TOWNS, Fact, Kind, Split, moves, name_one_place, related_pairs


@dataclass(frozen=True)
class Passage:
    """A text with facts in it and a question at its end.

    Attributes:
        pieces: indices into the vocabulary of its `Passages`, (length,); the question is its end.
        question_length: how many pieces the question is.
        question: the question.
        answer: the right place, or town.
        facts: the facts in the order of the text.
        offsets: the piece with which each fact begins.
        asked: which fact the question is about.
    """

    pieces: NDArray[np.int32]
    question_length: int
    question: str
    answer: str
    facts: tuple[str, ...]
    offsets: tuple[int, ...]
    asked: int

    def segments(self, width: int) -> list[range]:
        """The segments, `width` pieces each, that every fact stands in."""
        ends = [offset + len(pieces(fact)) for fact, offset in zip(self.facts, self.offsets, strict=True)]
        return [range(begin // width, (end - 1) // width + 1) for begin, end in zip(self.offsets, ends, strict=True)]


class Passages:
    """Draws passages of one kind and one split.

    Args:
        kind: which task.
        split: which facts.
        distractors: what hides them.
        landmarks: draw pairs in which one relation or both are of a place and a town, instead of those of `reason`.

    Attributes:
        vocabulary: every piece that a passage or a question about it can hold.

    Example:
        >>> passages = Passages("memorize", "train", Distractors())
        >>> passage = passages.draw(np.random.default_rng(0), 12)
        >>> len(passage.pieces), passage.offsets, passage.answer in PLACES
        (12, (0,), True)
    """

    def __init__(self, kind: Kind, split: Split, distractors: Distractors, *, landmarks: bool = False) -> None:
        self.kind, self.distractors = kind, distractors
        if kind != "reason":
            self._groups: list[tuple[Fact, ...]] = [(fact,) for fact in moves(split)]
        else:
            self._groups = related_pairs(split, with_landmarks=landmarks)
        self._alike_last = [group for group in self._groups if name_one_place(group, -1)]
        self._alike = [group for group in self._groups if name_one_place(group, -1) or name_one_place(group, 1)]
        self._facts = {fact.text: fact for group in self._groups for fact in group}
        asked = {question for fact in self._facts.values() for question, _ in (*fact.questions, *fact.bearings)}
        split_texts = {text: pieces(" " + text) for text in sorted(asked | set(self._facts))}
        known = dict.fromkeys(distractors.vocabulary)
        known.update(dict.fromkeys(piece for found in split_texts.values() for piece in found))
        index = {piece: number for number, piece in enumerate(known)}
        self.vocabulary = list(index)
        self._encoded = {
            text: np.array([index[piece] for piece in found], dtype=np.int32) for text, found in split_texts.items()
        }

    def draw(
        self, generator: np.random.Generator, length: int, forms: int = FORMS, free: int = 0, *, alike: bool = False
    ) -> Passage:
        """A passage of exactly `length` pieces.

        Args:
            generator: draws it.
            length: words and marks, the question included.
            forms: from how many of its questions the one about a relation is drawn: the first repeats the words of
                the fact, the second begins at the other place, the last two turn the direction around.
            free: how many pieces at the end, the question among them, hold no part of a fact.
            alike: draw relations that name one place last or, where a question can begin at it, first, so that only
                their directions tell them apart.

        Raises:
            InvalidOptionError: facts and question need more.
        """
        told_apart = self._alike if forms > 1 else self._alike_last
        groups = told_apart if alike else self._groups
        group = groups[generator.integers(len(groups))]
        asked = int(generator.integers(len(group)))
        questions = group[asked].questions[:forms]
        question, answer = questions[generator.integers(len(questions))]
        facts, end = [self._encoded[fact.text] for fact in group], self._encoded[question]
        room = length - len(end) - sum(map(len, facts))
        highest = min(room, length - free - sum(map(len, facts)))
        if highest < 0:
            needed = length - highest
            raise InvalidOptionError(
                f"The facts and the question of {self.kind} need {needed} words and marks; there are {length}.",
                "Use more or longer segments.",
            )
        filler, starts = self.distractors.draw(generator, room + 1)
        if self.kind == "memorize":
            places = [0]
        else:  # the last beginning of a sentence up to a uniform offset
            drawn = np.sort(generator.integers(highest + 1, size=len(facts)))
            places = [int(starts[np.searchsorted(starts, offset, side="right") - 1]) for offset in drawn]
        parts, offsets, before = [], [], 0
        for place, fact in zip(places, facts, strict=True):
            parts += [filler[before:place], fact]
            offsets.append(sum(map(len, parts)) - len(fact))
            before = place
        parts += [filler[before:room], end]
        return Passage(
            np.concatenate(parts), len(end), question, answer, tuple(fact.text for fact in group), tuple(offsets), asked
        )

    def questions(self, passage: Passage, forms: int = FORMS) -> list[tuple[NDArray[np.int32], str]]:
        """Every question but those about directions that the facts of a passage answer, as pieces, with its answer.

        All have the same length.

        A text whose end is exchanged for one of them is a passage too.
        """
        facts = [self._facts[text] for text in passage.facts]
        asked = dict(question for fact in facts for question in fact.questions[:forms])
        return [(self._encoded[question], answer) for question, answer in asked.items()]

    def bearings(self, passage: Passage, *, turned: bool) -> list[tuple[NDArray[np.int32], str]]:
        """The questions about the directions of the two relations of a passage, with the answers; as long as others.

        They are asked in the words of the relations or, if `turned`, from the place that both name.
        """
        found, ending = [], f" {self.shared(passage)}."
        for text in passage.facts:
            in_order, reversed_order = self._facts[text].bearings
            from_shared = in_order[0].endswith(ending)
            question, answer = in_order if from_shared or not turned else reversed_order
            found.append((self._encoded[question], answer))
        return found

    def shared(self, passage: Passage) -> str:
        """The place or town that the two relations of a passage both name."""
        one, other = (set(fact.rstrip(".").split()) & {*PLACES, *TOWNS} for fact in passage.facts)
        (name,) = one & other
        return name

    def text(self, pieces: NDArray[np.int32]) -> str:
        """Pieces as text."""
        return "".join(self.vocabulary[piece] for piece in pieces).strip()
