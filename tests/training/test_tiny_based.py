"""The recipe of the tiny pair is fair: the same weights, state and data for both, and nothing held out in training."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import jrt
from jrt.state import State, advance
from jrt.training.facts import RELATIONS, SUBJECTS, Fact, text_of
from jrt.training.tiny_based import KINDS, PROMPTS, Documents, Recipe, Stage, build_model, losses, train
from jrt.training.tiny_recurrent import build_tokenizer

SMALL = Recipe(batch_size=8, stages=(Stage(4, 2, 3, 0.1, 1.0), Stage(8, 3, 3, 1.0, 0.3)))


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_the_twins_have_the_same_number_of_weights_and_the_same_state(tokenizer) -> None:
    models = [build_model(kind, tokenizer) for kind in KINDS]
    causal, prefix = (model.num_parameters() for model in models)
    assert abs(causal - prefix) <= 0.03 * causal and causal * 4 < 1_000_000
    sizes = set()
    for model in models:
        state = State.empty(1)
        advance(model.eval(), state, torch.ones(1, 30, dtype=torch.long), capabilities=jrt.probe(model))
        sizes.add(state.nbytes)
        layer = state.cache.layers[1]
        assert layer.sums[0, 0, :15].ne(0).any() and layer.sums.shape == (1, 2, 32, 8), "2 x 15 x 8 sums, and padding"
    assert len(sizes) == 1


@pytest.mark.parametrize("num_facts", [1, 4, 16])
def test_documents_are_their_text_in_tokens_and_hold_facts_of_the_train_split(tokenizer, num_facts: int) -> None:
    statements = {relation.statement: key for key, relation in RELATIONS.items()}
    pattern = re.compile(rf"(\w+) ({'|'.join(statements)}) (\w+)\.")
    source = Documents(tokenizer, 3)
    for _ in range(6):
        batch = source.draw(20, num_facts, 5)
        for row, asked in zip(batch.ids, batch.asked.tolist(), strict=True):
            text = tokenizer.decode(row)
            facts = [Fact(name, statements[said], value) for name, said, value in pattern.findall(text)]
            assert len({fact.subject for fact in facts}) == num_facts and {fact.split for fact in facts} == {"train"}
            assert {fact.subject for fact in facts} <= set(SUBJECTS[:20])
            plan = PROMPTS["once"].plan(text_of(tuple(facts)), facts[asked].question)
            whole = f"{plan.text} {facts[asked].value}{tokenizer.eos_token}"
            assert tokenizer(whole)["input_ids"] == row.tolist()
            assert tokenizer.convert_ids_to_tokens(row[batch.values].tolist()) == [fact.value for fact in facts]


def test_every_fact_of_the_train_split_is_drawn_equally_often(tokenizer) -> None:
    source, counts = Documents(tokenizer, 0), torch.zeros(len(tokenizer))
    for _ in range(100):
        counts.index_add_(0, source.draw(64, 8, 32).ids[:, 0], torch.ones(32))
    names = counts[source.names]
    assert float(names.sum()) == 3200 and float(names.max()) < 2.2 * 50 and float(names.min()) > 0.3 * 50


@torch.no_grad()
def test_the_prompt_is_the_prefix_and_the_answer_is_not(tokenizer) -> None:
    model, batch = build_model("jrt-rnn", tokenizer).double().eval(), Documents(tokenizer, 1).draw(8, 3, 4)
    loss, _, _ = losses(model, torch.nn.Linear(32, 1).double(), batch)
    total = 0.0
    for row in batch.ids:
        logits = model(row[None, :-1], prefix_length=len(row) - 2).logits[0].log_softmax(-1)
        total -= float(logits[-2, row[-2]] + 0.1 * logits[-1, row[-1]])
    assert float(loss) == pytest.approx(total / 4, rel=1e-6)


def test_the_probe_is_asked_at_the_values(tokenizer) -> None:
    model, batch = build_model("jrt-rnn", tokenizer).eval(), Documents(tokenizer, 1).draw(8, 4, 6)
    seen: list[torch.Tensor] = []

    class Probe(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return torch.nn.functional.one_hot(batch.asked, 4)[..., None] * 40.0 - 20.0

    _, finding, _ = losses(model, Probe(), batch)
    states = model.transformer(batch.ids[:, :-1], prefix_length=99, output_hidden_states=True).hidden_states[3]
    assert seen[0].shape == (6, 4, 32) and float(finding) < 1e-6
    assert states.shape == (6, batch.ids.shape[1] - 1, 32)


def test_both_kinds_see_the_same_documents_and_the_same_seed_gives_the_same_weights(tokenizer, monkeypatch) -> None:
    seen: dict[str, list[torch.Tensor]] = {}
    weights = {}
    for run, kind in (("a", "based"), ("b", "jrt-rnn"), ("c", "jrt-rnn")):
        read = seen.setdefault(run, [])

        def recorded(model: Any, probe: Any, batch: Any, read: list[torch.Tensor] = read) -> Any:
            read.append(batch.ids)
            return losses(model, probe, batch)

        monkeypatch.setattr("jrt.training.tiny_based.losses", recorded)
        model, _, record = train(kind, SMALL)
        weights[run] = model.state_dict()
        assert record["recipe"]["seed"] == 0 and record["model"] == kind
    assert len(seen["a"]) == SMALL.steps == 6
    assert all(torch.equal(*pair) for run in "bc" for pair in zip(seen["a"], seen[run], strict=True))
    assert all(torch.equal(weights["b"][name], weights["c"][name]) for name in weights["b"])
