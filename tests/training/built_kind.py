"""A kind of training and its model, for tests that look at what a run begins with."""

from __future__ import annotations

from typing import Any

from jrt.evals.training_rows import TaskRows
from jrt.training.kinds import kind_class
from jrt.training.kinds.base import Kind


def built(kind: str, options: dict[str, Any]) -> tuple[Kind, Any]:
    """The kind and its model, as a run makes them."""
    chosen = kind_class(kind).settings_class(**options)
    made = kind_class(kind)(chosen)
    rows, made.tokenizer = TaskRows(chosen.task, "once", 0).with_tokenizer(made.find_tokenizer())
    made.classes = rows.classes
    return made, made.build()
