"""Two tiny random models on disk, and the command line as a person sees it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from text import DOCUMENT, word_tokenizer
from zoo import build

from jrt.cli.app import app


@dataclass(frozen=True)
class Outcome:
    """What a command left behind: its exit code, stdout, and stderr without panel borders and line breaks."""

    code: int
    out: str
    error: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def jrt() -> Callable[..., Outcome]:
    """Runs a command in this process."""

    def run(*arguments: object, stdin: str | bytes | None = None) -> Outcome:
        result = CliRunner(env={"COLUMNS": None}).invoke(app, [str(argument) for argument in arguments], input=stdin)
        return Outcome(result.exit_code, result.stdout, re.sub(r"[\s│╭╮╰╯─]+", " ", result.stderr))

    return run


def _save(folder: Path, name: str, **tokenizer: bool) -> Path:
    model = build(name)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    word_tokenizer(**tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def save_model() -> Callable[..., Path]:
    """Writes a model of the zoo and the word tokenizer into a folder: `save_model(folder, name, pad=False)`."""
    return _save


@pytest.fixture(scope="session")
def mamba(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without a length limit."""
    return _save(tmp_path_factory.mktemp("models") / "mamba", "mamba")


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that reads at most 256 tokens."""
    return _save(tmp_path_factory.mktemp("models") / "llama", "llama")


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "notes.txt"
    path.write_text(DOCUMENT, encoding="utf-8")
    return path
