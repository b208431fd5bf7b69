"""Training through the memory: the loss, what gradients reach, what is computed again, what the optimizer is told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

import pytest
import torch
import torch.nn.functional as F
from infini_families import build
from torch import Tensor
from zoo import random_ids

from jrt.adapters.infini import InfiniAttention

S = 8
IDS = random_ids(2, 36)


def training(name: str = "llama", **options: Any) -> Any:
    options = dict(feature_map="relu", gate_init=0.5) | options
    return InfiniAttention(S, **options).adapt(build(name)).train()


def gradients(model: Any, labels: Tensor = IDS, mask: Tensor | None = None) -> dict[str, Tensor]:
    model.zero_grad()
    model(IDS, mask, labels=labels).loss.backward()
    found = {name: weight.grad for name, weight in model.named_parameters()}
    assert all(grad is not None and grad.isfinite().all() for grad in found.values())
    return found


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    for name, grad in one.items():
        torch.testing.assert_close(
            grad, other[name], rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_the_loss_is_transformers_own() -> None:
    model = InfiniAttention(64).adapt(build("llama"))
    labels = IDS.masked_fill(torch.rand(IDS.shape, generator=torch.Generator().manual_seed(0)) < 0.4, -100)
    for batch in ({}, {"num_items_in_batch": 11}):
        expected = model.base(IDS, labels=labels, **batch).loss
        for mode in (True, False):
            torch.testing.assert_close(model.train(mode)(IDS, labels=labels, **batch).loss, expected)
    assert model(IDS, labels=labels).logits is not None and model.train()(IDS, labels=labels).logits is None
    model = training()
    expected = F.cross_entropy(model(IDS).logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(model(IDS, labels=labels).loss, expected)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "falcon"])
@pytest.mark.parametrize("how", ["ours", "base"])
def test_reading_segments_again_gives_the_same_gradients(name: str, how: str) -> None:
    model = training(name, write_gate=True, write_penalty=0.3)
    for parameter in model.write_gates.parameters():
        parameter.data.add_(0.1)
    kept = gradients(model)
    (model if how == "ours" else model.base).activation_checkpointing_enable()
    calls: list[int] = []
    handle = model.base.get_input_embeddings().register_forward_hook(lambda *_: calls.append(1))
    again = gradients(model)
    handle.remove()
    assert len(calls) == 2 * 5  # every segment, forward and backward
    assert_same(kept, again)
    if how == "base":
        assert all(layer.gradient_checkpointing for layer in _layers(model.base))  # as it was


def _layers(base: Any) -> list[Any]:
    return [module for module in base.modules() if "gradient_checkpointing" in vars(module)]


def test_padded_rows_train_like_rows_alone() -> None:
    model = training(write_penalty=0.2)
    mask = torch.ones_like(IDS)
    mask[0, :11] = 0
    together = gradients(model, IDS, mask)  # labels at padding count for nothing
    model.zero_grad()
    alone = [IDS[:1, 11:], IDS[1:]]
    outputs = [model(row, labels=row) for row in alone]
    counts = torch.tensor([row.shape[1] - 1 for row in alone])
    tokens = torch.tensor([row.shape[1] for row in alone])
    losses = torch.stack([output.loss - 0.2 * output.mean_write for output in outputs])
    writes = torch.stack([output.mean_write for output in outputs])
    ((losses * counts).sum() / counts.sum() + 0.2 * (writes * tokens).sum() / tokens.sum()).backward()
    assert_same(together, {name: weight.grad for name, weight in model.named_parameters()})


@pytest.mark.parametrize("padding", ["left", "right", "between"])
@pytest.mark.parametrize("labels_at_padding", [False, True])
def test_the_loss_of_a_padded_batch_is_the_mean_over_the_tokens_of_its_rows(
    padding: str, labels_at_padding: bool
) -> None:
    model = training().eval()
    places = {"left": range(11, 36), "right": range(25), "between": [*range(9), *range(20, 36)]}[padding]
    row = IDS[:1, : len(places)]
    total = sum(F.cross_entropy(model(one).logits[0, :-1], one[0, 1:], reduction="sum") for one in (row, IDS[1:]))
    ids, mask = IDS.clone(), torch.ones_like(IDS)
    mask[0] = 0
    mask[0, list(places)] = 1
    ids[0, list(places)] = row[0]
    labels = ids if labels_at_padding else ids.masked_fill(mask == 0, -100)
    expected = total / (row.shape[1] - 1 + IDS.shape[1] - 1)
    for mode in (False, True):
        torch.testing.assert_close(model.train(mode)(ids, mask, labels=labels).loss, expected)
    assert model(ids, mask, labels=torch.full_like(ids, -100)).loss == 0  # as of every method, not 0 / 0


def test_batches_that_share_a_step_share_its_penalty() -> None:
    """Trainer divides the loss of each batch of a step by the labels of all, and adds them up."""
    model = training(write_penalty=0.5)
    one = model(IDS, labels=IDS)
    parts = [model(row, labels=row, num_items_in_batch=70) for row in (IDS[:1], IDS[1:])]
    torch.testing.assert_close(parts[0].loss + parts[1].loss, one.loss)


def reach(model: Any) -> list[int]:
    """Which segments' keys the loss on the last segment has a gradient for."""
    embeddings = model.base.get_input_embeddings()(IDS).detach().requires_grad_()
    labels = IDS.clone()
    labels[:, : 4 * S + 1] = -100
    model.write_penalty = 0.0
    model(inputs_embeds=embeddings, labels=labels).loss.backward()
    assert embeddings.grad is not None
    return [index for index, part in enumerate(embeddings.grad.split(S, 1)) if part.abs().max() > 0]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_as_far_back_as_they_are_asked_to(checkpointing: bool) -> None:
    whole = [0, 1, 2, 3, 4]
    for segments, expected in ((None, whole), (4, whole), (3, whole[1:]), (2, whole[2:]), (1, [3, 4]), (0, [4])):
        model = training(bptt_segments=segments, gradient_checkpointing=checkpointing)
        assert reach(model) == expected


