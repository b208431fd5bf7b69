"""The shipped `jrt/tiny-rmt` remembers, cannot without its memory, and its recipe draws and trains what it says."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import jrt
from jrt.evals.memory import answered, summary
from jrt.evals.tasks.registry import parse_task
from jrt.training.place_batches import SEGMENT_LENGTH, Drawer
from jrt.training.places import ACTIONS, NAMES, PLACES, REVERSE, SLOTS, moves, relations
from jrt.training.tiny_rmt import build_tokenizer, train, untrained
from jrt.training.tiny_rmt_recipe import COMPARED, MAX_SEGMENTS, STAGES, Level, Recipe, Stage
from jrt.training.tiny_rmt_trainer import CLOSED, OPEN, Trainer

FEW: dict[Any, int] = {"memorize": 1, "detect": 1, "reason": 1}


@pytest.fixture(scope="module")
def reader() -> Any:
    torch.set_num_threads(1)
    return jrt.load("jrt/tiny-rmt", device="cpu")


@pytest.mark.parametrize("kind", ["memorize", "detect", "reason"])
def test_the_shipped_model_remembers_held_out_facts_over_64_segments(reader: Any, kind: str) -> None:
    task: Any = parse_task(f"{kind}:num_segments=64,segment_length={SEGMENT_LENGTH}")
    found = summary(answered(reader, task, limit=100, seed=5))
    assert found["all"]["right"] >= {"memorize": 98, "detect": 98, "reason": 62}[kind]
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


SHARES = [
    {},
    {"cut_share": 0.5, "carried_share": 0.8, "shared_share": 0.6, "landmark_share": 0.6},
    {"shared_share": 1.0, "landmark_share": 1.0},
]


@pytest.mark.parametrize("num_segments", [1, 3])
@pytest.mark.parametrize("shares", SHARES)
def test_a_batch_asks_what_its_texts_answer(num_segments: int, shares: dict[str, float]) -> None:
    """Every question is solved from the words of its text alone, and has one answer among the places."""
    tokenizer = build_tokenizer()
    batch = draw(Drawer(tokenizer, "train", **shares), num_segments)
    assert batch.before.shape == (9, (num_segments - 1) * SEGMENT_LENGTH)
    assert batch.sizes[:2] == [2, 3] and batch.last.shape == (sum(batch.sizes), SEGMENT_LENGTH)
    for last, row, label in zip(batch.last, batch.rows.tolist(), batch.labels.tolist(), strict=True):
        text = tokenizer.decode(torch.cat([batch.before[row], last]))
        assert tokenizer.unk_token not in text
        assert answers(text) & set(PLACES) == {PLACES[label]}, text


def answers(text: str) -> set[str]:
    """What the sentences of a text, each turned around too, answer to the question at its end."""
    if asked := re.search(r"Where is (\w+) \?$", text):
        return set(re.findall(rf"{asked[1]} (?:{'|'.join(ACTIONS)}) to the (\w+) \.", text))
    told = re.findall(rf"The (\w+) is ({'|'.join(REVERSE)}) of the (\w+) \.", text)
    told += [(other, REVERSE[way], one) for one, way, other in told]
    if asked := re.search(r"What is (\w+) of the (\w+) \?$", text):
        return {one for one, way, other in told if (way, other) == asked.groups()}
    asked = re.search(r"What is the (\w+) (\w+) of \?$", text)
    assert asked, text
    return {other for one, way, other in told if (one, way) == asked.groups()}


def draw(drawer: Drawer, num_segments: int, **options: Any) -> Any:
    rows: Any = {"memorize": 2, "detect": 3, "reason": 4}
    return drawer.draw(np.random.default_rng(0), rows, num_segments, **({"forms": 4, "questions": 4} | options))


def test_borders_cut_facts_where_that_is_asked_for() -> None:
    """With every text cut, each of the seven that can be has a fact in two neighbouring segments."""
    tokenizer = build_tokenizer()
    drawn = [draw(Drawer(tokenizer, "train", cut_share=share), 7) for share in (0.0, 1.0)]
    touched = [[(~torch.cat([b.quiet[row], b.settled[row : row + 1]])).sum() for row in range(2, 9)] for b in drawn]
    whole = {"detect": 1, "reason": 2}
    assert all(count >= 2 for count in touched[1]) and any(count == whole["detect"] for count in touched[0][:3])


@pytest.mark.parametrize("num_segments", [2, 5])
def test_facts_stand_before_the_last_segment_where_that_is_asked_for(num_segments: int) -> None:
    tokenizer = build_tokenizer()
    for share, cut in ((1.0, 0.0), (1.0, 1.0), (0.0, 0.0)):
        batch = draw(Drawer(tokenizer, "train", carried_share=share, cut_share=cut), num_segments)
        assert bool(batch.settled.all()) == (share == 1.0)


def test_shared_places_are_asked_about_where_that_is_asked_for() -> None:
    tokenizer = build_tokenizer()
    batch, axes = draw(Drawer(tokenizer, "train", shared_share=1.0), 1), set()
    for last in batch.last[5:]:
        words = tokenizer.decode(last).split()
        relations = re.findall(r"is (\w+) of the", " ".join(words[:-7]))
        axes.add(len({word in ("north", "south") for word in relations}))
        named = [word for word in words[:-7] if word in PLACES]
        asked = next(word for word in words[-7:] if word in PLACES)
        assert named.count(asked) == 2, words
    assert axes == {1, 2}


def test_only_directions_tell_relations_apart_where_that_is_asked_for() -> None:
    tokenizer = build_tokenizer()
    batch = draw(Drawer(tokenizer, "train"), 1, forms=1, only_directions=True)
    answers = set()
    for last, label in zip(batch.last[5:], batch.labels[5:].tolist(), strict=True):
        facts = re.findall(rf"The (\w+) is (\w+) of the ({'|'.join(PLACES)}) \.", tokenizer.decode(last))
        question = re.search(r"What is (\w+) of the (\w+) \?", tokenizer.decode(last))
        assert question and len(facts) == 2 and {place for _, _, place in facts} == {question[2]}
        assert [first for first, way, _ in facts if way == question[1]] == [PLACES[label]]
        answers.add(next(number for number, fact in enumerate(facts) if fact[1] == question[1]))
    assert answers == {0, 1}


def test_places_and_towns_lie_beside_each_other_where_that_is_asked_for() -> None:
    """Questions ask for the place; nothing of it is a relation that is held out."""
    tokenizer, towns = build_tokenizer(), set(SLOTS["town"])
    batch = draw(Drawer(tokenizer, "train", landmark_share=1.0, shared_share=0.5), 1)
    heldout = {fact.text.replace(".", " .") for fact in relations("heldout")}
    for last, label in zip(batch.last[5:], batch.labels[5:].tolist(), strict=True):
        text = tokenizer.decode(last)
        facts = re.findall(r"The \w+ is \w+ of the \w+ \.", text)
        assert any(towns & set(fact.split()) and set(PLACES) & set(fact.split()) for fact in facts), text
        assert any(PLACES[label] in fact for fact in facts) and not heldout & set(facts)
        assert tokenizer.unk_token not in text


def test_gates_are_told_what_the_words_of_a_segment_tell() -> None:
    """The facts are found again in the text; a name alone, "The garden" alone and a full stop alone tell nothing."""
    tokenizer = build_tokenizer()
    batch = draw(Drawer(tokenizer, "train", cut_share=1.0), 4)
    places, names, actions, ways = ("|".join(words) for words in (PLACES, NAMES, ACTIONS, REVERSE))
    fact = rf"(?:(?:{names}) (?:{actions}) to the (?:{places})|The (?:{places}) is (?:{ways}) of the (?:{places})) \."
    seen = set()
    for row, ids in enumerate(batch.before):
        text = tokenizer.decode(torch.cat([ids, batch.last[batch.rows == row][0]]))
        clear, touched = [False] * 4, [False] * 4
        for found in re.finditer(fact, text):
            first, words = text[: found.start()].count(" "), found.group().split()
            by_segment = [[word for at, word in enumerate(words, first) if at // SEGMENT_LENGTH == n] for n in range(4)]
            for number, part in enumerate(by_segment):
                touched[number] |= bool(part)
                told = len(part) > (2 if words[0] == "The" else 1) if part[:1] == words[:1] else len(part) > 1
                clear[number] |= told
                seen |= {(bool(part), told)}
        assert clear[:3] == batch.clear[row].tolist() and [not t for t in touched[:3]] == batch.quiet[row].tolist()
    assert seen >= {(True, True), (False, False)}


def test_what_gates_are_told_opens_and_shuts_them() -> None:
    recipe = replace(Recipe(), unanswerable=1)
    model, tokenizer = untrained(recipe)
    trainer = Trainer(recipe, recipe.stages[-1], model, tokenizer)
    batch = draw(trainer.drawer, 3)
    fits, memory = torch.where(batch.clear, OPEN, CLOSED), model.first_memory(None, 9)
    trainer.disturbed = lambda *_: torch.full((1,), CLOSED)  # type: ignore[method-assign]
    costs = []
    for values in (fits, torch.full_like(fits, CLOSED), torch.full_like(fits, OPEN)):
        gates = [values[:, number, None, None].expand(-1, recipe.num_memory_tokens, 1) for number in range(2)]
        costs.append(float(trainer.told(gates, batch, memory)))
    assert costs == [0.0, pytest.approx((OPEN - CLOSED) ** 2), pytest.approx((OPEN - CLOSED) ** 2)]


def test_unanswerable_questions_stand_behind_segments_without_a_fact() -> None:
    tokenizer = build_tokenizer()
    batch = draw(Drawer(tokenizer, "train"), 2, unanswerable=40)
    assert batch.unanswerable.shape == (40, SEGMENT_LENGTH)
    questions = {tuple(last[-7:].tolist()) for last in batch.last}
    facts = [fact.text for fact in (*moves("train"), *relations("train"))]
    for segment in batch.unanswerable:
        ending = tuple(segment[-7:].tolist())
        assert ending in questions or tokenizer.decode(segment[-4:]).startswith("Where is")
        assert not any(fact in tokenizer.decode(segment).replace(" .", ".") for fact in facts)


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


def test_levels_go_up_by_results_or_by_patience() -> None:
    recipe = replace(Recipe(), unanswerable=1)
    model, tokenizer = untrained(recipe)
    stage = Stage("carry", tuple(Level(4, segments, 25) for segments in (2, 3, MAX_SEGMENTS)), 100, 1e-3, rows=FEW)
    trainer = Trainer(recipe, stage, model, tokenizer)
    assert model.write_penalty == 0
    trainer.recent = [torch.tensor([1.0, 1.0, 0.5])] * 19
    assert not trainer.passed(5)
    trainer.recent = [torch.tensor([1.0, 1.0, 0.97])] * 20
    assert trainer.passed(5)
    trainer.recent = [torch.tensor([1.0, 1.0, 0.5])] * 20
    assert not trainer.passed(5) and trainer.passed(24)
    trainer.level = 1
    trainer.recent = [torch.tensor([1.0, 1.0, 1.0])] * 20
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
