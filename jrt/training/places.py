"""Facts about six places: what memory tasks ask for.

After the three tasks of arXiv 2304.11062 (section 4): *memorize* and *detect* ask about one fact, "Mary went to the
garden.", *reason* about one of two, "The garden is north of the office.", that has to be turned around or not. The
answer is one of six places. How facts are hidden in text: `jrt.training.passages`.

What differs from the paper: facts are split into `train` and `heldout` by a stable hash, where a relation and its
reverse count as one. For training alone there are relations of a place and a town, and questions about directions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations, product
from typing import Literal, get_args

Split = Literal["train", "heldout"]
Kind = Literal["memorize", "detect", "reason"]
KINDS: tuple[Kind, ...] = get_args(Kind)

FORMS = 4
"""Of questions about a relation."""
HELDOUT_SHARE = 0.2
"""The share of all facts that training never sees."""

PLACES = ("bathroom", "hallway", "garden", "office", "bedroom", "kitchen")
TOWNS = ("market", "station", "river", "harbour", "forest", "bridge")
NAMES = ("Mary", "John", "Daniel", "Sandra")
ACTIONS = ("moved", "went", "went back", "journeyed", "travelled")
REVERSE = {"north": "south", "south": "north", "east": "west", "west": "east"}


@dataclass(frozen=True)
class Fact:
    """One sentence that a question can be about.

    Attributes:
        text: the sentence, as in "Mary went to the garden."
        key: equal for two sentences that say the same; what the split depends on.
        questions: what it answers by itself, with the answers.
        bearings: questions about the direction itself (recipes say directions), which no task asks: in the words of the
            fact, and turned around.
    """

    text: str
    key: str
    questions: tuple[tuple[str, str], ...]
    bearings: tuple[tuple[str, str], ...] = ()


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
    pairs = [*product(PLACES, TOWNS), *product(TOWNS, PLACES)]
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
        bearings = (
            (f"Locate the {first} from the {second}.", direction),
            (f"Locate the {second} from the {first}.", REVERSE[direction]),
        )
        found.append(Fact(f"The {first} is {direction} of the {second}.", key, questions, bearings))
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


def related_pairs(split: Split, *, with_landmarks: bool) -> list[tuple[Fact, ...]]:
    """Pairs of relations of places, or those in which one relation or both are of a place and a town."""
    if not with_landmarks:
        return related(relations(split))
    towns = landmarks()
    added = {fact.text for fact in towns}
    found = related([*relations(split), *towns])
    return [pair for pair in found if any(fact.text in added for fact in pair)]


def name_one_place(group: tuple[Fact, ...], end: int) -> bool:
    """Whether all name one place first (word 1) or last (word -1), so that only directions tell them apart."""
    return len({fact.text.rstrip(".").split()[end] for fact in group}) == 1
