"""Long runs and half precision: sums stay in float32, and two million written tokens leave no NaN."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

import pytest
import torch
from infini_families import build
from zoo import random_ids

from jrt.adapters.infini import InfiniAttention
from jrt.kernels.infini import InfiniState
from jrt.kernels.infini.features import features
from jrt.kernels.infini.states import states

TOKENS, WIDTH = 2_000_000, 8


@pytest.mark.parametrize(("rule", "size"), [("linear", 64), ("delta", 128), ("delta_corrected", 256)])
def test_two_million_tokens_are_written_without_a_nan(rule: Any, size: int) -> None:
    """Keys and values of a bfloat16 model; the first segment writes one token only, half of all keys are alike."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(WIDTH, generator=generator)
    state = InfiniState(torch.zeros(1, 1, WIDTH, WIDTH), torch.zeros(1, 1, WIDTH))
    count, written, total = TOKENS // 20 // size, 0, torch.zeros(WIDTH, dtype=torch.float64)
    weight = torch.ones(1, 1, count, size)
    weight[:, :, 0, 1:] = 0
    for _ in range(21):
        key, value = (torch.randn(1, 1, count, size, WIDTH, generator=generator) for _ in range(2))
        key[:, :, :, ::2] = direction + 0.1 * key[:, :, :, ::2]
        sigma_k = features(key.bfloat16().float(), "elu")
        found = states(sigma_k, weight, value.bfloat16().float(), state, rule, 1e-3)
        state = InfiniState(*(part[:, :, -1] for part in found))
        total += (sigma_k * weight[..., None]).double().sum((0, 1, 2, 3))
        written += int(weight.sum())
        weight = torch.ones_like(weight)
    assert written > TOKENS and state.memory.isfinite().all() and state.normaliser.isfinite().all()
    sigma_q = features(torch.randn(100, WIDTH, generator=generator), "elu")
    read = (sigma_q @ state.memory[0, 0]) / (sigma_q @ state.normaliser[0, 0, :, None])
    assert read.abs().max() < 4  # no more than the values that were written
    if rule != "delta_corrected":
        assert ((state.normaliser[0, 0] - total).abs() / total).max() < 1e-6


@torch.no_grad()
def test_a_bfloat16_model_keeps_its_sums_in_float32() -> None:
    ids = random_ids(2, 61)
    for rule in ("linear", "delta", "delta_corrected"):
        full, half = (
            InfiniAttention(8, rule=rule, gate_init=0.5).adapt(build("llama", t))
            for t in (torch.float32, torch.bfloat16)
        )
        expected, found = full(ids), half(ids)
        assert found.logits.dtype == torch.bfloat16
        layers = found.past_key_values.layers
        assert all(layer.memory.dtype == layer.normaliser.dtype == torch.float32 for layer in layers)
        assert all(layer.keys.dtype == torch.bfloat16 for layer in layers)
        stock = (half.base(ids[:, :8]).logits.float() - full.base(ids[:, :8]).logits).abs().max()
        assert (found.logits.float() - expected.logits).abs().max() < 4 * stock
        parts = half(ids[:, 21:], past_key_values=half(ids[:, :21]).past_key_values).logits
        assert (parts - found.logits[:, 21:]).abs().max() < 4 * stock


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's own call
def test_a_memory_around_a_model_with_a_lora_adapter() -> None:
    peft: Any = pytest.importorskip("peft")
    base = build("llama")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tuned = peft.get_peft_model(
            base, peft.LoraConfig(r=4, target_modules=["k_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        )
    model = InfiniAttention(8, gate_init=0.0).adapt(tuned).train()
    ids = random_ids(1, 30)
    loss = model(ids, labels=ids).loss
    loss.backward()
    trained = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert any("lora_A" in name for name in trained) and {"gates.0", "gates.1", "gates.2"} <= trained
    merged = InfiniAttention(8, gate_init=0.0).adapt(tuned.merge_and_unload()).train()
    torch.testing.assert_close(merged(ids, labels=ids).loss, loss)
