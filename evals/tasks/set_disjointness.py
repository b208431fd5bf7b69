"""Set disjointness: which symbol do two lists share (arXiv 2407.05483, section 3)?

The paper's test of what the order of the input costs: a model that reads once has to keep the first list, whichever it
is, and needs memory for the longer one in the worst order; one that reads twice, or reads the prompt non-causally, for
the shorter one. The lists always share exactly one symbol, and that is the answer; a yes or no could be guessed.

The task comes in two forms of the same draw: text that any tokenizer can read, for language models; and token ids
(`set_disjointness_arrays`), the layout of the paper, for `jrt bench synthetics`.
"""

from __future__ import annotations

import random
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from jrt.errors import InvalidOptionError
from jrt.evals.items import Item
from jrt.evals.tasks.base import GeneratedTask
from jrt.prompts import JRTPrompt, Plan, Query

MASK, BEGIN, BETWEEN, END, SPECIAL = 0, 1, 2, 3, 4
"""The paper's special ids (hidden token, begin, between the lists, after them) and how many there are."""


class SetDisjointness(GeneratedTask):
    """Name the one symbol that is in both lists.

    Symbols are written with a fixed number of digits, so no symbol is a part of another.

    Attributes:
        short: symbols in the shorter list.
        long: symbols in the longer list.
        first: which list comes first; None draws it for every item.
        vocab_size: how many symbols there are.
    """

    name = "set_disjointness"
    version = 1
    summary = "the symbol that two lists share, the short or the long list first"

    short: int = Field(default=4, ge=1, strict=True)
    long: int = Field(default=32, ge=1, strict=True)
    first: Literal["short", "long"] | None = None
    vocab_size: int = Field(default=2048, ge=2, strict=True)

    def generate(self, generator: random.Random, name: str) -> Item:
        _check(self.vocab_size, self.short, self.long)
        symbols = self.symbols()
        drawn = generator.sample(symbols, self.short + self.long)
        first = self.first or generator.choice(("short", "long"))
        cut = self.short if first == "short" else self.long
        before, after = drawn[:cut], drawn[cut:]
        shared = generator.choice(before)
        after[generator.randrange(len(after))] = shared
        context = f"First list: {' '.join(before)}. Second list: {' '.join(after)}."
        return Item(name, context, "Which symbol is in both lists?", (shared,), {"first": first})

    def plan(self, item: Item, method: JRTPrompt) -> Plan:
        return method.plan(item.context, Query(item.question, f"{item.question} In both:", joint=" "))

    def symbols(self) -> list[str]:
        """Every symbol, as it is written."""
        width = len(str(self.vocab_size))
        return [f"s{number:0{width}}" for number in range(self.vocab_size)]


def set_disjointness_arrays(
    seed: int, count: int, first: int, second: int, *, vocab_size: int = 2048, num_passes: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids and answers of set disjointness; everything follows from the arguments.

    A row is `BEGIN first... BETWEEN second...`, `num_passes` times, then `END`, where the answer is asked.

    Args:
        seed: of the generator.
        count: rows.
        first: symbols in the list that comes first.
        second: symbols in the other.
        vocab_size: ids, the four special ones included; the paper has 2048.
        num_passes: how often the lists are written.

    Returns:
        Inputs (count, num_passes * (first + second + 2) + 1) and answers (count,).

    Raises:
        InvalidOptionError: there are too few symbols.

    Example:
        >>> inputs, answers = set_disjointness_arrays(0, 1, 4, 16)
        >>> inputs.shape, answers[0] in inputs[0, 1:5], answers[0] in inputs[0, 6:22]
        ((1, 23), True, True)
    """
    _check(vocab_size - SPECIAL, first, second)
    generator, rows = np.random.default_rng([seed, first, second]), np.arange(count)
    # The places of the smallest of random numbers are a draw without replacement.
    drawn = np.argsort(generator.random((count, vocab_size - SPECIAL)), axis=1)[:, : first + second] + SPECIAL
    before, after = drawn[:, :first], drawn[:, first:].copy()
    answers = before[rows, generator.integers(first, size=count)]
    after[rows, generator.integers(second, size=count)] = answers

    def column(token: int) -> NDArray[np.int64]:
        return np.full((count, 1), token)

    document = np.concatenate([column(BEGIN), before, column(BETWEEN), after], axis=1)
    return np.concatenate([document] * num_passes + [column(END)], axis=1), answers


def _check(symbols: int, first: int, second: int) -> None:
    if first + second > symbols or min(first, second) < 1:
        raise InvalidOptionError(
            f"Lists of {first} and {second} different symbols cannot be drawn from {symbols} symbols.",
            "Use lists of 1 or more, shorter lists or a larger vocab_size.",
        )
