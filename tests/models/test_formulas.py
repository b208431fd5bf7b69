"""Based and JRT-RNN compute the published formulas: against plain float64 loops, and against closed forms."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from released import FILLER, build, random_ids, released_logits

from jrt.models import BasedConfig, BasedForCausalLM, JRTConfig, JRTForCausalLM
from jrt.models.regions import Regions
from jrt.models.taylor_attention import PrefixLinearAttention


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "prefix", "read"),
    [("based", None, 0), ("jrt", None, 12), ("jrt", 0, 0), ("jrt", 5, 5), ("jrt", 17, 17), ("jrt", 99, 17)],
)
def test_logits_equal_plain_loops(kind: str, prefix: int | None, read: int) -> None:
    model, ids = build(kind), random_ids(1, 17)
    options = {} if prefix is None else {"prefix_length": prefix}
    expected = released_logits(model.state_dict(), ids[0], heads=2, window=5, prefix=read)
    assert relative(model(ids, **options).logits[0], expected) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 5, 12, 17])
def test_legacy_fills_short_prompts_as_the_released_code_did(length: int) -> None:
    model, ids = build("jrt", padding="legacy"), random_ids(1, length)
    missing = max(0, 12 - length)
    filled = torch.cat([torch.full((missing,), FILLER), ids[0]])
    expected = released_logits(model.state_dict(), filled, heads=2, window=5, prefix=12, filled=missing)
    assert relative(model(ids).logits[0], expected[missing:]) < 1e-12


@torch.no_grad()
def test_legacy_and_strict_differ_for_short_prompts_only() -> None:
    strict, legacy = build("jrt"), build("jrt", padding="legacy")
    assert relative(legacy(random_ids(1, 6)).logits, strict(random_ids(1, 6)).logits) > 0.05
    assert torch.equal(legacy(random_ids(1, 12)).logits, strict(random_ids(1, 12)).logits)


@torch.no_grad()
def test_the_constant_feature_counts_legacy_padding() -> None:
    """jrt.md's toy check: the normaliser's constant counts pads in "legacy" and does not in "strict"."""
    for padding, counted in (("strict", 6 + 6), ("legacy", 12 + 12)):
        model = build("jrt", padding=padding)
        layer = model(random_ids(1, 6)).past_key_values.layers[1]
        constant = 4 * 5 // 2 + 4  # behind the pairs and the vector itself
        assert layer.normalizer[0, 0, constant] == counted, "prefix and causal sum"


class Layer:
    """One prefix layer of width 8 with identity-like access to what it computes."""

    def __init__(self) -> None:
        config = JRTConfig(vocab_size=8, hidden_size=8, num_attention_heads=2, feature_dim=4)
        torch.manual_seed(3)
        self.module = PrefixLinearAttention(config).double()
        self.module.out_proj.weight.data = torch.eye(8, dtype=torch.float64)

    def __call__(self, x: Tensor, prefix: int) -> Tensor:
        positions = torch.arange(x.shape[1]).expand(x.shape[:2])
        regions = Regions(positions, torch.zeros(len(x), dtype=torch.long), prefix=positions < prefix)
        with torch.no_grad():
            return self.module(x, regions, None)


def inputs(length: int = 9) -> Tensor:
    return torch.randn(2, length, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("zero", ["proj_q", "keys"])
def test_a_query_or_keys_of_zero_give_the_mean_of_what_was_read(zero: str) -> None:
    layer, x, prefix = Layer(), inputs(), 5
    for name in ["proj_q"] if zero == "proj_q" else ["proj_k", "proj_k_enc"]:
        getattr(layer.module, name).weight.data.zero_()
    causal, encoder = x @ layer.module.proj_v.weight.T, x @ layer.module.proj_v_enc.weight.T
    count = torch.arange(1, 10)[:, None] + prefix
    expected = (causal.cumsum(1) + encoder[:, :prefix].sum(1, keepdim=True)) / count
    assert float((layer(x, prefix) - expected).detach().abs().max()) < 1e-12


def test_weights_sum_to_one() -> None:
    layer, x = Layer(), inputs()
    x[..., -1] = 1.0
    for name in ("proj_v", "proj_v_enc"):
        weight = getattr(layer.module, name).weight.data
        weight.zero_()[:, -1] = torch.arange(8.0) / 8
    assert float((layer(x, 4) - torch.arange(8.0) / 8).abs().max()) < 1e-12


def test_the_order_of_the_prefix_matters_only_to_the_causal_sum() -> None:
    layer, x = Layer(), inputs()
    order = torch.tensor([3, 0, 4, 1, 2, 5, 6, 7, 8])
    moved = layer(x[:, order], 5)
    assert float((moved[:, 5:] - layer(x, 5)[:, 5:]).abs().max()) < 1e-12, "behind the prefix all of it was read"
    assert float((moved[:, :4] - layer(x, 5)[:, order][:, :4]).abs().max()) > 1e-3


@torch.no_grad()
def test_a_token_changes_what_it_should() -> None:
    model, ids, prefix = build("jrt"), random_ids(1, 16), 8
    before = model(ids, prefix_length=prefix).logits
    inside, after = ids.clone(), ids.clone()
    inside[0, 6] += 1
    after[0, 10] += 1
    changed = (model(inside % 64, prefix_length=prefix).logits - before)[0].abs().amax(-1)
    assert bool((changed > 1e-9).all()), "a token of the prefix changes every position, those before it too"
    changed = (model(after % 64, prefix_length=prefix).logits - before)[0].abs().amax(-1)
    assert bool((changed[:10] == 0).all()) and bool((changed[10:] > 1e-9).all())


@pytest.mark.parametrize(("size", "parameters", "tensors"), [("360m", 356_578_304, 227), ("1.3b", 1_375_143_168, 313)])
def test_presets_have_the_published_sizes(size: str, parameters: int, tensors: int) -> None:
    with torch.device("meta"):
        model = JRTForCausalLM(JRTConfig.preset(size))
        causal = BasedForCausalLM(BasedConfig.preset(size))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert len(model.state_dict()) == tensors
    assert "prefix" not in causal.config.mixers and causal.config.mixers.count("linear") == len(
        [mixer for mixer in model.config.mixers if mixer == "prefix"]
    )
