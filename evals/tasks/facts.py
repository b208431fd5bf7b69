"""Held-out documents of short facts: what the embedded tiny models are for.

The generator is the one that they were trained with, its held-out half: no fact of these documents was in training, so
an answer has to be read.
"""

from __future__ import annotations

from pydantic import Field

from jrt.evals.items import Item
from jrt.evals.tasks.base import DEFAULT_COUNT, Task
from jrt.training.facts import SUBJECTS, documents


class Facts(Task):
    """Where does Mira live?

    Attributes:
        num_facts: facts in a document, each about somebody else.
    """

    name = "facts"
    version = 1
    summary = "who lives where and likes what: held-out documents for the embedded models"

    num_facts: int = Field(default=16, ge=1, le=len(SUBJECTS), strict=True)

    @property
    def source(self) -> str:
        return "generated"

    def own_items(self, limit: int | None, seed: int) -> list[Item]:
        drawn = documents(seed=seed, count=limit or DEFAULT_COUNT, num_facts=self.num_facts, split="heldout")
        return [Item(item.id, item.context, item.question, item.answers, {"asked": item.asked}) for item in drawn]
