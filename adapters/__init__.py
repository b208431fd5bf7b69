"""Methods and repairs put on models of transformers, one a file; nothing here changes a class or a module for good."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jrt.adapters.adapted import AdaptedModel
from jrt.adapters.mamba import adapt


@contextmanager
def exact(model: Any) -> Iterator[None]:
    """`model` with what transformers' own modelling lacks for exact and fast reading, while the context lasts."""
    with adapt(model):
        yield


__all__ = ["AdaptedModel", "exact"]
