"""ARMT: closed forms of its memory, the model alone at the start, and a plain loop over layers and tokens."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
sys.path.insert(0, str(Path(__file__).parent))

import pytest
import torch
from encoders import CLS, SEP, build_encoder, random_text
from rmt_models import build_decoder, left_padded
from rmt_oracle import pieces
from torch import Tensor
from transformers import XLNetConfig, XLNetForSequenceClassification
from zoo import random_ids

import jrt
from jrt.adapters.armt import ARMT
from jrt.adapters.armt_memory import NORMALIZATIONS, Lengths, Sums, features
from jrt.errors import StateMismatchError, UnsupportedModelError
from jrt.state import State, advance

CLOSE = dict(rtol=1e-4, atol=1e-4)


def adapted(base: Any, seed: int | None = 0, **options: Any) -> Any:
    """The model with values that matter, or as it starts when there is no seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed or 0)
        model = ARMT(**(dict(num_memory_tokens=2, segment_length=6, key_width=4) | options)).adapt(base)
        for memory in model.layer_memories if seed is not None else ():
            torch.nn.init.normal_(memory.value.weight, std=0.3)
    return model


def dpfp(x: Tensor, order: int) -> Tensor:
    halves = [max(float(value), 0.0) for value in [*x, *-x]]
    return torch.tensor([halves[i] * halves[i - shift] for shift in range(1, order + 1) for i in range(len(halves))])


def test_the_feature_map_is_that_of_the_paper() -> None:
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    for row, found in zip(x, features(x, 3), strict=True):
        assert torch.allclose(found, dpfp(row, 3)) and len(found) == 2 * 3 * 5


@pytest.mark.parametrize("rule", [Sums, Lengths])
def test_a_key_that_is_written_again_holds_its_last_value(rule: Any) -> None:
    read, write = rule.read, rule.write
    keys = rule.prepared(torch.eye(4)[None, :2] * 1.7)
    first, second, other = torch.randn(3, 1, 1, 6, generator=torch.Generator().manual_seed(0))
    one = torch.ones(1, 1, 1)
    state = torch.zeros(1, 6 + rule.extra_rows, 4)
    assert not read(state, keys).any(), "what was never written is nothing"
    state = write(state, keys[:, 1:], other, one)
    for _ in range(200):
        state = write(state, keys[:, :1], first, one)
    assert torch.allclose(read(state, keys[:, :1]), first, **CLOSE)
    state = write(state, keys[:, :1], second, one)
    assert torch.allclose(read(state, keys[:, :1]), second, **CLOSE)
    assert torch.allclose(read(state, keys[:, 1:]), other, **CLOSE), "the other key keeps its value"
    if rule is Sums:
        assert torch.allclose(state[0, -1, :2], torch.tensor([1.7, 1.7]), **CLOSE), "z counts each key once"
    half = write(state, keys[:, :1], first, one / 2)
    assert torch.allclose(read(half, keys[:, :1]), (first + second) / 2, **CLOSE)


@pytest.mark.parametrize("rule", [Sums, Lengths])
def test_copies_of_a_key_in_one_segment_are_one_writing(rule: Any) -> None:
    """As published the second value comes out as 20 times it less 19 times the first, and after 50 segments as NaN."""
    read, write = rule.read, rule.write
    key = rule.prepared(torch.tensor([1.7, 0.0, 0.3]))
    first, second = torch.randn(2, 1, 1, 6, generator=torch.Generator().manual_seed(0))
    state = write(torch.zeros(1, 6 + rule.extra_rows, 3), key.expand(1, 1, 3), first, torch.ones(1, 1, 1))
    copies = [key.expand(1, 20, 3), second.expand(1, 20, 6), torch.ones(1, 20, 1)]
    assert torch.allclose(read(write(state, *copies), key.expand(1, 1, 3)), second, **CLOSE)
    for segment in range(200):
        copies[1] = (second if segment % 2 else first).expand(1, 20, 6)
        state = write(state, *copies)
    assert torch.allclose(read(state, key.expand(1, 1, 3)), second, **CLOSE)
    if rule is Sums:
        assert torch.allclose(state[0, -1], key, **CLOSE), "z counts the key once"


def test_a_read_out_between_keys_is_a_part_of_what_was_written_with_lengths_and_a_multiple_with_sums() -> None:
    """A 1 is written under a key that is nearly there already: z hardly grows by it, and A does."""
    one, nearly, rest = torch.tensor([[[1.0, 0.0]], [[1.0, 0.1]], [[0.0, 1.0]]])
    strength = torch.ones(1, 1, 1)
    found = {}
    for name, rule in NORMALIZATIONS.items():
        state = rule.write(torch.zeros(1, 1 + rule.extra_rows, 2), rule.prepared(one)[None], 0 * strength, strength)
        state = rule.write(state, rule.prepared(nearly)[None], strength, strength)
        found[name] = float(rule.read(state, rule.prepared(rest)[None]))
    assert found["length"] == pytest.approx(0.1, rel=0.01)
    assert found["sum"] == pytest.approx(0.1 / (0.1 * (1 - 1 / 1.01)), rel=0.02)


