"""The shipped `jrt/tiny-recurrent`: small, stock, recurrent, and better when it reads twice."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import jrt
from jrt.prompts import JRTPrompt
from jrt.training.facts import documents
from jrt.training.tiny_recurrent import FORMATS, build_tokenizer

FOLDER = Path(str(files("jrt.checkpoints"))) / "tiny-recurrent"


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(FOLDER, local_files_only=True).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)


def share_right(model, tokenizer, prompt: JRTPrompt, num_facts: int, count: int) -> float:
    """In percent, on held-out documents that the published table does not use."""
    items = list(documents(77, count, num_facts, "heldout"))
    reader = jrt.wrap(model, prompt, tokenizer=tokenizer)
    plans = [reader.plan(item.context, item.question) for item in items]
    answers = reader.answer_plans(plans, max_new_tokens=8, stop="\n", batch_size=20)
    return 100 * sum(item.answers[0] in answer.text for item, answer in zip(items, answers, strict=True)) / count


def test_it_is_small_and_has_no_code_of_its_own(model) -> None:
    assert sum(parameter.numel() for parameter in model.parameters()) <= 1_000_000
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 2_000_000
    assert {file.suffix for file in FOLDER.iterdir()} <= {".json", ".safetensors", ".md"}
    assert type(model).__module__.startswith("transformers.")


def test_its_tokenizer_is_the_one_of_the_recipe(tokenizer) -> None:
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    assert tokenizer.padding_side == "left"
    assert tokenizer.pad_token_id is not None and tokenizer.eos_token_id is not None


def test_its_state_does_not_grow_with_the_text(model, tokenizer) -> None:
    sizes = set()
    for num_facts in (2, 40):
        ids = tokenizer(next(documents(0, 1, num_facts, "heldout")).context, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            cache = model(ids, use_cache=True).cache_params
        states = [cache.get_recurrent_state(layer, state_idx=0) for layer in range(model.config.num_hidden_layers)]
        sizes.add(sum(state.numel() for state in states))
    assert sizes == {3 * 256}


def test_reading_twice_beats_reading_once_and_the_control(model, tokenizer) -> None:
    twice = share_right(model, tokenizer, FORMATS["twice"], 16, 40)
    assert twice >= 85
    assert twice - share_right(model, tokenizer, FORMATS["once"], 16, 40) >= 20
    assert twice - share_right(model, tokenizer, FORMATS["context_twice"], 16, 40) >= 20


def test_an_answer_is_one_word_and_then_the_end(model, tokenizer) -> None:
    reader = jrt.wrap(model, JRTPrompt(passes=2), tokenizer=tokenizer)
    answer = reader.answer("Mira lives in Lima. Tarek lives in Rome.", "Where does Tarek live?", max_new_tokens=20)
    assert answer.text == "Rome" and answer.new_tokens <= 2


def test_the_record_names_the_recipe_that_made_it() -> None:
    record = json.loads((FOLDER / "training.json").read_text())
    assert record["recipe"]["seed"] == 0 and record["versions"]["torch"]
    for split in ("heldout", "train"):
        assert set(record[split]) == set(FORMATS)
        assert all(0 <= result["right"] <= result["of"] for result in record[split].values())
