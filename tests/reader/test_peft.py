"""A PEFT model around a base model reads like the model that its adapter makes when it is merged."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from zoo import build

import jrt
from jrt.errors import InvalidOptionError

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's own call

DOCUMENT = "mira lives in oslo . tom lives in rome . ada likes tea ."
QUESTIONS = ["who lives in rome ?", "what does ada like ?"]
TARGETS = {"llama": ["q_proj", "v_proj"], "mamba": ["in_proj", "x_proj"], "rwkv4": ["key", "value"]}


def with_lora(name: str) -> Any:
    """A LoRA model whose adapter is no longer zero."""
    config = peft.LoraConfig(r=4, target_modules=TARGETS[name], task_type="CAUSAL_LM")
    model = peft.get_peft_model(copy.deepcopy(build(name)), config)
    generator = torch.Generator().manual_seed(0)
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model.eval()


@pytest.mark.parametrize("name", TARGETS)
def test_asked_once_twice_and_many_times(name: str, tokenizer: Any) -> None:
    model = with_lora(name)
    merged = copy.deepcopy(model).merge_and_unload()
    plain = jrt.wrap(build(name), jrt.JRTPrompt(passes=2), tokenizer=tokenizer)
    ours, theirs = (jrt.wrap(one, jrt.JRTPrompt(passes=2), tokenizer=tokenizer) for one in (model, merged))
    assert ours.capabilities.continuation == theirs.capabilities.continuation
    assert ours.capabilities.batched == theirs.capabilities.batched
    answers = [ours.ask(DOCUMENT, question, max_new_tokens=6) for question in QUESTIONS]
    assert answers == [theirs.ask(DOCUMENT, question, max_new_tokens=6) for question in QUESTIONS]
    assert answers != [plain.ask(DOCUMENT, question, max_new_tokens=6) for question in QUESTIONS]
    assert ours.ask_many(DOCUMENT, QUESTIONS, max_new_tokens=6) == theirs.ask_many(
        DOCUMENT, QUESTIONS, max_new_tokens=6
    )


def test_an_adapter_on_a_model_that_nothing_names_is_not_saved_alone(tmp_path: Path, tokenizer: Any) -> None:
    model, memory = with_lora("llama"), jrt.RMT(num_memory_tokens=2, segment_length=8)
    with pytest.raises(InvalidOptionError, match="comes from no folder or Hub id"):
        jrt.wrap(model, memory, tokenizer=tokenizer).save_pretrained(tmp_path / "lost", include_model=True)
    model.unload().save_pretrained(tmp_path / "base")
    base = type(build("llama")).from_pretrained(tmp_path / "base")
    reader = jrt.wrap(
        peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=TARGETS["llama"])), memory, tokenizer=tokenizer
    )
    reader.save_pretrained(tmp_path / "kept", include_model=True)
    ids = torch.arange(1, 21)[None]
    again = jrt.load(str(tmp_path / "kept"), device="cpu")
    torch.testing.assert_close(again(input_ids=ids).logits, reader(input_ids=ids).logits)