def test_what_is_written_costs_what_the_penalty_says() -> None:
    ids = IDS[:, :20]
    for options, amount in (({}, None), ({"write_gate": True}, 1.0)):
        model = training(write_penalty=0.5, **options)
        output = model(ids, labels=ids)
        model.write_penalty = 0.0
        plain = model(ids, labels=ids)
        torch.testing.assert_close(output.loss - plain.loss, 0.5 * output.mean_write)
        assert amount is None or output.mean_write == amount
        assert model.eval()(ids, labels=ids).mean_write is None
    keys = []
    model = training(layers=(0,), write_penalty=1.0)
    handle = model.base.model.layers[0].self_attn.k_proj.register_forward_hook(lambda *a: keys.append(a[-1]))
    found = model(ids, labels=ids).mean_write
    handle.remove()
    torch.testing.assert_close(found, keys[0].relu().mean())


def test_a_penalty_can_stop_all_writing_and_nothing_is_then_exactly_nothing() -> None:
    for options in ({"feature_map": "relu"}, {"feature_map": "elu", "write_gate": True}):
        torch.manual_seed(0)
        model = training(write_penalty=1.0, layers=(0,), **options)
        keys = [model.base.model.layers[0].self_attn.k_proj.weight, *model.write_gates.parameters()]
        optimizer = torch.optim.Adam(keys, lr=0.03)
        for _ in range(60):
            output = model(IDS, labels=IDS)
            optimizer.zero_grad()
            output.mean_write.backward()
            optimizer.step()
        with torch.no_grad():
            assert model(IDS, labels=IDS).mean_write < 0.02
            for gate in model.write_gates.values():
                gate.weight.zero_()
                gate.bias.fill_(-0.1)
            if not model.write_gates:
                model.base.model.layers[0].self_attn.k_proj.weight.zero_()
            layer = model.eval()(IDS).past_key_values.layers[0]
            assert not layer.memory.any() and not layer.normaliser.any()
            closed = InfiniAttention(S).adapt(model.base).eval()
            for gate in closed.gates.values():
                gate.fill_(float("-inf"))
            torch.testing.assert_close(model(IDS).logits, closed(IDS).logits, rtol=0, atol=1e-6)


def test_gates_have_a_group_of_their_own() -> None:
    model = training(write_gate=True, gate_learning_rate=0.01, gate_init=0.0)
    groups = model.parameter_groups(0.1)
    assert groups[-1]["lr"] == 0.01 and groups[-1]["weight_decay"] == 0.0
    assert {id(weight) for weight in groups[-1]["params"]} == {id(gate) for gate in model.gates.values()}
    every = [id(weight) for group in groups for weight in group["params"]]
    assert sorted(every) == sorted(id(weight) for weight in model.parameters())
    decayed = {id(weight) for group in groups if group["weight_decay"] for weight in group["params"]}
    assert not decayed & {id(weight) for weight in [*model.gates.parameters(), *model.write_gates.parameters()]}
    values = model.gate_values()
    assert set(values) == {0, 1, 2} and all((share == 0.5).all() and len(share) == 4 for share in values.values())
    optimizer = torch.optim.AdamW(groups, lr=1e-6)
    gradients(model)
    optimizer.step()
    moved = torch.stack([share - 0.5 for share in model.gate_values().values()]).abs()
    assert (moved > 2e-3).all()  # Adam's first step is the learning rate, a quarter of it in the share


def test_dropout_of_the_base_is_kept() -> None:
    model = training(write_penalty=0.0)
    model.base.config.attention_dropout = 0.5
    for layer in model.base.model.layers:
        layer.self_attn.attention_dropout = 0.5
    torch.manual_seed(0)
    assert not torch.allclose(model(IDS).logits, model(IDS).logits)
    assert torch.equal(model.eval()(IDS).logits, model(IDS).logits)
