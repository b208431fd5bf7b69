"""A small text, a tokenizer for it and runs that take a second."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from jrt.training.words import word_tokenizer

TINY = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "feature_dim": 4,
    "intermediate_size": 16,
    "sliding_window": 4,
    "initializer_range": 0.1,
}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `book.txt`, words that mostly follow from the one before, and `tokenizer/`."""
    folder, draws = tmp_path_factory.mktemp("corpus"), random.Random(0)
    words = [f"w{number}" for number in range(20)]
    place, text = 0, []
    for _ in range(6000):
        place = (3 * place + 1) % 20 if draws.random() < 0.9 else draws.randrange(20)
        text.append(words[place])
    (folder / "book.txt").write_text(" ".join(text))
    word_tokenizer(words).save_pretrained(folder / "tokenizer")
    return folder


@pytest.fixture(scope="session")
def options(corpus: Path) -> dict[str, Any]:
    """Options of a run that takes a second."""
    return {
        "text": [str(corpus / "*.txt")],
        "tokenizer": str(corpus / "tokenizer"),
        "config": TINY,
        "block_size": 24,
        "steps": 12,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "log_every": 1,
        "save_every": 4,
        "evaluate_every": 6,
        "evaluation_rows": 6,
        "device": "cpu",
    }


def child(spec: dict[str, Any], **environment: str) -> subprocess.Popen[str]:
    """`train_child.py` in a process of its own."""
    program = [sys.executable, str(Path(__file__).parent / "train_child.py"), json.dumps(spec, default=str)]
    surroundings = os.environ | {"OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"} | environment
    return subprocess.Popen(program, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
