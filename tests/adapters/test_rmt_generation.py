"""Answers that grow over segment borders, one row at a time: against a loop that reads it all for every token."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import pytest
import torch
from rmt_models import decoder, left_padded
from rmt_oracle import decoder_row
from safetensors.torch import load_file, save_file
from text import DOCUMENT, word_tokenizer
from zoo import random_ids

import jrt
from jrt.adapters.rmt import RMT
from jrt.state import State, advance
from jrt.state.storage import state_from_tensors, state_to_tensors

QUESTIONS = ["Who lives in Rome?", "What does Ana like?", "Where does Mira live?"]


@torch.no_grad()
def greedy(model: Any, row: list[int], new: int) -> list[int]:
    """The answer to a prompt, every token from the whole text."""
    row = list(row)
    for _ in range(new):
        row.append(int(decoder_row(model, row)[0][-1].argmax()))
    return row[-new:]


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gpt_neox", "gemma3", "mistral_window"])
def test_answers_roll_over_borders_row_by_row(name: str) -> None:
    model = decoder(name, update="gated")
    ids, mask = left_padded([17, 8, 11])
    found = model.generate(ids, mask, max_new_tokens=15, do_sample=False, eos_token_id=-1, pad_token_id=0)
    for row in range(3):
        assert found[row, ids.shape[1] :].tolist() == greedy(model, ids[row, mask[row].bool()].tolist(), 15)


def test_the_memory_is_read_in_the_answer() -> None:
    model = decoder("llama", segment_length=8)
    ids, other = random_ids(1, 20), random_ids(1, 20)
    other[0, :8] = 7
    options = dict(max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True)
    first, second = (model.generate(row, **options).logits[0] for row in (ids, other))
    assert not torch.allclose(first, second, atol=1e-3), "the first segment is in the memory only"


def test_beams_of_ragged_rows_equal_beams_of_each_row() -> None:
    model = decoder("llama", segment_length=5, update="gated")
    ids, mask = left_padded([13, 6])
    options = dict(
        max_new_tokens=12, num_beams=4, num_return_sequences=2, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    both = model.generate(ids, mask, **options)[:, ids.shape[1] :]
    for row in range(2):
        prompt = ids[row : row + 1, mask[row].bool()]
        assert torch.equal(both[2 * row : 2 * row + 2], model.generate(prompt, **options)[:, prompt.shape[1] :])


@torch.no_grad()
def test_a_forked_state_goes_both_ways_and_rows_are_repeated_and_dropped() -> None:
    model = decoder("llama", update="gated")
    ids, mask = left_padded([17, 8, 11])
    state = State.empty(3)
    advance(model, state, ids, mask, capabilities=model.capabilities)
    chosen = state.select(torch.tensor([2, 0, 2]))
    more = random_ids(3, 7, seed=9)
    logits = advance(model, chosen, more, capabilities=model.capabilities)
    again = advance(model, state, more[[1, 0, 2]], capabilities=model.capabilities)
    for place, row in enumerate([2, 0, 2]):
        text = ids[row, mask[row].bool()].tolist()
        expected, memory = decoder_row(model, text + more[place].tolist())
        assert torch.allclose(logits[place], expected[-1], atol=1e-4)
        assert torch.allclose(chosen.cache.memory[place], memory[0], atol=1e-4)
    expected, _ = decoder_row(model, ids[1, mask[1].bool()].tolist() + more[0].tolist())
    assert torch.allclose(again[1], expected[-1], atol=1e-4)


@pytest.mark.parametrize("length", [12, 14])
@torch.no_grad()
def test_a_state_is_the_same_after_a_file_on_a_border_too(length: int, tmp_path: Path) -> None:
    model, ids = decoder("llama", update="gated"), random_ids(1, 20)
    state = State.empty(1)
    advance(model, state, ids[:, :length], capabilities=model.capabilities)
    assert state.cache.live.shape[1] == (0 if length == 12 else 4), "nothing of a segment that has ended is kept"
    tensors, values = state_to_tensors(state)
    save_file(tensors, tmp_path / "state.safetensors")
    again = state_from_tensors(model, model.capabilities, load_file(tmp_path / "state.safetensors"), values)
    logits = [advance(model, one, ids[:, length:], capabilities=model.capabilities) for one in (state, again)]
    assert torch.equal(*logits)


def test_a_reading_keeps_the_memory_and_is_saved(tmp_path: Path) -> None:
    method = RMT(num_memory_tokens=2, segment_length=6, initial_std=1.0)
    torch.manual_seed(0)
    reader = jrt.wrap(decoder("llama").base, method, tokenizer=word_tokenizer())
    asked = [reader.ask(DOCUMENT, question, max_new_tokens=9) for question in QUESTIONS]
    reading = reader.read(DOCUMENT)
    assert reading.ask_many(QUESTIONS, max_new_tokens=9) == asked
    fork = reading.fork()
    fork.append(" Mira likes figs.")
    reading.save(tmp_path / "reading")
    again = jrt.Reading.load(tmp_path / "reading", reader)
    assert [again.ask(question, max_new_tokens=9) for question in QUESTIONS] == asked
    assert torch.equal(again.state.cache.memory, reading.state.cache.memory)
    long = reader.read(" ".join([DOCUMENT] * 12))
    assert long.nbytes <= 1.5 * reading.nbytes, "twelve times the text, and the same state"
    twice = reader.with_methods(jrt.JRTPrompt(passes=2), method)
    assert twice.model is reader.model and twice.ask(DOCUMENT, QUESTIONS[0], max_new_tokens=5)
