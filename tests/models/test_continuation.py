"""Reading in parts, in padded batches and with beams gives what one forward over the row gives."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DynamicCache

sys.path.insert(0, str(Path(__file__).parent))
from released import build, random_ids

import jrt
from jrt.errors import InvalidOptionError, StateMismatchError
from jrt.state import State, advance, generate
from jrt.state.exactness import exactness
from jrt.state.storage import state_from_tensors, state_to_tensors

MODELS = {
    "based": build("based"),
    "jrt": build("jrt"),
    "legacy": build("jrt", padding="legacy"),
}
GREEDY: dict[str, Any] = dict(do_sample=False, max_new_tokens=6, eos_token_id=None, pad_token_id=0)


def prefix(name: str, length: int | list[int]) -> dict[str, Any]:
    """The options that name the prefix; none for the causal model."""
    if name == "based":
        return {}
    return {"prefix_length": length if isinstance(length, int) else torch.tensor(length)}


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
@settings(deadline=None, max_examples=25)
@given(name=st.sampled_from(sorted(MODELS)), cuts=st.sets(st.integers(1, 19), min_size=1, max_size=6))
def test_parts_equal_one_forward(name: str, cuts: set[int]) -> None:
    model, ids = MODELS[name], random_ids(2, 20)
    first, *others = sorted(cuts)
    expected = model(ids, use_cache=False, **prefix(name, first)).logits
    output = model(ids[:, :first], **prefix(name, first))
    parts = [output.logits]
    for start, stop in zip([first, *others], [*others, 20], strict=True):
        output = model(ids[:, start:stop], past_key_values=output.past_key_values)
        parts.append(output.logits)
    assert relative(torch.cat(parts, 1), expected) < 1e-12


@torch.no_grad()
@settings(deadline=None, max_examples=25)
@given(name=st.sampled_from(sorted(MODELS)), data=st.data())
def test_padding_anywhere_equals_single_rows(name: str, data: st.DataObject) -> None:
    """On the left, on the right, inside a row, and between two parts."""
    model, ids, cut = MODELS[name], random_ids(3, 16), 9
    columns = st.lists(st.booleans(), min_size=16, max_size=16)
    kept = columns.filter(lambda row: any(row[:cut]) and any(row[cut:]))
    mask = torch.tensor(data.draw(st.lists(kept, min_size=3, max_size=3)))
    output = model(ids[:, :cut], attention_mask=mask[:, :cut].long())
    more = model(ids[:, cut:], attention_mask=mask.long(), past_key_values=output.past_key_values)
    logits = torch.cat([output.logits, more.logits], 1)
    for row, keep, found in zip(ids, mask, logits, strict=True):
        expected = model(row[keep][None], **prefix(name, min(12, int(keep[:cut].sum())))).logits[0]
        assert relative(found[keep], expected) < 1e-12


@torch.no_grad()
def test_every_row_may_have_a_prefix_of_its_own() -> None:
    model, ids = MODELS["jrt"], random_ids(3, 15)
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    logits = model(ids, attention_mask=mask, **prefix("jrt", [3, 11, 15])).logits
    for row, skipped, length in ((0, 0, 3), (1, 4, 11), (2, 0, 15)):
        expected = model(ids[row : row + 1, skipped:], prefix_length=length).logits[0]
        assert relative(logits[row, skipped:], expected) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("length", [5, 17])  # shorter and longer than the encoder's 12
def test_greedy_generation_of_a_padded_batch_equals_repeated_forwards(name: str, length: int) -> None:
    model, ids = MODELS[name], random_ids(2, length)
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    produced = model.generate(ids, attention_mask=mask, **GREEDY)
    for row, skipped in ((0, 0), (1, 3)):
        text = ids[row, skipped:]
        options = prefix(name, min(12, len(text)))
        for _ in range(6):
            text = torch.cat([text, model(text[None], **options).logits[0, -1].argmax()[None]])
        assert torch.equal(produced[row, skipped:], text)


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_beams_equal_a_search_without_memory(name: str) -> None:
    model, ids = MODELS[name], random_ids(2, 9)
    found = model.generate(ids, num_beams=3, num_return_sequences=2, **GREEDY)
    plain = copy.deepcopy(model)
    plain.generation_config.use_cache = False
    assert torch.equal(found, plain.generate(ids, num_beams=3, num_return_sequences=2, **GREEDY, **prefix(name, 9)))


@torch.no_grad()
def test_generate_takes_a_prefix_and_samples() -> None:
    model, ids = MODELS["jrt"], random_ids(1, 14)
    outputs = [model.generate(ids, prefix_length=length, **GREEDY) for length in (0, 14)]
    assert not torch.equal(*outputs)
    assert outputs[0][0, 14] == model(ids, prefix_length=0).logits[0, -1].argmax()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sampled = model.generate(ids, **(GREEDY | dict(do_sample=True, num_return_sequences=4, temperature=3.0)))
    assert len({tuple(row) for row in sampled.tolist()}) > 1


@pytest.mark.parametrize("name", MODELS)
def test_the_probe_finds_that_it_may_be_continued(name: str) -> None:
    found = jrt.probe(MODELS[name])
    assert (found.continuation, found.batched, found.gaps, found.max_length) == ("chunk", True, True, None)
    assert found.error < 1e-12


@pytest.mark.parametrize("name", MODELS)
def test_the_state_core_is_exact_with_it(name: str) -> None:
    model = MODELS[name]
    assert exactness(model, jrt.probe(model), stock=None).largest < 1e-12


@torch.no_grad()
def test_the_state_core_reads_a_prefix_at_once_however_small_its_chunks_are() -> None:
    model, ids = MODELS["jrt"], random_ids(2, 30)
    mask = torch.ones_like(ids)
    mask[1, :22] = 0  # this row's prefix is behind the columns that the other one has it in
    state = State.empty(2)
    logits = advance(model, state, ids, mask, capabilities=jrt.probe(model), chunk_size=4)
    for row, skipped in ((0, 0), (1, 22)):
        assert relative(logits[row], model(ids[row : row + 1, skipped:]).logits[0, -1]) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_a_state_is_saved_and_goes_on_where_it_was(name: str) -> None:
    model, ids = MODELS[name], random_ids(1, 20)
    capabilities, state = jrt.probe(model), State.empty(1)
    advance(model, state, ids[:, :11], capabilities=capabilities)
    again = state_from_tensors(model, capabilities, *state_to_tensors(state))
    kept = state.fork()
    expected = generate(model, state, ids[:, 11:], capabilities=capabilities, **GREEDY)
    assert torch.equal(generate(model, again, ids[:, 11:], capabilities=capabilities, **GREEDY), expected)
    assert torch.equal(generate(model, kept, ids[:, 11:], capabilities=capabilities, **GREEDY), expected)


@torch.no_grad()
def test_the_state_does_not_grow_with_the_text() -> None:
    model, sizes = MODELS["jrt"], set()
    for length in (20, 200):
        state = State.empty(1)
        advance(model, state, random_ids(1, length), capabilities=jrt.probe(model))
        sizes.add(state.nbytes)
    assert len(sizes) == 1


@torch.no_grad()
def test_what_cannot_be_is_refused() -> None:
    model, ids = MODELS["jrt"], random_ids(2, 8)
    memory = model(ids).past_key_values
    with pytest.raises(StateMismatchError, match="prefix_length"):
        model(ids, past_key_values=memory, prefix_length=3)
    with pytest.raises(StateMismatchError, match="2 rows"):
        model(ids[:1], past_key_values=memory)
    with pytest.raises(StateMismatchError, match="BasedCache"):
        model(ids, past_key_values=DynamicCache())
    with pytest.raises(InvalidOptionError, match="attention_mask"):
        model(ids, attention_mask=torch.ones(2, 9))
    with pytest.raises(InvalidOptionError, match="prefix_length"):
        model(ids, prefix_length=torch.tensor([1, 2, 3]))
    with pytest.raises(InvalidOptionError, match="prefix_length"):
        model(ids, prefix_length=-1)
    with pytest.raises(InvalidOptionError, match="input_ids"):
        model()
    with pytest.raises(ValueError, match="cache"):  # in parts it would be another prefix
        model.generate(ids, prefill_chunk_size=4, **GREEDY)
