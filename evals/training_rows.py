"""Rows to train on from a task: its prompts, its answers, and the loss on the answers alone.

The prompts are those of an evaluation, rendered by the same methods, so what is trained is what is measured. Training
items are drawn under other names than the items of any evaluation, and a task whose items must not overlap either draws
them itself (`training_item`).
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from jrt.errors import InvalidOptionError, TokenizerError
from jrt.evals.items import Item
from jrt.evals.prepare import named_methods
from jrt.evals.tasks.base import GeneratedTask
from jrt.evals.tasks.registry import known_tasks, parse_task, task_class
from jrt.methods import Method
from jrt.prompts import JRTPrompt
from jrt.tokens import encode, encode_after
from jrt.training.rows import IGNORED, Row, Split
from jrt.training.words import word_tokenizer, words_of

_ANSWER = 3
"""Tokens of a row that are kept free for the answer and its end, at least."""
_SAMPLE = 16
"""Items whose prompts are looked through for words that are no symbols."""


class TaskRows:
    """The rows of one task.

    Args:
        task: its shorthand.
        methods: the prompt formats, with commas between them; row i has format i modulo their number.
        seed: of the items.

    Raises:
        UnknownNameError: there is no such task or method.
        InvalidOptionError: the task has questions about given documents only, which are for evaluation.
    """

    def __init__(self, task: str, methods: str, seed: int) -> None:
        self.task: Any = parse_task(task)
        self.seed = seed
        self.prompts: list[JRTPrompt] = [_prompting(named.method) for named in named_methods(methods)]
        self._tokenizer: Any = None
        self._by_split = {split: self._of_split(split) for split in ("train", "validation")}
        if not isinstance(self.task, GeneratedTask) and not hasattr(self.task, "training_item"):
            able = [name for name in known_tasks() if issubclass(task_class(name), GeneratedTask)]
            raise InvalidOptionError(
                f"The task {self.task.name} has a fixed set of questions, which are there to evaluate with.",
                f"Tasks to train on: {', '.join(sorted(able))}.",
            )

    def with_tokenizer(self, tokenizer: Any) -> tuple[TaskRows, Any]:
        """These rows in the words of a tokenizer; None makes one of the task's own symbols.

        Raises:
            TokenizerError: there is no tokenizer, and the task's words are not a fixed list.
        """
        if tokenizer is None:
            if not hasattr(self.task, "symbols"):
                raise TokenizerError(
                    f"Rows of {self.task.name} are text, and there is no tokenizer.",
                    "Pass --tokenizer NAME.",
                )
            samples = [self._prompt(self._item("train", index), index) for index in range(_SAMPLE * len(self.prompts))]
            tokenizer = word_tokenizer([*words_of(samples), *self.task.symbols()])
        self._tokenizer = tokenizer
        return self, tokenizer

    def __call__(self, split: Split, index: int, length: int) -> Row:
        """Row `index`: at most `length` tokens of a task that has a length in segments, else as long as it is."""
        item, prompt, (answer, asked) = self._fitting(split, index, length)
        labels = [token if wanted else IGNORED for token, wanted in zip(answer, asked, strict=True)]
        arrays = (
            np.array([*prompt, *answer], dtype=np.int64),
            np.array([*[IGNORED] * len(prompt), *labels], dtype=np.int64),
        )
        return Row(index, *arrays, len(prompt), item.answers[0])

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Every answer there is, where the task says so."""
        return tuple(self.task.classes()) if hasattr(self.task, "classes") else None

    def _of_split(self, split: str) -> Any:
        """The task of a split: where it knows facts that training never sees, those are for validation."""
        if "split" not in type(self.task).model_fields:
            return self.task
        return self.task.model_copy(update={"split": "train" if split == "train" else "heldout"})

    def _item(self, split: Split, index: int, pieces: int | None = None) -> Item:
        task, name = self._by_split[split], f"{self.task.name}-{split}-{self.seed}-{index}"
        if pieces is not None:
            task = task.model_copy(update={"num_segments": 1, "segment_length": pieces})
        draw = getattr(task, "training_item", None) or task.generate
        item: Item = draw(random.Random(f"{self.task}/{name}"), name)
        return item

    def _fitting(self, split: Split, index: int, length: int) -> tuple[Item, list[int], tuple[list[int], list[bool]]]:
        """An item, its prompt's tokens and those behind them; a text of segments gets as many words as fit `length`."""
        pieces = length - _ANSWER if "num_segments" in type(self.task).model_fields else None
        while True:
            item = self._item(split, index, pieces)
            prompt = self._prompt(item, index)
            ids, room = encode(self._tokenizer, prompt, special=True), length - _ANSWER
            if pieces is None or len(ids) <= room:
                answered = self._answered(item, prompt)
                room = length - len(answered[0])
                if pieces is None or len(ids) <= room:
                    return item, ids, answered
            pieces = min(pieces - 1, pieces * room // len(ids))

    def _answered(self, item: Item, text: str) -> tuple[list[int], list[bool]]:
        """The tokens behind a prompt, answers and further questions, and which of them are to be foreseen."""
        ids: list[int] = []
        asked: list[bool] = []
        more = self.task.more_questions(item) if hasattr(self.task, "more_questions") else []
        for cue, answer in [("", item.answers[0]), *more]:
            for piece, wanted in ((cue, False), (answer, True)):
                if piece:
                    spaced = piece if text[-1:].isspace() else " " + piece
                    new = encode_after(self._tokenizer, text, spaced)
                    ids, asked, text = ids + new, asked + [wanted] * len(new), text + spaced
        if self._tokenizer.eos_token_id is not None:
            ids, asked = [*ids, self._tokenizer.eos_token_id], [*asked, True]
        return ids, asked

    def _prompt(self, item: Item, index: int) -> str:
        return str(self.task.plan(item, self.prompts[index % len(self.prompts)]).text)


def _prompting(method: Method) -> JRTPrompt:
    if not isinstance(method, JRTPrompt):
        raise InvalidOptionError(
            f"{method} does not say how a prompt is written.", "Name prompt formats, such as once or once,twice."
        )
    return method