@torch.no_grad()
def test_a_segment_of_unit_keys_makes_no_read_out_longer() -> None:
    """Written with zeros, a memory only shrinks, however its keys overlap."""
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(1, 6, 8, generator=generator)
    for count in (1, 3, 20):
        keys = Lengths.prepared(torch.rand(1, count, 8, generator=generator).pow(4))
        new = Lengths.write(state, keys, torch.zeros(1, count, 6), torch.ones(1, count, 1))
        assert torch.linalg.matrix_norm(new, ord=2) <= torch.linalg.matrix_norm(state, ord=2) + 1e-5
        assert not torch.allclose(new, state)
        state = new


@pytest.mark.parametrize("std", [0.02, 1.0])
def test_keys_have_length_one_for_small_hidden_states_too(std: float) -> None:
    hidden = std * torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    lengths = Lengths.prepared(features(hidden, 3)).norm(dim=-1)
    assert torch.allclose(lengths, torch.ones(20), atol=2e-3), lengths


@torch.no_grad()
def test_a_memory_is_float32_under_autocast() -> None:
    model = adapted(build_encoder("bert", "ForSequenceClassification"), cls_token_id=CLS, sep_token_id=SEP)
    memory = model.layer_memories[0]
    state, tokens = torch.randn(1, model.rows_a_layer, model.features), torch.randn(1, 2, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, read = memory.written(state, tokens), memory.read(state, tokens)
        assert model(torch.arange(5, 17)[None]).memory.dtype == torch.float32
    assert torch.equal(found, memory.written(state, tokens)) and torch.equal(read, memory.read(state, tokens))


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt_narrow", "gemma3", "mistral_window"])
@torch.no_grad()
def test_a_decoder_starts_as_the_model_alone_on_every_segment(name: str) -> None:
    base = build_decoder(name)
    model, ids = adapted(base, seed=None), random_ids(2, 20)
    expected = torch.cat([base(part).logits for part in ids.split(6, dim=1)], dim=1)
    assert torch.allclose(model(ids).logits, expected, **CLOSE)
    assert not torch.allclose(adapted(base)(ids).logits, expected, **CLOSE)


@torch.no_grad()
def through_layers(
    model: Any, layers: Any, hidden: Tensor, states: Tensor, places: list[int], **options: Any
) -> Tensor:
    """Runs the layers one by one; every token reads for itself, and the outputs at `places` write, one after another
    into what was there before the segment. `states` changes in place, (layers, D + 1, K)."""
    for number, layer in enumerate(layers):
        memory, state = model.layer_memories[number], states[number].clone()
        by_length = model.method.normalization == "length"
        matrix, total = (state, None) if by_length else (state[:-1], state[-1])

        def prepared(key: Tensor, by_length: bool = by_length) -> Tensor:
            return key / (key @ key + 1e-9).sqrt() if by_length else key

        def found(key: Tensor, matrix: Tensor = matrix, total: Tensor | None = total) -> Tensor:
            return matrix @ key if total is None else matrix @ key / (total @ key + 1e-5)

        tokens = []
        for token in hidden[0]:
            tokens.append(token + found(prepared(dpfp(memory.query.weight @ token, model.method.feature_order))))
        output = layer(torch.stack(tokens)[None], **options)
        hidden = output[0] if isinstance(output, tuple) else output
        order = model.method.feature_order
        keys = [prepared(dpfp(memory.key.weight @ hidden[0, place], order)) for place in places]
        for place, key in zip(places, keys, strict=True):
            token = hidden[0, place]
            strength = torch.sigmoid(memory.strength.weight @ token + memory.strength.bias)
            own = key @ key / (sum(key @ other for other in keys) + 1e-5)
            change = own * torch.outer(strength * (memory.value.weight @ token - found(key)), key)
            states[number, : len(change)] += change
            if total is not None:
                gamma = (1 - total @ key / (key @ key + 1e-5)).clamp(0, 1)
                states[number, -1] += own * gamma * key
    return hidden


@torch.no_grad()
def llama_row(model: Any, row: list[int]) -> tuple[Tensor, Tensor]:
    """Logits of every token and the states of the layers."""
    body, m = model.base.model, model.method.num_memory_tokens
    states, logits = torch.zeros(len(body.layers), model.rows_a_layer, model.features), []
    for piece in pieces(row, model.segment_length, "left"):
        full = len(piece) == model.segment_length
        parts = [body.embed_tokens(torch.tensor([piece]))] + [model.initial_memory[None]] * full
        hidden = torch.cat(parts, dim=1)
        length = hidden.shape[1]
        positions = torch.arange(length)[None]
        options = dict(
            attention_mask=torch.full((length, length), float("-inf")).triu(1)[None, None],
            position_embeddings=body.rotary_emb(hidden, positions),
            position_ids=positions,
        )
        hidden = through_layers(model, body.layers, hidden, states, list(range(length - m, length)) * full, **options)
        logits.append(model.base.lm_head(body.norm(hidden))[0, : len(piece)])
    return torch.cat(logits), states


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@torch.no_grad()
def test_ragged_rows_of_a_decoder_equal_a_plain_loop_in_any_cut(normalization: str) -> None:
    model = adapted(build_decoder("llama"), normalization=normalization)
    ids, mask = left_padded([20, 9, 13])
    expected = [llama_row(model, ids[row, mask[row].bool()].tolist()) for row in range(3)]
    for sizes in ([20], [3, 11, 1, 5]):
        cache, logits, end = None, [], 0
        for part in ids.split(sizes, dim=1):
            end += part.shape[1]
            if not mask[:, end - part.shape[1] : end].any():
                continue
            output = model(part, mask[:, :end], past_key_values=cache)
            cache = output.past_key_values
            logits.append(output.logits)
        for row in range(3):
            kept = mask[row].bool()
            assert torch.allclose(torch.cat(logits, dim=1)[row, kept], expected[row][0], **CLOSE)
            assert torch.allclose(output.memory[row], expected[row][1].flatten(0, 1), **CLOSE)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@torch.no_grad()
def test_rows_of_an_encoder_equal_a_plain_loop(normalization: str) -> None:
    options = dict(cls_token_id=CLS, sep_token_id=SEP, normalization=normalization)
    model = adapted(build_encoder("bert", "ForSequenceClassification"), **options)
    ids, mask = left_padded([20, 9])
    ids = ids.remainder(50) + 5
    bert = model.base.bert
    for row in range(2):
        states = torch.zeros(2, model.rows_a_layer, model.features)
        for piece in pieces(ids[row, mask[row].bool()].tolist(), 6, "right"):
            embed = bert.get_input_embeddings()
            parts = [embed(torch.tensor([CLS])), model.initial_memory, embed(torch.tensor([SEP, *piece, SEP]))]
            hidden = bert.embeddings(inputs_embeds=torch.cat(parts)[None])
            hidden = through_layers(model, bert.encoder.layer, hidden, states, [1, 2])
        expected = model.base.classifier(bert.pooler(hidden))
        found = model(ids, mask)
        assert torch.allclose(found.logits[row], expected[0], **CLOSE)
        assert torch.allclose(found.memory[row], states.flatten(0, 1), **CLOSE)


def test_answers_roll_over_borders_and_states_are_chosen() -> None:
    model = adapted(build_decoder("gpt2"))
    ids, mask = left_padded([17, 8])
    options = dict(max_new_tokens=15, do_sample=False, eos_token_id=-1, pad_token_id=0)
    both = model.generate(ids, mask, **options)[:, 17:]
    for row in range(2):
        prompt = ids[row : row + 1, mask[row].bool()]
        assert torch.equal(both[row : row + 1], model.generate(prompt, **options)[:, prompt.shape[1] :])
    state = State.empty(2)
    advance(model, state, ids, mask, capabilities=model.capabilities)
    chosen = state.select(torch.tensor([1, 1, 0]))
    assert torch.equal(chosen.cache.memory, state.cache.memory[[1, 1, 0]])


@pytest.mark.parametrize("reach", [0, 1, None])
def test_gradients_reach_as_far_as_asked_and_are_those_without_checkpoints(reach: int | None) -> None:
    model = adapted(build_encoder("bert", "ForSequenceClassification"), bptt_segments=reach, segment_length=4)
    ids, labels = torch.arange(5, 25)[None], torch.tensor([1])
    grads = []
    for checkpointing in (False, True):
        model.checkpointing = checkpointing
        model.zero_grad(set_to_none=True)
        model(ids, labels=labels).loss.backward()
        grads.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    reached = model.base.get_input_embeddings().weight.grad.abs().sum(dim=1).nonzero()[:, 0].tolist()
    assert reached == list(range(5 if reach is None else 25 - 4 * (reach + 1), 25))
    assert grads[0].keys() == grads[1].keys()
    assert all(torch.allclose(grads[0][name], grads[1][name], **CLOSE) for name in grads[0])
    written = any("layer_memories" in name and "value" in name for name in grads[0])
    assert written == (reach != 0), "what is written is trained by the segments that read it"


def test_it_is_saved_and_what_cannot_work_is_refused(tmp_path: Path) -> None:
    method = ARMT(num_memory_tokens=2, segment_length=6, key_width=4)
    reader = jrt.wrap(build_encoder("bert", "ForSequenceClassification"), method)
    for memory in reader.model.layer_memories:
        torch.nn.init.normal_(memory.value.weight)
    reader.save_pretrained(tmp_path / "saved")
    again = jrt.Reader.from_pretrained(tmp_path / "saved", build_encoder("bert", "ForSequenceClassification"))
    ids = random_text(2, 20)
    assert again.model.method == method and torch.equal(again(ids).logits, reader(ids).logits)
    with pytest.raises(UnsupportedModelError, match="share no weights"):
        method.adapt(build_encoder("albert", "Model"))
    config = XLNetConfig(vocab_size=64, d_model=16, n_layer=1, n_head=2, d_inner=16)
    with pytest.raises(UnsupportedModelError, match="XLNetForSequenceClassification take tokens before rows"):
        method.adapt(XLNetForSequenceClassification(config))
    with pytest.raises(StateMismatchError, match="memory has the shape"):
        again(ids, memory=torch.zeros(2, 2, 32))
