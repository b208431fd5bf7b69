"""BABILong (arXiv 2406.10149): the facts of a bAbI story, in their order, between the sentences of another text.

Nothing is downloaded: the stories come from a file of yours, in bAbI's own format (`qa1_..._test.txt`) or as JSONL with
`task, context` (a fact a line), `question, answers`; the text from `text=FILE`, or generated sentences. Lengths are
words and marks, not tokens of GPT-2 as in the published sets, so figures are not to be set beside published ones at the
same nominal length. The instructions are our own and there are no examples in the prompt. Both ways of counting are in
`babilong_scores`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from jrt.errors import DataFormatError, InputNotFoundError, InvalidOptionError
from jrt.evals.items import Item, Row, check_limit, plain_item, read_rows, sample
from jrt.evals.tasks.babilong_scores import LABELS, by_words, official
from jrt.evals.tasks.base import Kind, Task
from jrt.prompts import JRTPrompt, Plan, Query
from jrt.text_files import read_text
from jrt.training.distractors import distractors_of, pieces

SHORTEST = 10
"""Sentences of a text with fewer words and marks are left out, as in the published sets."""

TaskName = Literal[
    "qa1", "qa2", "qa3", "qa4", "qa5", "qa6", "qa7", "qa8", "qa9", "qa10",
    "qa11", "qa12", "qa13", "qa14", "qa15", "qa16", "qa17", "qa18", "qa19", "qa20",
]  # fmt: skip


class BABILong(Task):
    """Answer from facts that stand between the sentences of a long text.

    Attributes:
        task: which of bAbI's twenty.
        length: words and marks of the document; 0 is the facts alone. Stories that do not fit are left out.
        text: the text file that hides the facts; None hides them in generated sentences.
    """

    name = "babilong"
    version = 2
    summary = "bAbI's facts between the sentences of a long text; the stories come from a file"
    metrics: ClassVar[Mapping[str, Kind]] = {"official": "share", "by_words": "share"}
    shown = ("task",)

    task: TaskName = "qa1"
    length: int = Field(default=1000, ge=0, strict=True)
    text: str | None = None

    @property
    def source(self) -> str:
        return "file"

    def own_items(self, limit: int | None, seed: int) -> list[Item]:
        raise InvalidOptionError(
            "babilong reads bAbI stories from a file, and none is given.",
            "Add --data babilong=FILE: bAbI's own qa1_single-supporting-fact_test.txt or JSONL.",
        )

    def items(self, *, limit: int | None = None, seed: int = 0, path: Path | None = None) -> list[Item]:
        """See `Task.items`; the seed draws the sample, and an item's text depends on its id alone."""
        check_limit(limit)
        if path is None:
            return self.own_items(limit, seed)
        found = sample(self._stories(path), limit, seed)
        if not found:
            raise DataFormatError(
                f"{path} holds no story of {self.task} that fits {self.length} words and marks.",
                "Give another file, task or length.",
            )
        return found

    def item(self, row: Row, number: int) -> Item:
        """A story with its facts, one a line in `context`, hidden in text."""
        story = plain_item(row)
        facts = [line.strip() for line in story.context.splitlines() if line.strip()]
        context, offsets = self._hide(facts, random.Random(f"{self}/{story.id}"))
        return Item(story.id, context, story.question, story.answers, {"facts": facts, "offsets": offsets})

    def plan(self, item: Item, method: JRTPrompt) -> Plan:
        instruction = (
            f"A text with facts hidden in it. Answer the question from these facts alone, with {_form(self.task)}."
        )
        context = f"{instruction}\n\n<context>\n{item.context}\n</context>"
        return method.plan(context, Query(item.question, f"Question: {item.question}\nAnswer:", joint="\n\n"))

    def scores(self, item: Item, output: str) -> dict[str, float]:
        """The official score and the one by whole words, 1.0 or 0.0 each; see `babilong_scores`."""
        target = ",".join(item.answers) if self.task == "qa8" else item.answers[0]
        return {
            "official": float(official(self.task, item.question, target, output)),
            "by_words": float(by_words(self.task, item.question, target, output)),
        }

    def _stories(self, path: Path) -> Iterator[Item]:
        distractors_of(self.text, SHORTEST)  # what is wrong with it is not an error of a line of stories
        rows = babi_rows(path, self.task) if path.suffix == ".txt" else read_rows(path)
        for number, row in rows:
            if row.get("task", self.task) != self.task:
                continue
            try:
                item = self.item(row, number)
            except DataFormatError as error:
                raise DataFormatError(f"{path}, line {number}: {error.message}", error.hint) from None
            if not self.length or len(pieces(item.context)) == self.length:
                yield item

    def _hide(self, facts: list[str], source: random.Random) -> tuple[str, list[int]]:
        """The text and the word or mark at which each fact begins; facts alone where they do not fit."""
        split = [pieces(" " + fact) for fact in facts]
        room = max(0, self.length - sum(map(len, split)))
        hidden = distractors_of(self.text, SHORTEST)
        drawn, starts = hidden.draw(np.random.default_rng(source.getrandbits(128)), room + 1)
        words = [hidden.vocabulary[piece] for piece in drawn[:room]]
        places = sorted(source.choices([*starts.tolist()], k=len(facts)))
        parts: list[str] = []
        offsets, before = [], 0
        for place, fact in zip(places, split, strict=True):
            parts += words[before:place]
            offsets.append(len(parts))
            parts += fact
            before = place
        return "".join(parts + words[before:]).strip(), offsets


def babi_rows(path: Path, task: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The questions of a file in bAbI's own format as rows, and their line numbers.

    A line is `number text` or `number question<TAB>answer<TAB>supporting lines`; number 1 begins a story. A story with
    several questions becomes several rows, each with all facts before it.

    Raises:
        InputNotFoundError: there is no such file.
        DataFormatError: a line is neither, or no UTF-8; the message names it.
    """
    if not path.is_file():
        raise InputNotFoundError(f"There is no data file {path}.", "Check the path.")
    facts: list[str] = []
    for number, line in enumerate(StringIO(read_text(path)), start=1):
        index, _, rest = line.strip().partition(" ")
        if not index.isdecimal() or not rest:
            raise DataFormatError(
                f"{path}, line {number}: this is no line of bAbI.", "A line is a number and a sentence."
            )
        if index == "1":
            facts = []
        sentence, *answer = rest.split("\t")
        if not answer:
            facts.append(sentence.strip())
            continue
        answers = answer[0].split(",") if task == "qa8" else [answer[0]]
        context, name = "\n".join(facts), f"{task}-{number}"
        yield number, {"id": name, "context": context, "question": sentence.strip(), "answers": answers}


def _form(task: str) -> str:
    """What an answer looks like."""
    labels = LABELS[task]
    if task == "qa19":
        return "the two directions with a comma between them, as in n,w"
    several = ", or several of them with commas between them" if task == "qa8" else " and nothing else"
    return f"one of {', '.join(labels)}{several}"
