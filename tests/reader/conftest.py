"""Readers around the zoo's random models: what they say is noise, but it must be the same noise on every path."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

import pytest
from text import word_tokenizer
from zoo import build


@cache
def model(name: str) -> Any:
    return build(name)


@pytest.fixture(params=["llama", "mistral_window", "mamba", "mamba2", "jamba", "rwkv4", "recurrent_gemma"])
def family(request: pytest.FixtureRequest) -> Any:
    """One model of every way a state is continued."""
    return model(request.param)


@pytest.fixture
def mamba() -> Any:
    return model("mamba")


@pytest.fixture
def llama() -> Any:
    return model("llama")


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return word_tokenizer()


@pytest.fixture(scope="session")
def chat_tokenizer() -> Any:
    return word_tokenizer(chat=True)
