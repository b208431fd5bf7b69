"""The shipped `jrt/tiny-rmt` remembers, cannot without its memory, and its recipe draws and trains what it says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import jrt
from jrt.evals.memory import answered, summary
from jrt.evals.tasks.registry import parse_task
from jrt.training.places import PLACES
from jrt.training.tiny_rmt import LEVELS, SEGMENT_LENGTH, Drawer, Recipe, Stage, Trainer, build_tokenizer, untrained


@pytest.fixture(scope="module")
def reader() -> Any:
    torch.set_num_threads(1)
    return jrt.load("jrt/tiny-rmt", device="cpu")


@pytest.mark.parametrize("kind", ["memorize", "detect"])
def test_the_shipped_model_remembers_held_out_facts_over_64_segments(reader: Any, kind: str) -> None:
    task: Any = parse_task(f"{kind}:num_segments=64,segment_length={SEGMENT_LENGTH}")
    found = summary(answered(reader, task, limit=100, seed=5))
    assert found["all"]["right"] >= {"memorize": 98, "detect": 88}[kind]
    assert found["without_memory"]["right"] <= 35  # 100 items, chance 16.7: 35 is five standard deviations above


def test_it_is_asked_in_words(reader: Any) -> None:
    text = "Mary went back to the garden. " + "It rained today, and the office stayed dark. " * 40
    for question in ("Where is Mary?",):
        output = reader(**reader.tokenizer(text + question, return_tensors="pt"))
        assert reader.config.id2label[int(output.logits.argmax())] == "garden"


def test_what_is_answered_is_the_task_of_the_same_name(reader: Any) -> None:
    """The items are those of the registered task, and reading in parts is reading at once."""
    task: Any = parse_task(f"detect:num_segments=20,segment_length={SEGMENT_LENGTH}")
    items = task.items(limit=3, seed=2)
    for item, said in zip(items, answered(reader, task, limit=3, seed=2), strict=True):
        assert (said.answer,) == item.answers and said.position == item.extras["offsets"][0]
        ids = reader.tokenizer(f"{item.context} {item.question}", return_tensors="pt")
        with torch.no_grad():
            assert reader.config.id2label[int(reader(**ids).logits.argmax())] == said.said


@pytest.mark.parametrize("num_segments", [1, 3])
def test_a_batch_asks_what_its_texts_answer(num_segments: int) -> None:
    tokenizer = build_tokenizer()
    rows = {"memorize": 2, "detect": 3, "reason": 4}
    batch = Drawer(tokenizer, "train").draw(
        np.random.default_rng(0), rows, num_segments, forms=4, questions=4  # type: ignore[arg-type]
    )  # fmt: skip
    assert batch.before.shape == (9, (num_segments - 1) * SEGMENT_LENGTH)
    assert batch.sizes == [2, 3, 16] and batch.last.shape == (21, SEGMENT_LENGTH)
    for last, row, label in zip(batch.last, batch.rows.tolist(), batch.labels.tolist(), strict=True):
        text = tokenizer.decode(torch.cat([batch.before[row], last]))
        facts = [f for f in text.replace(" .", ".").split(". ") if PLACES[label] in f]
        assert tokenizer.unk_token not in text and text.rstrip(" ?")
        assert facts, text


def test_a_seed_gives_one_model_and_steps_change_it() -> None:
    recipe = replace(Recipe(), rows={"memorize": 2, "detect": 2, "reason": 2})
    runs = []
    for _ in range(2):
        model, tokenizer = untrained(recipe)
        start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        Trainer(recipe, Stage(1, LEVELS[-1:], 2, 1e-3), model, tokenizer).run()
        runs.append(model.state_dict())
        changed = {name for name in start if not torch.equal(start[name], runs[-1][name])}
        assert {"initial_memory", "write_gate.weight", "base.classifier.weight"} <= changed
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_levels_go_up_by_results_or_by_patience() -> None:
    recipe = replace(Recipe(), rows={"memorize": 1, "detect": 1, "reason": 1}, patience=25)
    model, tokenizer = untrained(recipe)
    trainer = Trainer(recipe, Stage(0, LEVELS, 100, 1e-3), model, tokenizer)
    assert model.write_penalty == 0
    trainer.recent = [torch.tensor([1.0, 1.0, 0.5])] * 19
    assert not trainer.passed(5)
    trainer.recent = [torch.tensor([1.0, 1.0, 0.9])] * 20
    assert trainer.passed(5)
    trainer.recent = [torch.tensor([1.0, 1.0, 0.5])] * 20
    assert not trainer.passed(5) and trainer.passed(24)
    trainer.level = len(LEVELS) - 2
    trainer.step(30)
    trainer.recent = [torch.tensor([1.0, 1.0, 1.0])] * 20
    trainer.step(31)
    assert trainer.level == len(LEVELS) - 1 and model.write_penalty == recipe.write_penalty
