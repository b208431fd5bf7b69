"""Memories around models whose weights are stored in 4 bits (QLoRA, arXiv 2305.14314)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
sys.path.insert(0, str(Path(__file__).parent))

import pytest
import torch
from rmt_models import build_decoder
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BitsAndBytesConfig,
)
from zoo import random_ids

import jrt

peft = pytest.importorskip("peft")
bitsandbytes = pytest.importorskip("bitsandbytes")

METHODS = [
    jrt.RMT(num_memory_tokens=3, segment_length=6, update="gated"),
    jrt.ARMT(num_memory_tokens=3, segment_length=6, key_width=4),
    jrt.InfiniAttention(segment_length=6),
]
CASES = [("llama", method) for method in METHODS] + [("bert", method) for method in METHODS[:2]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where the models are saved that are loaded in 4 bits."""
    found = {name: tmp_path_factory.mktemp(name) for name in ("llama", "bert")}
    build_decoder("llama").save_pretrained(found["llama"])
    sizes = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2)  # in blocks of 64
    quiet = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertForSequenceClassification(BertConfig(vocab_size=64, **sizes, **quiet))
    model.save_pretrained(found["bert"])
    return found


def quantised(folder: Path) -> Any:
    encoder = folder.name.startswith("bert")
    options = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=["classifier"] if encoder else None,
    )
    auto = AutoModelForSequenceClassification if encoder else AutoModelForCausalLM
    return auto.from_pretrained(folder, quantization_config=options, device_map="cpu")


def with_lora(model: Any, name: str) -> Any:
    targets, task = (["q_proj", "v_proj"], "CAUSAL_LM") if name == "llama" else (["query", "value"], "SEQ_CLS")
    prepared = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return peft.get_peft_model(prepared, peft.LoraConfig(r=2, target_modules=targets, task_type=task))


def stored(model: Any) -> dict[str, Tensor]:
    """The weights that are kept in 4 bits."""
    linear = bitsandbytes.nn.Linear4bit
    return {name: m.weight.data.clone() for name, m in model.named_modules() if isinstance(m, linear)}


@pytest.mark.parametrize("name", ["llama", "bert"])
@torch.no_grad()
def test_one_segment_without_memory_is_the_quantised_model(folders: dict[str, Path], name: str) -> None:
    base, ids = quantised(folders[name]).eval(), random_ids(2, 12).remainder(50) + 5
    assert stored(base)
    model = jrt.RMT(num_memory_tokens=0, segment_length=12).adapt(base)
    assert torch.equal(model(ids).logits, base(ids).logits)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks transformers for it
@pytest.mark.parametrize(("name", "method"), CASES, ids=lambda value: getattr(value, "kind", value))
def test_memory_and_lora_are_trained_and_stored_weights_are_not(
    folders: dict[str, Path], name: str, method: Any, tmp_path: Path
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = with_lora(quantised(folders[name]), name)
        model = jrt.wrap(base, method).model.train()
    before, ids = stored(model), random_ids(2, 20).remainder(50) + 5
    assert before
    optimizer = torch.optim.AdamW(model.parameter_groups(weight_decay=0.0), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = model(ids, labels=ids if name == "llama" else torch.tensor([0, 1])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    changed = {
        key for key, parameter in model.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }
    assert any("lora_B" in key for key in changed) and any(not key.startswith("base.") for key in changed)
    assert all(torch.equal(before[key], weights) for key, weights in stored(model).items())
    with torch.no_grad():
        model.eval()(ids)  # packs the weights
        other = method.adapt(base)
        other.load_learned(model.learned())
        assert torch.equal(other.eval()(ids).logits, model(ids).logits)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.kind)
@torch.no_grad()
def test_parts_and_answers_are_those_of_one_call(folders: dict[str, Path], method: Any) -> None:
    model, ids = jrt.wrap(quantised(folders["llama"]), method).model.eval(), random_ids(2, 20)
    first = model(ids[:, :9], use_cache=True)
    rest = model(ids[:, 9:], past_key_values=first.past_key_values, attention_mask=torch.ones(2, 20))
    parts = torch.cat([first.logits, rest.logits], dim=1)
    assert torch.allclose(parts, model(ids).logits, rtol=1e-4, atol=1e-4)
    answers = model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=-1, pad_token_id=0)
    for step in range(20, 28):
        assert torch.equal(model(answers[:, :step]).logits[:, -1].argmax(-1), answers[:, step])
