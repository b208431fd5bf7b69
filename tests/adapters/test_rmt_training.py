"""Gradients through memory: as far back as was asked, equal to a plain loop, and in bounded memory."""

from __future__ import annotations

import sys
import weakref
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
sys.path.insert(0, str(Path(__file__).parent))

import pytest
import torch
from encoders import build_encoder, random_text
from rmt_models import decoder, left_padded
from rmt_oracle import decoder_row, encoder_row
from torch import Tensor
from torch.nn.functional import cross_entropy

from jrt.adapters.rmt import RMT
from jrt.errors import InvalidOptionError

CLOSE = dict(rtol=1e-3, atol=1e-5)
LENGTH = 4


def encoder(head: str = "ForSequenceClassification", **options: Any) -> Any:
    method = RMT(**(dict(num_memory_tokens=2, segment_length=LENGTH, initial_std=1.0, update="gated") | options))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return method.adapt(build_encoder("bert", head))


def different_tokens(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Rows padded on the left in which no token comes twice, and their mask."""
    rows, mask = torch.zeros(len(lengths), max(lengths), dtype=torch.long), torch.zeros(len(lengths), max(lengths))
    token = 5
    for row, length in enumerate(lengths):
        rows[row, -length:] = torch.arange(token, token + length)
        mask[row, -length:] = 1
        token += length
    return rows, mask.long()


def reached_tokens(model: Any) -> set[int]:
    gradient = model.base.get_input_embeddings().weight.grad
    return {int(token) for token in gradient.abs().sum(dim=1).nonzero()[:, 0]}


@pytest.mark.parametrize("reach", [0, 1, 2, 3, None])
def test_the_gradient_of_an_encoder_reaches_so_many_segments_and_no_more(reach: int | None) -> None:
    model = encoder(bptt_segments=reach)
    lengths = [19, 12, 3, 8]
    ids, mask = different_tokens(lengths)
    model(ids, mask, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    tokens = len(ids[0]) if reach is None else LENGTH * (reach + 1)
    expected = {int(token) for row, length in zip(ids, lengths, strict=True) for token in row[-min(tokens, length) :]}
    assert reached_tokens(model) == expected
    assert model.initial_memory.grad is not None, "the short rows begin within reach"


@pytest.mark.parametrize("reach", [0, 1, 2, 3, None])
def test_the_gradient_of_a_decoder_reaches_so_many_segments_and_no_more(reach: int | None) -> None:
    model = decoder(segment_length=LENGTH, bptt_segments=reach, update="gated")
    lengths = [18, 12, 3, 8]
    ids, mask = different_tokens(lengths)
    labels, expected = torch.full_like(ids, -100), set()
    for row, length in enumerate(lengths):
        last = (length - 1) % LENGTH + 1  # the last segment; its first token is predicted from the one before
        labels[row, -last + 1 :] = ids[row, -last + 1 :]
        tokens = length if reach is None else min(length, last + LENGTH * reach)
        expected |= {int(token) for token in ids[row, -tokens:-1]}
    model.train()(ids, mask, labels=labels).loss.backward()
    assert reached_tokens(model) == expected


@pytest.mark.parametrize("reach", [0, 1, 2])
def test_segments_before_the_last_form_windows_of_the_same_reach(reach: int) -> None:
    model = decoder(segment_length=LENGTH, bptt_segments=reach).train()
    ids, mask = different_tokens([6 * LENGTH])
    for number in range(6):
        labels = torch.full_like(ids, -100)
        inside = slice(number * LENGTH + 1, (number + 1) * LENGTH)
        labels[0, inside] = ids[0, inside]
        model.zero_grad(set_to_none=True)
        model(ids, mask, labels=labels).loss.backward()
        linked = [other for other in range(number + 1) if (5 - other) // (reach + 1) == (5 - number) // (reach + 1)]
        expected = ids[0, linked[0] * LENGTH : (number + 1) * LENGTH - 1]
        assert reached_tokens(model) == set(expected.tolist())


@pytest.mark.parametrize("reach", [0, 1, 2])
def test_a_memory_from_an_earlier_call_is_a_segment_further_back(reach: int) -> None:
    model = encoder(bptt_segments=reach)
    ids, mask = different_tokens([LENGTH, 2 * LENGTH, 3 * LENGTH])
    memory = torch.randn(3, 2, 32, requires_grad=True)
    model(ids, mask, memory=memory, labels=torch.tensor([0, 1, 2])).loss.backward()
    reached = [bool(row.any()) for row in memory.grad] if memory.grad is not None else [False] * 3
    assert reached == [reach >= 1, reach >= 2, False]


@pytest.mark.parametrize("reach", [None, 1])
def test_gradients_of_an_encoder_are_those_of_a_plain_loop(reach: int | None) -> None:
    model = encoder(bptt_segments=reach)
    ids, labels = random_text(2, 14), torch.tensor([0, 2])
    model(ids, labels=labels).loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    losses = []
    for row, label in zip(ids, labels, strict=True):
        first = 0 if reach is None else 14 - LENGTH * (reach + 1)
        memory = encoder_row(model, row[:first].tolist())[2].detach() if first else None
        logits = encoder_row(model, row[first:].tolist(), memory)[0][-1].logits
        losses.append(cross_entropy(logits, label[None]))
    torch.stack(losses).mean().backward()
    for name, parameter in model.named_parameters():
        expected = torch.zeros(()) if parameter.grad is None else parameter.grad
        assert torch.allclose(torch.zeros(()) if found[name] is None else found[name], expected, **CLOSE), name


def test_gradients_of_a_decoder_are_those_of_a_plain_loop() -> None:
    model = decoder(update="gated").train()
    ids, mask = left_padded([20, 9])
    model(ids, mask, labels=ids.masked_fill(mask == 0, -100)).loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    losses = []
    for row in range(2):
        text = ids[row, mask[row].bool()]
        losses.append(cross_entropy(decoder_row(model, text.tolist())[0][:-1], text[1:], reduction="sum"))
    (sum(losses) / 27).backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(found[name], parameter.grad, **CLOSE), name


def grads(model: Any, **inputs: Any) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    model(**inputs).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def saved_bytes(model: Any, **inputs: Any) -> int:
    """Bytes that a forward keeps for its backward pass."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(**inputs)
    return sum(sizes.values())


def most_alive(model: Any, layer: Any, **inputs: Any) -> int:
    """In how many segments at once a layer's activations are held, over the whole step."""
    alive: list[Any] = []
    most = [0]

    def count(module: Any, arguments: Any, output: Any) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        alive.append(weakref.ref(tensor))
        most[0] = max(most[0], sum(reference() is not None for reference in alive))

    handle = layer.register_forward_hook(count)
    model(**inputs).loss.backward()
    handle.remove()
    return most[0]


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_checkpointing_bounds_the_memory_of_training_and_keeps_the_gradients(kind: str) -> None:
    def inputs(segments: int) -> dict[str, Tensor]:
        ids = random_text(2, LENGTH * segments)
        return {"input_ids": ids, "labels": torch.tensor([0, 2]) if kind == "encoder" else ids}

    model = encoder() if kind == "encoder" else decoder(segment_length=LENGTH, update="gated").train()
    layer = model.base.bert.encoder.layer[0] if kind == "encoder" else model.base.model.layers[0]
    plain = grads(model, **inputs(6))
    growth = saved_bytes(model, **inputs(16)) - saved_bytes(model, **inputs(8))
    assert most_alive(model, layer, **inputs(12)) == 12
    model.activation_checkpointing_enable()
    for name, gradient in grads(model, **inputs(6)).items():
        assert torch.allclose(gradient, plain[name], **CLOSE), name
    assert saved_bytes(model, **inputs(16)) - saved_bytes(model, **inputs(8)) < 0.05 * growth
    assert most_alive(model, layer, **inputs(12)) <= 2
    model.activation_checkpointing_disable()
    assert most_alive(model, layer, **inputs(5)) == 5
    assert encoder(gradient_checkpointing=True).checkpointing
    with pytest.raises(InvalidOptionError, match="offloads nothing"):
        model.activation_checkpointing_enable(offload=True)


def test_without_a_loss_over_tokens_segments_out_of_reach_keep_nothing() -> None:
    model = encoder(bptt_segments=1)
    sizes = [
        saved_bytes(model, input_ids=random_text(1, LENGTH * count), labels=torch.tensor([1])) for count in (4, 40)
    ]
    assert sizes[1] <= 1.01 * sizes[0]
    ids = random_text(1, LENGTH * 9)
    with torch.no_grad():
        torch.nn.init.normal_(model.write_gate.weight)
        whole = encoder(bptt_segments=None)
        whole.load_learned(model.learned())
        assert torch.equal(model(ids).mean_write, whole(ids).mean_write), "outside of training all gates count"
        last = model(ids[:, -2 * LENGTH :], memory=model(ids[:, : -2 * LENGTH]).memory).mean_write
    for module in model.train().modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    assert torch.allclose(model(ids).mean_write, last, **CLOSE), "in training those that a gradient comes to"


def test_the_optimizer_leaves_memory_and_gate_undecayed() -> None:
    model = encoder()
    decaying, kept = model.parameter_groups(0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    undecayed = {names[id(parameter)] for parameter in kept["params"]}
    assert {"initial_memory", "write_gate.weight", "write_gate.bias", "write_norm.weight"} <= undecayed
    assert len(decaying["params"]) + len(kept["params"]) == len(names)
    assert (decaying["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)


def test_the_stock_trainer_trains_it(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    model = encoder(write_penalty=0.1).train()
    before = model.initial_memory.detach().clone()
    rows = [{"input_ids": row, "labels": int(row[0]) % 3} for row in random_text(16, 13)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=4, max_steps=4, learning_rate=1e-2, report_to=[],
        save_strategy="no", activation_checkpointing=True, use_cpu=True, disable_tqdm=True, logging_steps=1,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=rows)
    trainer.train()
    assert model.checkpointing and not torch.equal(model.initial_memory, before)
    assert trainer.evaluate(rows)["eval_loss"] > 0
