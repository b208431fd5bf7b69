"""Sentences that facts are hidden in: generated ones, or those of a text.

Generated sentences are varied, and name the places, names, directions and verbs of facts without being facts. A text is
a list of *pieces*: words and marks, each with the space before it, so joining them restores the text and their number
is its length.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import product
from pathlib import Path
from string import Formatter

import numpy as np
from numpy.typing import NDArray

from jrt.errors import InvalidOptionError
from jrt.text_files import read_text
from jrt.training.places import ACTIONS, NAMES, PLACES, REVERSE, TOWNS

SLOTS: dict[str, tuple[str, ...]] = {
    "place": PLACES,
    "name": NAMES,
    "action": ACTIONS,
    "direction": tuple(REVERSE),
    "person": ("teacher", "baker", "doctor", "farmer", "sailor", "child", "singer", "neighbour"),
    "thing": ("letter", "lamp", "book", "clock", "chair", "basket", "coat", "key"),
    "adjective": ("quiet", "old", "warm", "dark", "small", "bright", "empty", "new"),
    "town": TOWNS,
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
"""Sentences without a fact: nobody of `NAMES` moves in them, and no place of `PLACES` lies north of anything.
What they say of two towns is never the answer: a question about a town is answered with a place."""

_PIECE = re.compile(r"\s*(?:\w+|[^\w\s])")
_SENTENCE = re.compile(r"[^.!?]*[.!?]+[\"'\u201d\u2019)\]]*\s*|[^.!?]+$")


def pieces(text: str) -> list[str]:
    """The words and marks of a text, each with the space before it.

    Example:
        >>> pieces("It rained, again.")
        ['It', ' rained', ',', ' again', '.']
    """
    return _PIECE.findall(text)


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


@cache
def distractors_of(text: str | None, shortest: int = 1) -> Distractors:
    """The sentences of a text file, which is read once; generated ones, of any length, where there is none.

    Args:
        text: the file.
        shortest: sentences of it with fewer words and marks are left out.

    Raises:
        InputNotFoundError: there is no such file.
        DataFormatError: it is no UTF-8 text.
        InvalidOptionError: no sentence is left.
    """
    return Distractors() if text is None else Distractors(read_text(Path(text)), shortest)


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
