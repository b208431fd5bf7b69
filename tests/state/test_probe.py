"""The probe finds by behaviour what is known of transformers' families."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from zoo import ZOO, build

from jrt.errors import UnsupportedModelError
from jrt.state import probe

STEP = {"mamba", "falcon_mamba", "jamba", "zamba", "minimax"}  # the scan restarts from zero in a chunk
REPLAY = {"recurrent_gemma"}  # the state stays inside the modules
ROW_BY_ROW = {"rwkv4", "xlstm", "minimax", "recurrent_gemma"}  # rows or padding disturb each other


@pytest.mark.parametrize("name", ZOO)
def test_finds_how_a_state_may_be_continued(name: str) -> None:
    found = probe(build(name))
    assert found.continuation == ("step" if name in STEP else "replay" if name in REPLAY else "chunk")
    assert found.batched == (name not in ROW_BY_ROW)
    assert found.error < 5e-5


@pytest.mark.parametrize("name", sorted(STEP - {"minimax"}))
def test_finds_a_scan_that_restarts_in_half_precision_too(name: str) -> None:
    assert probe(build(name, torch.bfloat16)).continuation == "step"


@pytest.mark.parametrize(
    ("name", "maximum"), [("llama", 256), ("gpt2", 256), ("bert_decoder", 512), ("mamba", None), ("rwkv4", None)]
)
def test_finds_the_longest_input(name: str, maximum: int | None) -> None:
    assert probe(build(name)).max_length == maximum


def test_leaves_the_model_as_it_was() -> None:
    model = build("mamba2").train()
    before = torch.random.get_rng_state()
    probe(model)
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_model_whose_cache_fails_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama")
    forward = model.forward

    @functools.wraps(forward)
    def without_cache(*args: Any, use_cache: bool = False, **options: Any) -> Any:
        if use_cache:
            raise ValueError("no layer of this cache has a length")
        return forward(*args, use_cache=False, **options)

    monkeypatch.setattr(model, "forward", without_cache)
    found = probe(model)
    assert (found.continuation, found.state_argument, found.batched) == ("replay", None, False)


def test_refuses_models_that_do_not_generate() -> None:
    small = dict(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(UnsupportedModelError, match="no logits"):
        probe(hf.BertModel(hf.BertConfig(**small)))
    t5 = hf.T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    with pytest.raises(UnsupportedModelError, match="encoder-decoder"):
        probe(hf.T5ForConditionalGeneration(t5))
