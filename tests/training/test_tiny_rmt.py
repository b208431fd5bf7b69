"""The shipped `jrt/tiny-rmt` remembers, cannot without its memory, and its recipe draws and trains what it says."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import jrt
from jrt.errors import InvalidOptionError
from jrt.evals.memory import answered, summary
from jrt.evals.tasks.registry import parse_task
from jrt.training.place_batches import ANSWERS, SEGMENT_LENGTH, Wanted
from jrt.training.places import FORMS, PLACES
from jrt.training.tiny_rmt import train, untrained
from jrt.training.tiny_rmt_recipe import COMPARED, MAX_SEGMENTS, STAGES, Level, Recipe, Stage
from jrt.training.tiny_rmt_trainer import CLOSED, OPEN, Trainer, unanswered

FEW: dict[Any, int] = {"memorize": 1, "detect": 1, "reason": 1}


@pytest.fixture(scope="module")
def reader() -> Any:
    torch.set_num_threads(1)
    return jrt.load("jrt/tiny-rmt", device="cpu")


@pytest.mark.parametrize("kind", ["memorize", "detect", "reason"])
def test_the_shipped_model_remembers_held_out_facts_over_64_segments(reader: Any, kind: str) -> None:
    task: Any = parse_task(f"{kind}:num_segments=64,segment_length={SEGMENT_LENGTH}")
    found = summary(answered(reader, task, limit=100, seed=5))
    assert found["all"]["right"] >= {"memorize": 98, "detect": 98, "reason": 86}[kind]
    assert found["without_memory"]["right"] <= 35  # 100 items, chance 16.7: 35 is five standard deviations above


def test_it_is_asked_in_words(reader: Any) -> None:
    text = "Mary went back to the garden. " + "It rained today, and the office stayed dark. " * 40
    output = reader(**reader.tokenizer(text + "Where is Mary?", return_tensors="pt"))
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


def test_what_gates_are_told_opens_and_shuts_them() -> None:
    recipe = replace(Recipe(), unanswerable=1)
    model, tokenizer = untrained(recipe)
    trainer = Trainer(recipe, recipe.stages[-1], model, tokenizer)
    batch = trainer.drawer.draw(np.random.default_rng(0), {"memorize": 2, "detect": 3, "reason": 4}, 3, Wanted())
    fits, memory = torch.where(batch.clear, OPEN, CLOSED), model.first_memory(None, 9)
    trainer.disturbed = lambda *_: torch.full((1,), CLOSED)  # type: ignore[method-assign]
    costs = []
    for values in (fits, torch.full_like(fits, CLOSED), torch.full_like(fits, OPEN)):
        gates = [values[:, number, None, None].expand(-1, recipe.num_memory_tokens, 1) for number in range(2)]
        costs.append(float(trainer.told(gates, batch, memory)))
    assert costs == [0.0, pytest.approx((OPEN - CLOSED) ** 2), pytest.approx((OPEN - CLOSED) ** 2)]


@pytest.mark.parametrize("memory", ["gated", "replace", "armt"])
def test_a_seed_gives_one_model_and_steps_change_it(memory: Any) -> None:
    recipe = replace(Recipe(memory=memory), unanswerable=2)
    runs = []
    for _ in range(2):
        model, tokenizer = untrained(recipe)
        start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        Trainer(recipe, replace(recipe.stages[-1], steps=2, rows=FEW), model, tokenizer).run()
        runs.append(model.state_dict())
        changed = {name for name in start if not torch.equal(start[name], runs[-1][name])}
        own = {"gated": "write_gate.weight", "replace": "base.bert.pooler.dense.weight"}
        assert {"initial_memory", own.get(memory, "layer_memories.0.value.weight"), "base.classifier.weight"} <= changed
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_memories_have_as_many_weights() -> None:
    counts = [sum(w.numel() for w in untrained(Recipe(memory=m))[0].parameters()) for m in ("gated", "replace", "armt")]
    assert max(counts) < 1.01 * min(counts)


def test_every_level_is_reached_by_patience_alone() -> None:
    for stage in (*STAGES, *COMPARED):
        assert sum(level.patience for level in stage.levels[:-1]) < stage.steps, stage.name


def test_a_level_says_what_its_longest_texts_are_like() -> None:
    """Shorter ones are asked in all forms, and not only about directions."""
    recipe = Recipe()
    model, tokenizer = untrained(recipe)
    first, match = (next(stage for stage in STAGES if stage.name == name) for name in ("answer", "match"))
    trainer = Trainer(recipe, match, model, tokenizer)
    longest, shorter = (trainer.wanted(match.levels[0], is_longest) for is_longest in (True, False))
    assert longest.only_directions and longest.one_axis and longest.turned and longest.landmark_share == 0.5
    assert not shorter.only_directions and not shorter.one_axis and shorter.turned
    trainer = Trainer(recipe, first, model, tokenizer)
    longest, shorter = (trainer.wanted(first.levels[0], is_longest) for is_longest in (True, False))
    assert (longest.forms, shorter.forms) == (1, FORMS) and longest.only_directions
    assert not longest.one_axis and not longest.turned and not longest.landmark_share
    assert (longest.cut_share, longest.carried_share) == (recipe.cut_share, recipe.carried_share)
    assert longest.shared_share == first.shared_share


def test_a_stage_without_relations_asks_for_no_directions(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = replace(Recipe.comparison(0, "gated"), unanswerable=1)
    model, tokenizer = untrained(recipe)
    trainer = Trainer(recipe, replace(recipe.stages[0], rows={"memorize": 1, "detect": 1}), model, tokenizer)
    trainer.step(99)
    assert len(trainer.recent[0]) == 2 == len(trainer.groups)
    assert "memorize" in (said := capsys.readouterr().out) and "directions" not in said


def test_unanswerable_questions_are_to_have_any_place_for_an_answer() -> None:
    alike = torch.zeros(2, len(ANSWERS))
    places = torch.full_like(alike, -50.0)
    places[:, : len(PLACES)] = 0.0
    assert float(unanswered(alike)) == pytest.approx(math.log(len(ANSWERS)))
    assert float(unanswered(places)) == pytest.approx(math.log(len(PLACES)))


def test_levels_go_up_by_results_or_by_patience() -> None:
    recipe = replace(Recipe(), unanswerable=1)
    model, tokenizer = untrained(recipe)
    stage = Stage("carry", tuple(Level(4, segments, 25) for segments in (2, 3, MAX_SEGMENTS)), 100, 1e-3, rows=FEW)
    trainer = Trainer(recipe, stage, model, tokenizer)
    assert model.write_penalty == 0
    trainer.recent = [torch.tensor([1.0, 1.0, 0.5, 0.5])] * 19  # the last is of directions, which no task asks for
    assert not trainer.passed(5)
    trainer.recent = [torch.tensor([1.0, 1.0, 0.97, 0.5])] * 20
    assert trainer.passed(5)
    trainer.recent = [torch.tensor([1.0, 1.0, 0.5, 0.5])] * 20
    assert not trainer.passed(5) and trainer.passed(24)
    trainer.level = 1
    trainer.recent = [torch.tensor([1.0, 1.0, 1.0, 0.5])] * 20
    trainer.step(24)
    assert trainer.level == 2 and model.write_penalty == recipe.write_penalty


def test_a_run_that_was_stopped_ends_with_the_same_weights(tmp_path: Path) -> None:
    """What the unbroken run has saved behind its first stage is all that the other one begins with."""
    stages = tuple(replace(stage, steps=2, rows=FEW) for stage in STAGES)
    recipe = Recipe(stages=stages, unanswerable=1)
    train(recipe, tmp_path / "unbroken")
    names = {path.name for path in (tmp_path / "unbroken").iterdir() if path.is_dir()}
    assert names == {stage.name for stage in stages}
    shutil.copytree(tmp_path / "unbroken" / "answer", tmp_path / "stopped" / "answer")
    train(recipe, tmp_path / "stopped")
    one, other = (load_file(tmp_path / run / "model.safetensors") for run in ("unbroken", "stopped"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(InvalidOptionError, match="another recipe"):
        train(replace(recipe, seed=1), tmp_path / "stopped")
