"""Documents that hide one number in sentences about nothing: what `jrt/tiny-infini` is trained and tested on.

The sentences are drawn anew for every document ("A small dog follows the baker near every old bridge."), among them the
five that passkey tests repeat ("The grass is green."). No sentence but the hidden ones holds a number.

No torch here: the same generator feeds the recipe (`jrt.training.tiny_infini`) and the evaluation task `passkey`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Literal

from jrt.errors import InvalidOptionError

Filler = Literal["cycle", "varied"]
"""The sentences around the number: the same five over and over, or random ones."""

STOCK = (
    "The grass is green.",
    "The sky is blue.",
    "The sun is yellow.",
    "Here we go.",
    "There and back again.",
)
QUESTION = "What is the pass key?"
ANSWER_BEGINS = "The pass key is"
TOKEN = r"\w+|[^\w\s]"
"""A word or a mark; a number is cut further, into its first three digits and the other two (see `tokens_of`)."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NOUNS = _words(
    """dog cat tree house river road cloud bird horse farmer baker child teacher garden window table
    boat bridge stone fire lamp train wagon field hill door kettle basket sailor painter"""
)
ADJECTIVES = _words(
    "old small green quiet red bright slow blue tall young happy cold warm grey heavy soft yellow round wild plain"
)
VERBS = _words(
    """follows watches finds passes leaves likes hears helps moves touches holds needs sees carries draws paints cleans
    keeps hides shows"""
)
PLACES = _words("near behind under beside above before after across toward within")
TIMES = _words("today often again slowly always soon twice early late still")
ARTICLES = _words("the a every that")


def hidden(key: str) -> str:
    """The sentences that say the number, twice."""
    return f"The pass key is {key}. Remember it. {key} is the pass key."


def sentence(source: random.Random) -> str:
    """A random sentence; one in ten is of `STOCK`."""
    if source.random() < 0.1:
        return source.choice(STOCK)

    def thing() -> str:
        adjective = f"{source.choice(ADJECTIVES)} " if source.random() < 0.6 else ""
        return f"{source.choice(ARTICLES)} {adjective}{source.choice(NOUNS)}"

    text = f"{thing()} {source.choice(VERBS)} {thing()}"
    if source.random() < 0.4:
        text += f" {source.choice(PLACES)} {thing()}"
    if source.random() < 0.3:
        text += f" {source.choice(TIMES)}"
    return text[0].upper() + text[1:] + "."


def sentences(source: random.Random, filler: Filler) -> Iterator[str]:
    """Sentences without end."""
    if filler == "cycle":
        yield from cycle(STOCK)
    while True:
        yield sentence(source)


def new_key(source: random.Random) -> str:
    """Five digits, the first not 0."""
    return str(source.randint(10_000, 99_999))


def tokens_of(text: str) -> list[str]:
    """Words, marks and newlines of a text, a five-digit number as two pieces: "47192" is "471" and "##92"."""
    found = []
    for token in re.findall(rf"\n|Question:|Answer:|{TOKEN}", text):
        found += [token[:3], f"##{token[3:]}"] if token.isdigit() else [token]
    return found


@dataclass(frozen=True)
class Passkey:
    """A document of a given number of tokens, with its number.

    Attributes:
        tokens: the document, see `tokens_of`.
        key: the number.
        start: the index of the first token that hides it.
        length: how many tokens hide it.
    """

    tokens: list[str]
    key: str
    start: int
    length: int

    def straddles(self, segment_length: int) -> bool:
        """Whether a border of segments cuts the hidden sentences."""
        return self.start // segment_length != (self.start + self.length - 1) // segment_length


def document(source: random.Random, num_tokens: int, depth: float | None = None, filler: Filler = "varied") -> Passkey:
    """A document of exactly `num_tokens` tokens; its last sentence is cut where it does not fit.

    Args:
        source: draws the number, the sentences and, with `depth` None, the place.
        num_tokens: its length.
        depth: where the number is hidden, from 0 (at the beginning) to 1 (at the end), between two sentences.
        filler: the sentences around it.

    Raises:
        InvalidOptionError: the hidden sentences alone are longer.
    """
    key = new_key(source)
    needle = tokens_of(hidden(key))
    room = num_tokens - len(needle)
    if room < 0:
        raise InvalidOptionError(
            f"A document of {num_tokens} tokens was asked for, but the sentences that hide the number have "
            f"{len(needle)}.",
            f"Choose at least {len(needle)}.",
        )
    depth = source.random() if depth is None else depth
    tokens: list[str] = []
    borders = [0]
    for text in sentences(source, filler):
        if len(tokens) >= room:
            break
        tokens += tokens_of(text)
        borders.append(len(tokens))
    borders[-1] = min(borders[-1], room)
    start = borders[round(depth * (len(borders) - 1))]
    return Passkey([*tokens[:start], *needle, *tokens[start:room]], key, start, len(needle))


def words() -> list[str]:
    """Every word and mark of documents and questions but the numbers, in a fixed order: the tokenizer's vocabulary."""
    texts = [*STOCK, hidden("").replace("  ", " "), QUESTION, ANSWER_BEGINS]
    lists = [*ARTICLES, *(article.capitalize() for article in ARTICLES), *NOUNS, *ADJECTIVES, *VERBS, *PLACES, *TIMES]
    return list(dict.fromkeys([*(token for text in texts for token in tokens_of(text)), *lists]))


def number_pieces() -> list[str]:
    """The first three and the last two digits of every number: 100 to 999, ##00 to ##99."""
    return [*(str(first) for first in range(100, 1000)), *(f"##{last:02d}" for last in range(100))]
