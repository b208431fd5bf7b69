"""Infini-attention on every family of its table, against the stock model, its own segments, and what has no order."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

import pytest
import torch
import transformers
from infini_families import FAMILIES, build
from torch import Tensor
from zoo import build as build_any
from zoo import random_ids

from jrt.adapters.infini import InfiniAttention
from jrt.adapters.infini_families import FAMILIES as KNOWN
from jrt.errors import InvalidOptionError, UnsupportedModelError

NAMES = [name for name in FAMILIES if name != "falcon_alibi"]
IDS = random_ids(2, 37)


def adapted(name: str, segment_length: int, gate: float, **options: Any) -> Any:
    model = InfiniAttention(segment_length, **options).adapt(build(name)).eval()
    for parameter in model.gates.parameters():
        parameter.data.fill_(gate)
    return model


def read(model: Any, ids: Tensor, cuts: list[int], mask: Tensor | None = None) -> Tensor:
    """Logits of `ids` read in parts that end at `cuts`."""
    cache, parts, first = None, [], 0
    for last in [*cuts, ids.shape[1]]:
        seen = None if mask is None else mask[:, :last]
        output = model(ids[:, first:last], seen, past_key_values=cache)
        cache, first = output.past_key_values, last
        parts.append(output.logits)
    return torch.cat(parts, 1)


def test_the_zoo_has_every_known_family() -> None:
    assert set(KNOWN) == {build(name).config.model_type for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_segment_that_holds_everything_is_the_stock_model(name: str) -> None:
    base = build(name)
    stock = base(IDS).logits
    same = adapted(name, 64, 0.0)(IDS).logits
    if name == "falcon":  # the stock model gives this one's single key head a mask, and so another kernel
        torch.testing.assert_close(same, stock, rtol=0, atol=2e-6)
    else:
        assert torch.equal(same, stock)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_closed_gate_is_the_stock_model_on_each_segment(name: str) -> None:
    base = build(name)
    stock = torch.cat([base(part).logits for part in IDS.split(8, 1)], 1)
    model = adapted(name, 8, float("-inf"), layers=tuple(range(base.config.num_hidden_layers)))
    for cuts in ([], [3, 4, 21]):
        torch.testing.assert_close(read(model, IDS, cuts), stock, rtol=0, atol=3e-6)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_parts_and_padding_change_nothing(name: str) -> None:
    model = adapted(name, 8, 0.5)
    whole = model(IDS).logits
    for cuts in ([1, 2, 8, 9, 30, 36], [20]):
        torch.testing.assert_close(read(model, IDS, cuts), whole, rtol=0, atol=1e-5)
    padded = torch.cat([IDS[:1, :5], IDS[:1]], 1)
    padded = torch.cat([padded, torch.cat([IDS[1:], IDS[1:, :5]], 1)])
    mask = torch.ones_like(padded)
    mask[0, :5] = 0
    for cuts in ([], [6, 17]):
        torch.testing.assert_close(read(model, padded, cuts, mask)[0, 5:], whole[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("opt", "gpt2")])
@torch.no_grad()
def test_what_is_written_has_no_order(name: str) -> None:
    """The first layer's memory of a segment is a sum over its tokens, whatever their order: positions are undone."""
    model = adapted(name, 16, 0.0, layers=(0,))
    ids = random_ids(1, 16)
    memories = []
    for order in (torch.arange(16), torch.randperm(16, generator=torch.Generator().manual_seed(0))):
        for cuts in ([], [5]):  # the kernel's way, and ours on top of a cache
            cache = model(ids[:, order[: cuts[0]]]).past_key_values if cuts else None
            rest = order[cuts[0] :] if cuts else order
            layer = model(ids[:, rest], past_key_values=cache).past_key_values.layers[0]
            memories.append((layer.memory, layer.normaliser))
    assert memories[0][0].abs().max() > 0.1
    for memory, normaliser in memories[1:]:
        torch.testing.assert_close(memory, memories[0][0], rtol=0, atol=2e-5)
        torch.testing.assert_close(normaliser, memories[0][1], rtol=0, atol=2e-5)


@torch.no_grad()
def test_soft_caps_and_windows_are_the_stock_models() -> None:
    for name, options in (("gemma2", {"attn_logit_softcapping": 0.5}), ("mistral", {"sliding_window": 3})):
        base = build(name, **options)
        assert not torch.allclose(base(IDS).logits, build(name)(IDS).logits, atol=1e-3)
        same = InfiniAttention(64).adapt(base).eval()(IDS).logits
        torch.testing.assert_close(same, base(IDS).logits, rtol=0, atol=2e-6)


@torch.no_grad()
def test_positions_without_end_restart_in_every_segment() -> None:
    """A table of 16 learned positions reads 37 tokens, and far into a text a token is read as at its beginning."""
    for name, option in (("gpt2", "n_positions"), ("opt", "max_position_embeddings")):
        base = build(name, **{option: 16})
        assert InfiniAttention(16).adapt(base).eval()(IDS).logits.isfinite().all()
    model = adapted("llama", 8, float("-inf"))
    far = model(IDS[:, :8].repeat(1, 5)).logits
    torch.testing.assert_close(far[:, -8:], far[:, :8], rtol=0, atol=2e-6)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="alibi=True"):
        InfiniAttention(8).adapt(build("falcon_alibi"))
    base = build("llama")
    for other in (base.model, transformers.LlamaForSequenceClassification(base.config)):
        with pytest.raises(
            UnsupportedModelError, match=r"no head for language modelling\. Load it with AutoModelForCausalLM"
        ):
            InfiniAttention(8).adapt(other)
    for name, kind in (("gpt2", "GPT2LMHeadModel"), ("opt", "OPTForCausalLM"), ("llama", "LlamaForCausalLM")):
        with pytest.raises(
            InvalidOptionError, match=rf"{kind} has 256 positions.*InfiniAttention\(segment_length=256\)"
        ):
            InfiniAttention(257).adapt(build(name))
        assert InfiniAttention(256).adapt(build(name))(random_ids(1, 300)).logits.isfinite().all()
    with pytest.raises(UnsupportedModelError, match=r"does not know the model type 'mamba'.*FAMILIES"):
        InfiniAttention(8).adapt(build_any("mamba"))
