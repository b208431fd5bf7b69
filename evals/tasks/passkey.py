"""Passkey retrieval: one number hidden in sentences that say nothing (arXiv 2305.16300, section 4.2)."""

from __future__ import annotations

import random
from itertools import cycle

from pydantic import Field

from jrt.evals.items import Item
from jrt.evals.tasks.base import GeneratedTask
from jrt.prompts import JRTPrompt, Plan, Query

FILLER = (
    "The grass is green.",
    "The sky is blue.",
    "The sun is yellow.",
    "Here we go.",
    "There and back again.",
)


class Passkey(GeneratedTask):
    """Find a five-digit number in a text without meaning.

    Attributes:
        num_words: the length of the document in words, to within one sentence.
        depth: where the number stands, from 0 (at the beginning) to 1 (at the end); None draws it for every item.
    """

    name = "passkey"
    version = 1
    summary = "a number hidden in a text without meaning"

    num_words: int = Field(default=400, ge=20, strict=True)
    depth: float | None = Field(default=None, ge=0, le=1)

    def generate(self, generator: random.Random, name: str) -> Item:
        key = str(generator.randint(10_000, 99_999))
        depth = generator.random() if self.depth is None else self.depth
        hidden = f"The pass key is {key}. Remember it. {key} is the pass key."
        sentences, room = [], self.num_words - len(hidden.split())
        for sentence in cycle(FILLER):
            room -= len(sentence.split())
            if room < 0:
                break
            sentences.append(sentence)
        sentences.insert(round(depth * len(sentences)), hidden)
        return Item(name, " ".join(sentences), "What is the pass key?", (key,), {"depth": depth})

    def plan(self, item: Item, method: JRTPrompt) -> Plan:
        return method.plan(item.context, Query(item.question, f"{item.question} The pass key is", joint="\n"))
