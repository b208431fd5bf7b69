"""The shipped `jrt/tiny-based` and `jrt/tiny-jrt-rnn`: the same size and state, and a prefix that is worth a lot."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

import jrt
from jrt.training.facts import documents
from jrt.training.tiny_based import KINDS, PROMPTS, Recipe
from jrt.training.tiny_recurrent import build_tokenizer

FOLDERS = {kind: Path(str(files("jrt.checkpoints"))) / f"tiny-{kind}" for kind in KINDS}


@pytest.fixture(scope="module")
def readers() -> dict[str, Any]:
    return {kind: jrt.load(f"jrt/tiny-{kind}", PROMPTS["once"]) for kind in KINDS}


def share_right(reader: Any, num_facts: int, count: int) -> float:
    """In percent, on held-out documents that the published table does not use."""
    items = list(documents(77, count, num_facts, "heldout"))
    plans = [reader.plan(item.context, item.question) for item in items]
    answers = reader.answer_plans(plans, max_new_tokens=8, stop="\n", batch_size=50)
    return 100 * sum(item.answers[0] in answer.text for item, answer in zip(items, answers, strict=True)) / count


def test_they_are_small_twins(readers: dict[str, Any]) -> None:
    for kind, folder in FOLDERS.items():
        assert {file.suffix for file in folder.iterdir()} <= {".json", ".safetensors", ".md"}
        assert sum(file.stat().st_size for file in folder.glob("*.safetensors")) < 1_000_000
        assert readers[kind].tokenizer.get_vocab() == build_tokenizer().get_vocab()
    sizes = [reader.model.num_parameters() for reader in readers.values()]
    assert abs(sizes[0] - sizes[1]) <= 0.03 * sizes[0]
    document = next(documents(0, 1, 16, "heldout")).context
    assert len({reader.read(document).nbytes for reader in readers.values()}) == 1


def test_the_prefix_is_worth_more_than_the_papers_gain(readers: dict[str, Any]) -> None:
    prefix, causal = (share_right(readers[kind], 16, 100) for kind in ("jrt-rnn", "based"))
    assert prefix - causal >= 13.7


def test_it_answers_as_the_card_says(readers: dict[str, Any]) -> None:
    document = "Mira lives in Lima. Tarek lives in Rome. Ines lives in Cairo."
    assert readers["jrt-rnn"].ask(document, "Where does Tarek live?") == "Rome"


def test_the_records_name_the_recipe_that_made_them() -> None:
    for kind, folder in FOLDERS.items():
        record = json.loads((folder / "training.json").read_text())
        assert record["model"] == kind and record["recipe"]["seed"] == 0
        assert len(record["recipe"]["stages"]) == len(Recipe().stages)
        results = json.loads((folder / "results.json").read_text())
        assert set(results["models"]) == set(KINDS)
        for seeds in results["models"].values():
            assert set(seeds) == {"0", "1", "2"}
        assert results["models"][kind]["0"]["heldout"] == record["heldout"]
