"""What a head over tokens answers, put back where the tokens stood in the input, and the losses on it.

The losses are those of transformers: the mean cross-entropy over the tokens whose label is not -100, and the mean of
those over start and end positions. Padding has no part in them. A head over the whole sequence is given its labels by
the last segment instead, so its loss is the model's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from jrt.adapters.adapted import first_kept
from jrt.errors import EmptyInputError, InvalidOptionError

if TYPE_CHECKING:
    from jrt.adapters.rmt_model import RMTModel

IGNORED = -100
SPANS = ("start_logits", "end_logits")


class InputLayout:
    """Outputs over tokens in the layout of the input.

    Args:
        shape: of the input, (B, T).
        keep: how many of the last columns are kept; 0 means all.

    Raises:
        InvalidOptionError: the input is no batch of rows, or a negative number is to be kept.
        EmptyInputError: it has no row.
    """

    def __init__(self, shape: torch.Size, keep: int) -> None:
        if len(shape) != 2:
            raise InvalidOptionError(f"input_ids have the shape {tuple(shape)}.", "Pass rows of token ids, (B, T).")
        self.rows, self.width = shape
        if self.rows == 0:
            raise EmptyInputError("There is no row in the input.", "Pass input_ids with at least one row.")
        self.first = first_kept(self.width, keep)
        self.fields: dict[str, Tensor] = {}

    def wants(self, columns: Tensor, inside: Tensor) -> bool:
        """Whether any of the columns, (b, W), is kept."""
        return self.first == 0 or bool((inside & (columns >= self.first)).any())

    def put(self, name: str, values: Tensor, rows: Tensor, columns: Tensor, inside: Tensor) -> None:
        """Puts the outputs of `rows`, (b, at least W, ...), into their columns, (b, W), where `inside` says so.

        Columns that nothing is put into hold zeros, or the lowest number where a position is chosen among them.
        """
        if name not in self.fields:
            fill = torch.finfo(values.dtype).min if name in SPANS else 0.0
            self.fields[name] = values.new_full((self.rows, self.width - self.first, *values.shape[2:]), fill)
        kept = inside & (columns >= self.first)
        places = (rows[:, None].expand_as(columns)[kept], columns[kept] - self.first)
        self.fields[name].index_put_(places, values[:, : columns.shape[1]][kept])


@dataclass(frozen=True)
class Targets:
    """What an encoder is to answer: at most one of the three."""

    sequence: Tensor | None = None
    tokens: Tensor | None = None
    spans: tuple[Tensor, Tensor] | None = None

    @property
    def over_tokens(self) -> bool:
        """Whether the loss needs the outputs for all tokens."""
        return self.tokens is not None or self.spans is not None


def check_labels(
    model: RMTModel,
    ids: Tensor,
    mask: Tensor | None,
    labels: Tensor | None,
    start: Tensor | None,
    end: Tensor | None,
) -> Targets:
    """The labels by the kind of head that they are for.

    Raises:
        InvalidOptionError: the model has no such head, the shape is another one, a class does not exist, or a position
            is padding.
    """
    facts, name = model.facts, type(model.base).__name__
    if (start is None) != (end is None):
        raise InvalidOptionError("Only one of start_positions and end_positions was given.", "Pass both.")
    if start is not None and end is not None:
        if "start_logits" not in facts.token_fields:
            raise InvalidOptionError(f"{name} has no head for question answering.", "Pass labels.")
        spans = start.view(len(start), -1)[:, 0], end.view(len(end), -1)[:, 0]
        _need_shape("start_positions", spans[0], (len(ids),), ids)
        _need_shape("end_positions", spans[1], (len(ids),), ids)
        if mask is not None and mask.shape == ids.shape:
            _refuse_padding("start_positions", spans[0], mask)
            _refuse_padding("end_positions", spans[1], mask)
        return Targets(spans=spans)
    if labels is None:
        return Targets()
    if "logits" in facts.token_fields:
        _need_shape("labels", labels, tuple(ids.shape), ids)
        return Targets(tokens=labels)
    if "logits" not in facts.sequence_fields:
        raise InvalidOptionError(
            f"{name} has no head that labels are for.", "Load it with a head (AutoModelForSequenceClassification, ...)."
        )
    if labels.dim() not in (1, 2) or len(labels) != len(ids):
        raise InvalidOptionError(
            f"labels have the shape {tuple(labels.shape)}; {name} classifies whole rows, and there are {len(ids)}.",
            f"Pass labels of the shape ({len(ids)},), or ({len(ids)}, number of labels).",
        )
    _check_sequence_labels(model.base.config, name, labels)
    return Targets(sequence=labels)


def _check_sequence_labels(config: Any, name: str, labels: Tensor) -> None:
    """Labels of whole rows as the base model takes them: it tells its problem by the first ones that it sees."""
    classes, problem = int(config.num_labels), getattr(config, "problem_type", None)
    if problem is None and classes > 1:
        is_class = not labels.is_floating_point() and labels.dtype != torch.bool
        problem = "single_label_classification" if is_class else "multi_label_classification"
    if problem == "single_label_classification":
        if labels.numel() != len(labels) or labels.is_floating_point():
            raise InvalidOptionError(
                f"labels have the shape {tuple(labels.shape)} and the type {labels.dtype}; {name} chooses one of "
                f"{classes} classes for each row.",
                f"Pass whole numbers of the shape ({len(labels)},).",
            )
        _refuse_classes(labels, classes)
    elif problem == "multi_label_classification" and labels.shape != (len(labels), classes):
        raise InvalidOptionError(
            f"labels have the shape {tuple(labels.shape)}; {name} says yes or no to {classes} classes for each row.",
            f"Pass labels of the shape ({len(labels)}, {classes}).",
        )


def _refuse_classes(labels: Tensor, classes: int) -> None:
    """Says which label is no class; on a GPU it would stop the process."""
    wrong = labels[(labels != IGNORED) & ((labels < 0) | (labels >= classes))]
    if len(wrong):
        raise InvalidOptionError(
            f"labels hold {int(wrong[0])}; the model has the classes 0 to {classes - 1}.",
            "Pass other labels, -100 where there is none, or load the model with num_labels=...",
        )


def _refuse_padding(name: str, positions: Tensor, mask: Tensor) -> None:
    """Says which answer stands in padding, where it cannot be found; positions past the input are ignored."""
    places = positions.clamp(0, mask.shape[1] - 1)
    padding = (positions < mask.shape[1]) & (mask.gather(1, places[:, None].to(mask.device))[:, 0] == 0)
    if bool(padding.any()):
        row = int(padding.nonzero()[0, 0])
        raise InvalidOptionError(
            f"{name}[{row}] = {int(positions[row])} is a column of padding.",
            "Count columns of the padded input_ids, or pass the input's length for a row without an answer.",
        )


def token_loss(logits: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
    """Mean cross-entropy of `logits`, (B, T, C), on labels, (B, T), that are not -100; 0 where all are."""
    if mask is not None:
        labels = labels.masked_fill(mask == 0, IGNORED)
    _refuse_classes(labels, logits.shape[-1])
    total = cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp_min(1)


def span_loss(start_logits: Tensor, end_logits: Tensor, spans: tuple[Tensor, Tensor]) -> Tensor:
    """Mean of the cross-entropies of both ends, each (B, T) on (B,); positions past the input are ignored."""
    past = start_logits.shape[1]
    start, end = (
        cross_entropy(logits.float(), position.clamp(0, past), ignore_index=past)
        for logits, position in zip((start_logits, end_logits), spans, strict=True)
    )
    return (start + end) / 2


def _need_shape(name: str, found: Tensor, shape: tuple[int, ...], ids: Tensor) -> None:
    if tuple(found.shape) != shape:
        raise InvalidOptionError(
            f"{name} have the shape {tuple(found.shape)}; input_ids of {tuple(ids.shape)} need {shape}.",
            "Give one label for each.",
        )
