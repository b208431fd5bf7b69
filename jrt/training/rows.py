"""What is trained on: rows of tokens, drawn by their number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Split = Literal["train", "validation"]

IGNORED = -100
"""The label of tokens that are not asked for."""


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        index: its number; what is random about it follows from that and the run's seed.
        input_ids: tokens, (T,).
        labels: the token that should have been foreseen at each place, (T,), `IGNORED` where none is asked: as
            transformers has them, the label of a place is predicted one place before it.
        prefix_length: how much of it is the prompt, where it is one.
        answer: the answer to the prompt, for models that choose it from a list.
    """

    index: int
    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    prefix_length: int | None = None
    answer: str | None = None


class Rows(Protocol):
    """Where rows come from: text (`jrt.training.text`) or a task (`jrt.evals.training_rows`)."""

    def __call__(self, split: Split, index: int, length: int) -> Row:
        """Row `index` of a split; always the same for the same arguments.

        Args:
            split: rows of `validation` share nothing with rows of `train`.
            index: its number, from 0.
            length: tokens, where the source can choose.
        """
        ...


@dataclass(frozen=True)
class Stage:
    """A part of a run with an optimizer schedule of its own.

    Attributes:
        name: of its folder of checkpoints.
        steps: optimizer steps, at most.
        learning_rate: the highest learning rate.
        segments: the most segments of its rows, for models that read in segments.
        target_accuracy: the stage ends when an evaluation is so accurate.
        target_loss: the stage ends when the loss of an evaluation is so low.
    """

    name: str
    steps: int
    learning_rate: float
    segments: int = 1
    target_accuracy: float | None = None
    target_loss: float | None = None
