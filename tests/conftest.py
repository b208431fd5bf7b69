"""What holds for every test: one thread a worker, no network, and transformers' deprecation warnings are failures."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import logging

import pytest
import torch

torch.set_num_threads(1)


class _DeprecationHandler(logging.Handler):
    """transformers announces some deprecations by its logger instead of `warnings`."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage().lower()
        if "deprecated" in message or "deprecation" in message:
            raise AssertionError(f"transformers deprecation: {record.getMessage()}")


@pytest.fixture(autouse=True, scope="session")
def _deprecations_fail() -> None:
    logging.getLogger("transformers").addHandler(_DeprecationHandler())
