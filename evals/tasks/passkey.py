"""Passkey retrieval: one number hidden in sentences that say nothing (arXiv 2305.16300, section 4.2)."""

from __future__ import annotations

import random

from pydantic import Field

from jrt.evals.items import Item
from jrt.evals.tasks.base import GeneratedTask
from jrt.prompts import JRTPrompt, Plan, Query
from jrt.training.passkeys import ANSWER_BEGINS, QUESTION, Filler, hidden, new_key, sentences


class Passkey(GeneratedTask):
    """Find a five-digit number in a text without meaning.

    Attributes:
        num_words: the length of the document in words, to within one sentence.
        depth: where the number stands, from 0 (at the beginning) to 1 (at the end); None draws it for every item.
        filler: what stands around it: "cycle", the same five sentences over and over, or "varied", random ones.
    """

    name = "passkey"
    version = 1
    summary = "a number hidden in a text without meaning"

    num_words: int = Field(default=400, ge=20, strict=True)
    depth: float | None = Field(default=None, ge=0, le=1)
    filler: Filler = "cycle"

    def generate(self, generator: random.Random, name: str) -> Item:
        key = new_key(generator)
        depth = generator.random() if self.depth is None else self.depth
        needle = hidden(key)
        found, room = [], self.num_words - len(needle.split())
        for sentence in sentences(generator, self.filler):
            room -= len(sentence.split())
            if room < 0:
                break
            found.append(sentence)
        found.insert(round(depth * len(found)), needle)
        return Item(name, " ".join(found), QUESTION, (key,), {"depth": depth})

    def plan(self, item: Item, method: JRTPrompt) -> Plan:
        return method.plan(item.context, Query(item.question, f"{item.question} {ANSWER_BEGINS}", joint="\n"))
