"""A small text, a tokenizer for it and runs that take a second."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from train_child import TINY

from jrt.evals.tasks.registry import parse_task
from jrt.training.words import word_tokenizer, words_of


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
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny encoder and a tiny decoder that know the words of `memorize`, as folders."""
    from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

    task = parse_task("memorize:num_segments=1,segment_length=60")
    tokenizer = word_tokenizer(
        [*words_of(f"{i.context} {i.question} {' '.join(i.answers)}" for i in task.items(limit=300))]
    )
    tokenizer.add_special_tokens({"cls_token": "[CLS]", "sep_token": "[SEP]"})
    shape = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    folders = {name: tmp_path_factory.mktemp("bases") / name for name in ("encoder", "decoder")}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = BertForMaskedLM(
            BertConfig(**shape, num_hidden_layers=1, max_position_embeddings=40, initializer_range=0.2)
        )
        decoder = LlamaForCausalLM(LlamaConfig(**shape, num_hidden_layers=2, bos_token_id=1, eos_token_id=1))
    for name, model in (("encoder", encoder), ("decoder", decoder)):
        model.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


@pytest.fixture(scope="session")
def adapted(bases: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Options of runs of a second with a method on a base model."""
    common = {
        "task": "memorize",
        "segments": 2,
        "steps": 6,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "log_every": 1,
        "save_every": 2,
        "evaluate_every": 3,
        "evaluation_rows": 8,
        "device": "cpu",
    }
    method = "num_memory_tokens=2,segment_length=24"
    return {
        "rmt": common | {"model": str(bases["encoder"]), "head": "classification", "method": method},
        "infini": common | {"model": str(bases["decoder"]), "method": "segment_length=24", "curriculum": True},
    }


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
