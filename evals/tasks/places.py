"""What `memorize`, `detect` and `reason` have in common: passages of facts about six places as items.

The generator is the one that the embedded memory model is trained with (`jrt.training.passages`); here it draws
held-out facts unless told otherwise.
"""

from __future__ import annotations

import random
from functools import cache
from typing import ClassVar

import numpy as np
from pydantic import Field

from jrt.evals.items import Item
from jrt.evals.tasks.base import GeneratedTask
from jrt.training.distractors import distractors_of
from jrt.training.passages import Passage, Passages
from jrt.training.places import PLACES, Kind, Split


class PlacesTask(GeneratedTask):
    """A task of arXiv 2304.11062, section 4.

    Document and question together are `num_segments * segment_length` words and marks; a length in tokens is
    `num_segments=1,segment_length=TOKENS`.

    Attributes:
        num_segments: how long the text is, in segments.
        segment_length: words and marks in a segment.
        split: which facts; `train` are those that the embedded models were trained with.
        text: a text file to hide the facts in; None hides them in generated sentences.
    """

    kind: ClassVar[Kind]

    num_segments: int = Field(default=4, ge=1, strict=True)
    segment_length: int = Field(default=499, ge=1, strict=True)
    split: Split = "heldout"
    text: str | None = None

    @staticmethod
    def classes() -> tuple[str, ...]:
        """Every answer that there is, for models that choose one."""
        return PLACES

    @property
    def length(self) -> int:
        """Words and marks of document and question."""
        return self.num_segments * self.segment_length

    @property
    def passages(self) -> Passages:
        """What the items are drawn from."""
        return _passages(self.kind, self.split, self.text)

    def passage(self, generator: random.Random) -> Passage:
        """What `generate` makes an item of: the pieces of the text, for models that are given tokens."""
        return self.passages.draw(np.random.default_rng(generator.getrandbits(128)), self.length)

    def generate(self, generator: random.Random, name: str) -> Item:
        passage = self.passage(generator)
        extras = {
            "facts": list(passage.facts),
            "offsets": list(passage.offsets),
            "segments": [offset // self.segment_length for offset in passage.offsets],
            "asked": passage.asked,
        }
        context = self.passages.text(passage.pieces[: -passage.question_length])
        return Item(name, context, passage.question, (passage.answer,), extras)


@cache
def _passages(kind: Kind, split: Split, text: str | None) -> Passages:
    return Passages(kind, split, distractors_of(text))
