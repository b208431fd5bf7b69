"""A reader that needs no model: what it answers follows from the prompt alone."""

from __future__ import annotations

import hashlib
import os
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jrt.methods import Method
from jrt.prompts import JRTPrompt, Plan


@dataclass(frozen=True)
class FakeAnswer:
    raw: str
    prompt_tokens: int
    new_tokens: int = 1
    seconds: float = 0.5


class WordTokenizer:
    """A word or a piece of white space a token; ids are positions in a list that grows."""

    eos_token_id = None

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.ids: dict[str, int] = {}

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        found = []
        for piece in re.findall(r"\s+|\S+", text):
            if piece not in self.ids:
                self.ids[piece] = len(self.pieces)
                self.pieces.append(piece)
            found.append(self.ids[piece])
        return {"input_ids": found}

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return "".join(self.pieces[index] for index in ids)


def half_right(plan: Plan, method: JRTPrompt) -> str:
    """Right for every prompt that is read twice, for about a third of the others; wordy, so that F1 is in between."""
    fact = re.search(r"(\w+) likes (\w+)", plan.text)
    assert fact is not None
    chance = int(hashlib.sha256(plan.text.encode()).hexdigest(), 16) % 3
    right = method.passes > 1 or chance == 0
    return f" It is {fact[2] if right else 'nothing'}\nand more"


@dataclass
class FakeReader:
    """The part of `jrt.Reader` that an evaluation uses.

    Attributes:
        answer: the prompt and the method to what is generated.
        batches: how many prompts every call got, in order.
        kill_after: the process kills itself when it is asked for this many answers.
    """

    answer: Callable[[Plan, JRTPrompt], str] = half_right
    name: str = "fake"
    revision: str | None = None
    max_length: int | None = None
    methods: tuple[Method, ...] = ()
    model: Any = None
    tokenizer: Any = field(default_factory=WordTokenizer)
    batches: list[int] = field(default_factory=list)
    kill_after: int | None = None

    @property
    def prompt(self) -> JRTPrompt:
        return next((method for method in self.methods if isinstance(method, JRTPrompt)), JRTPrompt(passes=1))

    def check_writes(self) -> None:
        """It answers."""

    def with_methods(self, *methods: Method) -> FakeReader:
        return FakeReader(
            self.answer,
            self.name,
            self.revision,
            self.max_length,
            methods,
            self.model,
            self.tokenizer,
            self.batches,
            self.kill_after,
        )

    def answer_plans(
        self, plans: Sequence[Plan], *, max_new_tokens: int, stop: str | None, batch_size: int
    ) -> list[FakeAnswer]:
        assert stop == "\n" and batch_size == len(plans)
        self.batches.append(len(plans))
        if self.kill_after is not None and sum(self.batches) > self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        # The batch is a part of what is answered, as it is (in the last digits) for a model.
        mark = f" ({len(plans)})" if len(plans) > 1 else ""
        tokens = [len(self.tokenizer(plan.text)["input_ids"]) for plan in plans]
        return [FakeAnswer(self.answer(p, self.prompt) + mark, n) for p, n in zip(plans, tokens, strict=True)]


def likes_rows(count: int) -> list[dict[str, Any]]:
    """Rows whose answer stands in their context."""
    names = [f"Person{index}" for index in range(count)]
    return [
        {
            "id": f"row-{index}",
            "context": f"{name} likes thing{index}." + " Nothing else is known." * (index % 5),
            "question": f"What does {name} like?",
            "answers": [f"thing{index}"],
        }
        for index, name in enumerate(names)
    ]


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    import gzip
    import json

    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path
