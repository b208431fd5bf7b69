"""A prompt before it is tokens: which parts are read, in which order.

The parts stay apart because three things need to know where the context ends: a state that is kept for many questions,
a chat template that must not be repeated, and the length budget that says which part is too long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["chat", "question", "context", "separator", "cue"]


@dataclass(frozen=True)
class Query:
    """One question in the pieces a prompt is made of.

    Attributes:
        sentence: the question as it is said before the first reading, without an answer cue: "Information about Age."
        cue: what stands at the very end of the prompt, where the answer begins: "Age:".
        joint: what stands between a question or cue and the context beside it.
        cue_joint: what stands between the context and the cue, where that differs from `joint`.
    """

    sentence: str
    cue: str
    joint: str = "\n"
    cue_joint: str | None = None


@dataclass(frozen=True)
class Part:
    """A piece of the prompt and the role it plays; the separators between parts are parts of their own."""

    role: Role
    text: str


@dataclass(frozen=True)
class Plan:
    """The parts of a prompt in reading order. `text` is exactly what the model reads.

    Attributes:
        parts: the pieces, separators included.
        chat: the text was rendered by a chat template, so the tokenizer adds no special tokens of its own.
    """

    parts: tuple[Part, ...]
    chat: bool = False

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts)

    @property
    def prefix(self) -> str:
        """Everything up to the end of the last context: the part whose state can be kept."""
        return "".join(part.text for part in self.parts[: self._boundary])

    @property
    def suffix(self) -> str:
        """Everything after the last context: the last question and its cue."""
        return "".join(part.text for part in self.parts[self._boundary :])

    @property
    def keeps_state(self) -> bool:
        """Whether the prefix is the same for every question."""
        return all(part.role not in ("question", "cue") for part in self.parts[: self._boundary])

    @property
    def _boundary(self) -> int:
        return 1 + max((i for i, part in enumerate(self.parts) if part.role == "context"), default=-1)
