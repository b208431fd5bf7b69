"""Facts about six places in text that says other things about them: what memory tasks are drawn from.

After the three tasks of arXiv 2304.11062 (section 4): *memorize* (one fact at the start: "Mary went to the garden."),
*detect* (the fact at any place of the text), *reason* (two facts, "The garden is north of the office.", one of which
has to be turned around or not). The question is the end of the text; the answer is one of six places.

What differs from the paper: facts are split into `train` and `heldout` by a stable hash, where a relation and its
reverse count as one; facts may stand at any offset, cut by the border of two segments too; the distractors are varied
sentences that name the places, names, directions and verbs of facts without being facts (or the sentences of a text).

A text is a list of *pieces*: words and marks, each with the space before it, so joining them restores the text and
their number is its length. The same passages train models (`jrt.training.tiny_rmt`) and are the evaluation tasks
`memorize`, `detect` and `reason`. No torch here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations, product
from string import Formatter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from jrt.errors import InvalidOptionError

Split = Literal["train", "heldout"]
Kind = Literal["memorize", "detect", "reason"]
Pairs = Literal["places", "one_place_last", "landmarks"]

FORMS = 4
"""Of questions about a relation."""
HELDOUT_SHARE = 0.2
"""The share of all facts that training never sees."""

PLACES = ("bathroom", "hallway", "garden", "office", "bedroom", "kitchen")
NAMES = ("Mary", "John", "Daniel", "Sandra")
ACTIONS = ("moved", "went", "went back", "journeyed", "travelled")
REVERSE = {"north": "south", "south": "north", "east": "west", "west": "east"}

SLOTS: dict[str, tuple[str, ...]] = {
    "place": PLACES,
    "name": NAMES,
    "action": ACTIONS,
    "direction": tuple(REVERSE),
    "person": ("teacher", "baker", "doctor", "farmer", "sailor", "child", "singer", "neighbour"),
    "thing": ("letter", "lamp", "book", "clock", "chair", "basket", "coat", "key"),
    "adjective": ("quiet", "old", "warm", "dark", "small", "bright", "empty", "new"),
    "town": ("market", "station", "river", "harbour", "forest", "bridge"),
    "time": ("today", "yesterday", "often", "again"),
}
DISTRACTORS = (
    "The {adjective} {thing} stood near the {place}.",
    "A {person} cleaned the {place} {time}.",
    "{name} liked the {adjective} {place}.",
    "{name} spoke to the {person} about the {thing}.",
    "{name} heard that the {place} was {adjective}.",
    "The {place} was {adjective} and {adjective}.",
    "The {person} {action} to the {town} {time}.",
    "The {town} is {direction} of the {town}.",
    "The wind came from the {direction} {time}.",
    "Nobody saw the {thing} in the {place}.",
    "It rained {time}, and the {place} stayed {adjective}.",
    "The road to the {direction} was {adjective}.",
)
"""Sentences without a fact: nobody of `NAMES` moves in them, and no place of `PLACES` lies north of anything."""

_PIECE = re.compile(r"\s*(?:\w+|[^\w\s])")
_SENTENCE = re.compile(r"[^.!?]*[.!?]+[\"'\u201d\u2019)\]]*\s*|[^.!?]+$")


def pieces(text: str) -> list[str]:
    """The words and marks of a text, each with the space before it.

    Example:
        >>> pieces("It rained, again.")
        ['It', ' rained', ',', ' again', '.']
    """
    return _PIECE.findall(text)


@dataclass(frozen=True)
class Fact:
    """One sentence that a question can be about.

    Attributes:
        text: the sentence, as in "Mary went to the garden."
        key: equal for two sentences that say the same; what the split depends on.
        questions: what it answers by itself, with the answers.
    """

    text: str
    key: str
    questions: tuple[tuple[str, str], ...]


def moves(split: Split) -> list[Fact]:
    """The facts of `memorize` and `detect`: who went where. Of every place, the same share is held out."""
    found = []
    for place in PLACES:
        texts = {f"{name} {action} to the {place}.": name for name, action in product(NAMES, ACTIONS)}
        kept = _keys(list(texts), split)
        found += [Fact(text, text, ((f"Where is {texts[text]}?", place),)) for text in texts if text in kept]
    return found


def relations(split: Split) -> list[Fact]:
    """The facts of `reason`: what lies where. A relation and its reverse are in the same split."""
    found = []
    for axis in ("north", "east"):
        kept = _keys([f"{a} {axis} {b}" for a, b in permutations(PLACES, 2)], split)
        found += [fact for fact in _relations(axis, permutations(PLACES, 2)) if fact.key in kept]
    return found


def landmarks() -> list[Fact]:
    """Relations of a place and a town, which no task asks about: more for training to learn what a relation is."""
    pairs = [*product(PLACES, SLOTS["town"]), *product(SLOTS["town"], PLACES)]
    return [fact for axis in ("north", "east") for fact in _relations(axis, pairs)]


def _relations(axis: str, pairs: Iterable[tuple[str, str]]) -> list[Fact]:
    """What lies in a direction of what, and in the opposite one, with the questions in their four forms."""
    found = []
    for (first, second), direction in product(pairs, (axis, REVERSE[axis])):
        key = f"{first} {axis} {second}" if direction == axis else f"{second} {axis} {first}"
        questions = (
            (f"What is {direction} of the {second}?", first),
            (f"What is the {first} {direction} of?", second),
            (f"What is {REVERSE[direction]} of the {first}?", second),
            (f"What is the {second} {REVERSE[direction]} of?", first),
        )
        found.append(Fact(f"The {first} is {direction} of the {second}.", key, questions))
    return found


def related(facts: list[Fact]) -> list[tuple[Fact, ...]]:
    """Pairs of relations with one end in common, in both orders, whose questions have one answer each."""
    ends = [(fact, frozenset(fact.key.split()) - set(REVERSE)) for fact in facts]
    return [(a, b) for (a, left), (b, right) in permutations(ends, 2) if len(left & right) == 1 and not _clash(a, b)]


def _keys(keys: list[str], split: Split) -> set[str]:
    """The keys of a split: of every group, the share with the lowest hashes is held out, on every machine the same."""
    ranked = sorted(keys, key=lambda key: hashlib.sha256(key.encode()).digest())
    count = round(HELDOUT_SHARE * len(ranked))
    return set(ranked[:count] if split == "heldout" else ranked[count:])


def _clash(one: Fact, other: Fact) -> bool:
    """Whether a question would have two answers."""
    asked = dict(other.questions)
    return any(asked.get(question, answer) != answer for question, answer in one.questions)


def _pairs(split: Split, pairs: Pairs) -> list[tuple[Fact, ...]]:
    if pairs == "landmarks":
        towns = landmarks()
        added = {fact.text for fact in towns}
        found = related([*relations(split), *towns])
        return [pair for pair in found if any(fact.text in added for fact in pair)]
    found = related(relations(split))
    if pairs == "places":
        return found
    return [(one, other) for one, other in found if pieces(one.text)[-2] == pieces(other.text)[-2]]


def _about_places(fact: Fact, forms: int) -> list[tuple[str, str]]:
    """Its questions of the first forms whose answers are places."""
    return [(question, answer) for question, answer in fact.questions[:forms] if answer in PLACES]


class Distractors:
    """Sentences in which facts are hidden, as pieces: drawn at random, or a text's own in their order.

    Args:
        text: the text whose sentences to use; None draws from `DISTRACTORS`.
        shortest: sentences with fewer words and marks are left out.

    Raises:
        InvalidOptionError: no sentence is left.
    """

    def __init__(self, text: str | None = None, shortest: int = 1) -> None:
        self.ordered = text is not None
        sentences = _SENTENCE.findall(" ".join(text.split())) if text is not None else _generated()
        split = [
            found for found in (pieces(" " + sentence.strip()) for sentence in sentences) if len(found) >= shortest
        ]
        if not split:
            raise InvalidOptionError(
                f"The text for distractors holds no sentence of {shortest} or more words and marks.",
                "Give a text file with sentences.",
            )
        vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(p for s in split for p in s))}
        self.vocabulary = list(vocabulary)
        self._pieces = np.array([vocabulary[piece] for sentence in split for piece in sentence], dtype=np.int32)
        self._lengths = np.array([len(sentence) for sentence in split], dtype=np.int64)
        self._begins = np.cumsum(self._lengths) - self._lengths

    def draw(self, generator: np.random.Generator, length: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """`length` pieces (indices into `vocabulary`) from the beginning of a sentence, and where sentences begin."""
        count = (
            length // int(self._lengths.min()) + 1 if self.ordered else int(length / self._lengths.mean() * 1.1) + 16
        )
        if self.ordered:
            chosen = (generator.integers(len(self._lengths)) + np.arange(count)) % len(self._lengths)
        else:
            chosen = generator.integers(len(self._lengths), size=count)
        lengths = self._lengths[chosen]
        while lengths.sum() < length:
            chosen = np.concatenate([chosen, chosen])
            lengths = self._lengths[chosen]
        ends = np.cumsum(lengths)
        used = int(np.searchsorted(ends, length)) + 1
        starts = ends[:used] - lengths[:used]
        index = np.repeat(self._begins[chosen[:used]] - starts, lengths[:used]) + np.arange(ends[used - 1])
        return self._pieces[index[:length]], starts


def _generated() -> list[str]:
    """Every sentence of `DISTRACTORS`, the templates in equal shares as far as whole copies go."""
    groups = []
    for template in DISTRACTORS:
        slots = [name for _, name, _, _ in Formatter().parse(template) if name]
        plain = re.sub(r"{\w+}", "{}", template)
        drawn = product(*(SLOTS[slot] for slot in slots))
        groups.append([plain.format(*words) for words in drawn if len(set(words)) == len(words)])
    largest = max(map(len, groups))
    return [sentence for group in groups for sentence in group * (largest // len(group))]


@dataclass(frozen=True)
class Passage:
    """A text with facts in it and a question at its end.

    Attributes:
        pieces: indices into the vocabulary of its `Passages`, (length,); the question is its end.
        question_length: how many pieces the question is.
        question: the question.
        answer: the right place.
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
        pairs: which relations stand together: those of `reason` (`places`); those of them that name one place last
            (`one_place_last`), so that only the directions tell them apart; or those of which one or both are of a
            place and a town (`landmarks`), where questions ask for the place, and with but one form of them there may
            be none.

    Attributes:
        vocabulary: every piece that a passage can hold.

    Example:
        >>> passages = Passages("memorize", "train", Distractors())
        >>> passage = passages.draw(np.random.default_rng(0), 12)
        >>> len(passage.pieces), passage.offsets, passage.answer in PLACES
        (12, (0,), True)
    """

    def __init__(self, kind: Kind, split: Split, distractors: Distractors, *, pairs: Pairs = "places") -> None:
        self.kind, self.distractors = kind, distractors
        if kind != "reason":
            self._groups: list[tuple[Fact, ...]] = [(fact,) for fact in moves(split)]
        else:
            self._groups = _pairs(split, pairs)
        texts = {fact.text for group in self._groups for fact in group}
        texts |= {question for group in self._groups for fact in group for question, _ in fact.questions}
        self._facts = {fact.text: fact for group in self._groups for fact in group}
        split_texts = {text: pieces(" " + text) for text in sorted(texts)}
        known = dict.fromkeys(distractors.vocabulary)
        known.update(dict.fromkeys(piece for found in split_texts.values() for piece in found))
        index = {piece: number for number, piece in enumerate(known)}
        self.vocabulary = list(index)
        self._encoded = {
            text: np.array([index[piece] for piece in found], dtype=np.int32) for text, found in split_texts.items()
        }

    def draw(self, generator: np.random.Generator, length: int, forms: int = FORMS, free: int = 0) -> Passage:
        """A passage of exactly `length` pieces.

        Args:
            generator: draws it.
            length: words and marks, the question included.
            forms: from how many of its questions the one about a relation is drawn: the first repeats the words of
                the fact, the second begins at the other place, the last two turn the direction around.
            free: how many pieces at the end, the question among them, hold no part of a fact.

        Raises:
            InvalidOptionError: facts and question need more, or the drawn fact has no question of these forms.
        """
        group = self._groups[generator.integers(len(self._groups))]
        asked = int(generator.integers(len(group)))
        questions = _about_places(group[asked], forms)
        if not questions:
            raise InvalidOptionError(f"{group[asked].text} has no question of {forms} forms.", "Use two forms or more.")
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
        """Every question that the facts of a passage answer, as pieces, with its answer; all have the same length.

        A text whose end is exchanged for one of them is a passage too.
        """
        facts = [self._facts[text] for text in passage.facts]
        asked = dict(question for fact in facts for question in _about_places(fact, forms))
        return [(self._encoded[question], answer) for question, answer in asked.items()]

    def text(self, pieces: NDArray[np.int32]) -> str:
        """Pieces as text."""
        return "".join(self.vocabulary[piece] for piece in pieces).strip()
