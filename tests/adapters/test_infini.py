"""Infini-attention as a model: what it reads, how it is continued, and that its base stays as it is."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

import pytest
import torch
from infini_families import build
from text import word_tokenizer
from torch import Tensor
from zoo import build as build_any
from zoo import random_ids

import jrt
from jrt.adapters.infini import InfiniAttention
from jrt.adapters.infini_cache import InfiniCache
from jrt.errors import EmptyInputError, InvalidOptionError, StateMismatchError
from jrt.methods import Method, parse_method
from jrt.state import State, advance

S = 8
IDS = random_ids(2, 37)
RULES = ["linear", "delta", "delta_corrected"]


def adapted(base: Any = None, gate: float = 0.5, **options: Any) -> Any:
    model = InfiniAttention(S, **options).adapt(build("llama") if base is None else base).eval()
    for index, parameter in enumerate(model.gates.parameters()):
        parameter.data.copy_(gate + 0.7 * index - torch.arange(len(parameter)))
    for index, parameter in enumerate(model.write_gates.parameters()):
        generator = torch.Generator().manual_seed(index)
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def heads(x: Tensor, linear: Any, width: int) -> Tensor:
    """(T, d) through a projection, as (H, T, D)"""
    return linear(x).unflatten(-1, (-1, width)).transpose(0, 1)


def defined(model: Any, ids: Tensor) -> Tensor:
    """The logits of one row as 2404.07143 defines them: token by token, head by head, keys taken before rotation."""
    base, method = model.base.model, model.method
    x = base.embed_tokens(ids)
    feature = (lambda y: y.relu()) if method.feature_map == "relu" else (lambda y: torch.where(y > 0, y + 1, y.exp()))
    for index, layer in enumerate(base.layers):
        attention, width = layer.self_attn, layer.self_attn.head_dim
        h = layer.input_layernorm(x)
        q, k, v = (heads(h, linear, width) for linear in (attention.q_proj, attention.k_proj, attention.v_proj))
        mixed = torch.zeros(len(ids), len(q) * width, dtype=x.dtype)
        for head in range(len(q)):
            pair = head // (len(q) // len(k))
            memory, z = torch.zeros(width, width, dtype=x.dtype), torch.zeros(width, dtype=x.dtype)
            share = torch.sigmoid(model.gates[str(index)][head])
            for first in range(0, len(ids), S):
                now = range(first, min(first + S, len(ids)))
                for t in now:
                    scores = torch.stack([turned(q[head, t], t) @ turned(k[pair, u], u) for u in range(first, t + 1)])
                    local = (scores / width**0.5).softmax(0) @ v[pair, first : t + 1]
                    if z.any():
                        sigma = feature(q[head, t])
                        local = share * (sigma @ memory) / (sigma @ z + method.epsilon) + (1 - share) * local
                    mixed[t, head * width : (head + 1) * width] = local
                if len(now) == S:
                    sigma = feature(k[pair, first : first + S])
                    weight = torch.ones(S, dtype=x.dtype)
                    if method.write_gate:
                        gate = model.write_gates[str(index)]
                        both = torch.cat([k[pair, first : first + S], v[pair, first : first + S]], -1)
                        weight = (both @ gate.weight[pair] + gate.bias[pair]).relu()
                    known = sigma @ memory / (sigma @ z + method.epsilon)[:, None]
                    value = v[pair, first : first + S]
                    change = value - known if method.rule == "delta" else value
                    if method.rule == "delta_corrected":
                        new = (1 - (sigma @ z) / (sigma * sigma).sum(-1)).clamp(0, 1)
                        again = sigma @ ((weight * (1 - new)) @ sigma)
                        step = (1 - new) * torch.where(again > 0, (sigma @ z) / again, 0.0).clamp(max=1)
                        change = new[:, None] * value + step[:, None] * (value - known)
                    memory = memory + (weight[:, None] * sigma).T @ change
                    weight = weight * new if method.rule == "delta_corrected" else weight
                    z = z + weight @ sigma
        x = x + attention.o_proj(mixed)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return model.base.lm_head(base.norm(x))


def turned(x: Tensor, position: int) -> Tensor:
    """Rotary position as complex numbers."""
    half = len(x) // 2
    angle = position / 10000 ** (torch.arange(half, dtype=x.dtype) / half)
    plane = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([plane.real, plane.imag])


@pytest.mark.parametrize(
    "options",
    [{"rule": rule} for rule in RULES] + [{"feature_map": "relu"}, {"feature_map": "relu", "write_gate": True}],
    ids=str,
)
@torch.no_grad()
def test_logits_are_those_of_the_definition(options: dict[str, Any]) -> None:
    model = adapted(build("llama", torch.float64), **options)
    model.gates.double(), model.write_gates.double()
    ids = IDS[:1, :29]
    expected = defined(model, ids[0])
    assert (expected[S:] - model.base(ids).logits[0, S:]).abs().max() > 0.05
    torch.testing.assert_close(model(ids).logits[0], expected, rtol=0, atol=1e-6)
    cache = model(ids[:, :11]).past_key_values
    torch.testing.assert_close(model(ids[:, 11:], past_key_values=cache).logits[0], expected[11:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
@torch.no_grad()
def test_a_token_changes_nothing_before_it(rule: str) -> None:
    model = adapted(rule=rule)
    logits = model(IDS).logits
    for place in (0, 7, 8, 20, 36):
        changed = IDS.clone()
        changed[:, place] = (changed[:, place] + 1) % 100 + 5
        difference = (model(changed).logits - logits).abs().amax((0, 2))
        assert (difference[:place] == 0).all()
        assert difference[place] > 0
        assert place >= 32 or (difference[(place // S + 1) * S :] > 0).all()  # by the memory, across the border


@torch.no_grad()
def test_rows_are_cut_at_their_own_borders() -> None:
    """Rows of 5 to 37 tokens with padding left, right and in the middle, in any parts, are the rows alone."""
    model, generator = adapted(write_gate=True), torch.Generator().manual_seed(0)
    ids = random_ids(4, 37)
    mask = torch.ones_like(ids)
    mask[0, :32] = 0
    mask[1, 10:20] = 0
    mask[2] = (torch.rand(37, generator=generator) < 0.6).long()
    alone = [model(row[keep.bool()][None]).logits[0] for row, keep in zip(ids, mask, strict=True)]
    for cuts in ([37], [3, 12, 13, 29, 37], list(range(1, 38))):
        cache, first, parts = None, 0, []
        for last in cuts:
            output = model(ids[:, first:last], mask[:, :last], past_key_values=cache)
            cache, first = output.past_key_values, last
            parts.append(output.logits)
        logits = torch.cat(parts, 1)
        for row, keep, expected in zip(logits, mask, alone, strict=True):
            torch.testing.assert_close(row[keep.bool()], expected, rtol=0, atol=1e-5)
        assert cache.seen.tolist() == mask.sum(1).tolist() and cache.get_seq_length() == 37


@torch.no_grad()
def test_decoding_in_the_middle_of_a_segment_reads_the_memory() -> None:
    model = adapted()
    one, other = IDS[:1, :27].clone(), IDS[:1, :27].clone()
    other[:, :S] = random_ids(1, S, seed=9)  # differ in what is only in the memory
    tails = []
    for ids in (one, other):
        cache = model(ids[:, :24]).past_key_values
        tails.append([model(ids[:, t : t + 1], past_key_values=cache).logits for t in (24, 25, 26)])
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(*tails, strict=True))


@torch.no_grad()
def test_generate_is_reading_everything_again() -> None:
    model = adapted()
    mask = torch.ones_like(IDS)
    mask[0, :6] = 0
    options: dict[str, Any] = dict(max_new_tokens=13, do_sample=False, eos_token_id=None, pad_token_id=0)
    found = model.generate(IDS, mask, **options)
    for row, keep, answer in zip(IDS, mask, found[:, 37:], strict=True):
        text = row[keep.bool()][None]
        for token in answer:
            assert model(text, logits_to_keep=1).logits[0, -1].argmax() == token
            text = torch.cat([text, token.view(1, 1)], 1)
    beams = model.generate(IDS, mask, num_beams=3, **options)
    alone = model.generate(IDS[:1, 6:], num_beams=3, **options)
    assert torch.equal(beams[0, 37:], alone[0, 31:])
    torch.manual_seed(0)
    assert model.generate(IDS, mask, **(options | {"do_sample": True})).shape == (2, 50)


@torch.no_grad()
def test_a_cache_forks_reorders_and_is_saved_by_its_tensors() -> None:
    from jrt.state.storage import state_from_tensors, state_to_tensors

    model = adapted()
    mask = torch.ones_like(IDS[:, :29])
    mask[1, :3] = 0
    state = State.empty(2)
    advance(model, state, IDS[:, :29], mask, capabilities=model.capabilities)
    tensors, values = state_to_tensors(state)
    again = state_from_tensors(model, model.capabilities, tensors, values)
    rows = state.select(torch.tensor([1, 0, 1]))
    logits = [advance(model, one, IDS[:, 29:], capabilities=model.capabilities) for one in (again, state)]
    assert torch.equal(*logits)
    picked = advance(model, rows, IDS[[1, 0, 1], 29:], capabilities=model.capabilities)
    torch.testing.assert_close(picked, logits[0][[1, 0, 1]], rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_cache_stays_as_small_as_after_one_segment() -> None:
    model, cache, sizes = adapted(), None, []
    for step in range(60):
        cache = model(random_ids(1, 5, seed=step), past_key_values=cache).past_key_values
        sizes.append(cache.nbytes)
    held = [sum(t.untyped_storage().nbytes() for t in vars(layer).values()) for layer in cache.layers]
    assert max(sizes[10:]) <= max(sizes[:10]) and sum(held) <= 2 * max(sizes)


def test_the_base_is_left_as_it_is() -> None:
    base = build("llama")
    names, config = set(base.state_dict()), base.config.to_dict()
    with torch.no_grad():
        stock = base(IDS).logits
        one, two = adapted(base, gate=0.5), adapted(base, gate=-2.0, feature_map="relu")
        first, second = one(IDS).logits, two(IDS).logits
        assert torch.equal(base(IDS).logits, stock)
        with pytest.raises(IndexError):
            one(torch.full((1, 9), 500))
        assert base.config._attn_implementation == "sdpa" and torch.equal(base(IDS).logits, stock)
        caches = [one(IDS[:, :13]).past_key_values, two(IDS[:, :13]).past_key_values]  # by turns
        rest = [
            model(IDS[:, 13:], past_key_values=cache).logits for model, cache in zip((one, two), caches, strict=True)
        ]
    torch.testing.assert_close(rest[0], first[:, 13:], rtol=0, atol=1e-5)
    torch.testing.assert_close(rest[1], second[:, 13:], rtol=0, atol=1e-5)
    assert not torch.allclose(first, second, atol=1e-3)
    assert set(base.state_dict()) == names and base.config.to_dict() == config


def test_another_thread_may_run_the_base_at_the_same_time() -> None:
    base, mask = build("llama"), torch.ones_like(IDS)
    mask[0, :9] = 0
    model = adapted(base)
    with torch.no_grad():
        stock, ours = base(IDS, attention_mask=mask).logits, model(IDS, mask).logits
        inside, done, found = threading.Event(), threading.Event(), {}

        def wait(*_: Any) -> None:
            inside.set()
            assert done.wait(20)

        def run() -> None:
            with torch.no_grad():
                found["ours"] = model(IDS, mask).logits

        handle = base.model.layers[1].register_forward_pre_hook(wait)
        thread = threading.Thread(target=run)
        thread.start()
        assert inside.wait(20)
        handle.remove()
        assert base.config._attn_implementation != "sdpa"
        found["stock"] = base(IDS, attention_mask=mask).logits
        done.set()
        thread.join()
    assert torch.equal(found["stock"][mask.bool()], stock[mask.bool()]) and torch.equal(found["ours"], ours)
    assert base.config._attn_implementation == "sdpa"


def test_a_reader_keeps_what_was_learned(tmp_path: Path) -> None:
    reader = jrt.wrap(build_any("llama"), InfiniAttention(S, write_gate=True), tokenizer=word_tokenizer())
    for parameter in [*reader.model.gates.parameters(), *reader.model.write_gates.parameters()]:
        parameter.data.uniform_(-1, 1)
    document, question = "mira lives in oslo . tom lives in rome . " * 5, "who lives in rome ?"
    answer = reader.ask(document, question, max_new_tokens=5)
    again = jrt.load(str(reader.save_pretrained(tmp_path / "reader", include_model=True)))
    assert again.methods == reader.methods and again.ask(document, question, max_new_tokens=5) == answer
    reading = reader.read(document)
    reading.save(tmp_path / "reading")
    loaded = jrt.Reading.load(tmp_path / "reading", again)
    assert loaded.ask(question, max_new_tokens=5) == reading.ask(question, max_new_tokens=5)
    assert reading.nbytes < 20_000


def test_options() -> None:
    method = InfiniAttention(64, rule="delta", layers=(1, 2), feature_map="relu", write_penalty=0.1)
    assert Method.from_dict(method.to_dict()) == method == parse_method(str(method))
    assert jrt.InfiniAttention(2048).segment_length == 2048
    assert list(adapted(layers=(1,)).learned()) == ["gates.1"]
    for options, message in (
        ({"segment_length": 0}, "greater than or equal to 1"),
        ({"rule": "add"}, "linear"),
        ({"layers": []}, r"^InfiniAttention\(layers=\[\]\): name at least one layer"),
        ({"layers": (-1,)}, r"layers=\(-1,\)\): name at least one layer"),
        ({"gate_init": float("nan")}, r"gate_init=nan\): Input should be a finite number"),
        ({"epsilon": 0.0}, "greater than 0"),
        ({"epsilon": float("inf")}, "finite"),
        ({"write_penalty": float("inf")}, "finite"),
        ({"gate_learning_rate": float("inf")}, "finite"),
        ({"segment_length": True}, "valid integer"),
        ({"bptt_segments": True}, "valid integer"),
        ({"layers": (True,)}, "valid integer"),
        ({"segments": 2}, "no option 'segments'"),
    ):
        with pytest.raises(InvalidOptionError, match=message):
            InfiniAttention(**options)
    with pytest.raises(InvalidOptionError, match="names layer 3; the model has 3 layers"):
        adapted(layers=(0, 3))


def test_wrong_inputs_are_refused() -> None:
    model = adapted()
    with pytest.raises(EmptyInputError, match="no tokens"):
        model(IDS[:, :0])
    with pytest.raises(EmptyInputError, match="no tokens"):
        model(IDS[:0])
    with pytest.raises(InvalidOptionError, match="input_ids and inputs_embeds"):
        model(IDS, inputs_embeds=model.get_input_embeddings()(IDS))
    with pytest.raises(InvalidOptionError, match="tokens of the shape"):
        model(IDS[0])
    for labels in (IDS[:, :-2], torch.cat([IDS, IDS], 1), IDS[:, 0]):
        with pytest.raises(InvalidOptionError, match="labels have the shape"):
            model(IDS, labels=labels)
    for keep in (-1, torch.tensor([1, 2])):
        with pytest.raises(InvalidOptionError, match="no number of last columns"):
            model(IDS, logits_to_keep=keep)
    with pytest.raises(StateMismatchError, match="of 2 rows for 1 rows"):
        model(IDS[:1], past_key_values=model(IDS).past_key_values)
    with pytest.raises(StateMismatchError, match="got a DynamicCache"):
        model(IDS, past_key_values=model.base(IDS, use_cache=True).past_key_values)
    with pytest.raises(StateMismatchError, match="attention mask is"):
        model(IDS, torch.ones(2, 5))
    assert isinstance(model(IDS).past_key_values, InfiniCache) and model(IDS, use_cache=False).past_key_values is None
