"""Multi-query associative recall (MQAR, arXiv 2312.04927, section 4): pairs of symbols, then keys to look up.

The task comes in two forms of the same draw: text that any tokenizer can read, one query an item, for language models;
and token ids with labels (`mqar_arrays`) to train and test small models on many queries at once.
"""

from __future__ import annotations

import random

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from jrt.errors import InvalidOptionError
from jrt.evals.items import Item
from jrt.evals.tasks.base import GeneratedTask
from jrt.prompts import JRTPrompt, Plan, Query

IGNORED = -100
"""The label of positions that ask nothing; what torch's cross entropy leaves out by default."""


class MQAR(GeneratedTask):
    """Say the value that followed a key.

    Symbols are written with a fixed number of digits, so no value is a part of another.

    Attributes:
        num_pairs: key-value pairs in the document.
        vocab_size: half of the symbols are keys, half values.
    """

    name = "mqar"
    version = 1
    summary = "the symbol that followed another symbol"

    num_pairs: int = Field(default=32, ge=1, strict=True)
    vocab_size: int = Field(default=8192, ge=4, strict=True)

    def generate(self, generator: random.Random, name: str) -> Item:
        _check(self.vocab_size, self.num_pairs)
        half, width = self.vocab_size // 2, len(str(self.vocab_size))
        keys = [_symbol(key, half, width) for key in generator.sample(range(1, half), self.num_pairs)]
        drawn = generator.sample(range(half, self.vocab_size), self.num_pairs)
        values = [_symbol(value, half, width) for value in drawn]
        asked = generator.randrange(self.num_pairs)
        context = " ".join(f"{key} {value}" for key, value in zip(keys, values, strict=True))
        return Item(name, context, keys[asked], (values[asked],), {"asked": asked})

    def plan(self, item: Item, method: JRTPrompt) -> Plan:
        return method.plan(item.context, Query(f"What follows {item.question}?", item.question, joint=" "))

    def symbols(self) -> list[str]:
        """Every key and value, as it is written."""
        half, width = self.vocab_size // 2, len(str(self.vocab_size))
        return [_symbol(number, half, width) for number in range(1, self.vocab_size)]

    def more_questions(self, item: Item) -> list[tuple[str, str]]:
        """The other keys of an item and their values, the last pair first: a row to train on asks for all of them."""
        words = item.context.split()
        pairs = list(zip(words[::2], words[1::2], strict=True))
        return [(key, value) for key, value in reversed(pairs) if key != item.question]


def mqar_arrays(
    seed: int,
    count: int,
    *,
    num_pairs: int = 8,
    length: int = 64,
    vocab_size: int = 8192,
    power: float = 0.01,
    num_passes: int = 1,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids and labels of MQAR; everything follows from the arguments.

    A row is `k1 v1 k2 v2 ...`, `num_passes` times, then every key once more at a random place, with 0 in between. Gaps
    follow the power law p(x) ~ x^(power - 1), so most queries come soon. The label of a query's own position is the
    key's value; all other labels are `IGNORED`.

    Args:
        seed: of the generator.
        count: rows.
        num_pairs: pairs in a row, with different keys and different values.
        length: tokens of a row.
        vocab_size: keys are ids from 1 to half of it, values from half of it on.
        power: the exponent of the gaps; 1 is uniform.
        num_passes: how often the pairs are written.

    Returns:
        Inputs and labels, (count, length) each.

    Raises:
        InvalidOptionError: the pairs and queries do not fit the length, or there are too few symbols.
    """
    _check(vocab_size, num_pairs)
    start = 2 * num_pairs * num_passes
    slots = (length - start) // 2
    if slots < num_pairs:
        raise InvalidOptionError(
            f"{num_pairs} pairs written {num_passes} times and asked once need {start + 2 * num_pairs} tokens; "
            f"length is {length}.",
            "Use a longer row or fewer pairs.",
        )
    generator, half = np.random.default_rng(seed), vocab_size // 2
    keys = _draws(generator, count, num_pairs, half - 1) + 1
    values = _draws(generator, count, num_pairs, vocab_size - half) + half
    weights = np.arange(1, slots + 1, dtype=np.float64) ** (power - 1)
    # The largest log(u) / weight are draws without replacement in proportion to weight (Efraimidis and Spirakis 2006).
    scores = np.log(generator.random((count, slots))) / weights
    gaps = np.argsort(-scores, axis=1)[:, :num_pairs]
    positions, rows = start + 2 * gaps, np.arange(count)[:, None]
    inputs = np.zeros((count, length), dtype=np.int64)
    labels = np.full((count, length), IGNORED, dtype=np.int64)
    inputs[:, :start] = np.tile(np.stack([keys, values], axis=-1).reshape(count, -1), (1, num_passes))
    inputs[rows, positions] = keys
    labels[rows, positions] = values
    return inputs, labels


def _draws(generator: np.random.Generator, count: int, size: int, high: int) -> NDArray[np.int64]:
    """`size` different numbers below `high` in every one of `count` rows."""
    return np.array([generator.choice(high, size, replace=False) for _ in range(count)], dtype=np.int64)


def _symbol(number: int, half: int, width: int) -> str:
    return f"{'k' if number < half else 'v'}{number:0{width}}"


def _check(vocab_size: int, num_pairs: int) -> None:
    if num_pairs > vocab_size // 2 - 1:
        raise InvalidOptionError(
            f"{num_pairs} pairs need as many keys; a vocabulary of {vocab_size} has {vocab_size // 2 - 1}.",
            "Use fewer pairs or a larger vocab_size.",
        )
