"""Continuing from a state gives what the full prompt gives, for every architecture of the zoo.

The oracle is the plain model: one forward over the whole row without a cache.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TextIteratorStreamer

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from zoo import ZOO, build, random_ids

from jrt.state import Capabilities, State, advance, generate, probe
from jrt.state.storage import state_from_tensors, state_to_tensors

TOLERANCE = 1e-4
GREEDY: dict[str, Any] = dict(do_sample=False, max_new_tokens=6, pad_token_id=0, eos_token_id=None)
LOGITS: dict[str, Any] = dict(return_dict_in_generate=True, output_logits=True)
NO_NATIVE_BEAMS = {
    "rwkv4": "refused",
    "recurrent_gemma": "refused",
    "xlstm": "its cache has no attribute is_compileable",
    "minimax": "reorder_cache forgets the linear layers",
}


@cache
def subject(name: str) -> tuple[Any, Capabilities]:
    model = build(name)
    return model, probe(model)


@torch.no_grad()
def full(model: Any, ids: Tensor) -> Tensor:
    """The last logits of the plain model over one row, (V,)."""
    logits: Tensor = model(input_ids=ids[None] if ids.dim() == 1 else ids, use_cache=False).logits[0, -1]
    return logits


def difference(model: Any, logits: Tensor, rows: list[Tensor]) -> float:
    """Largest difference to the plain model, as a share of its largest logit."""
    expected = torch.stack([full(model, row) for row in rows])
    return float((logits - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("chunk_size", [1, 5, 100])
def test_any_chunking_equals_the_full_prompt(name: str, chunk_size: int) -> None:
    model, capabilities = subject(name)
    ids = random_ids(1, 24)
    state = State.empty(1)
    advance(model, state, ids[:, :15], capabilities=capabilities, chunk_size=chunk_size)
    logits = advance(model, state, ids[:, 15:], capabilities=capabilities, chunk_size=chunk_size)
    assert difference(model, logits, [ids[0]]) < TOLERANCE
    assert state.num_tokens.tolist() == [24]


@pytest.mark.parametrize("name", ZOO)
def test_left_padded_rows_equal_single_rows(name: str) -> None:
    model, capabilities = subject(name)
    ids, mask = random_ids(2, 24), torch.ones(2, 24, dtype=torch.long)
    mask[1, :7] = 0
    state = State.empty(2)
    advance(model, state, ids[:, :12], mask[:, :12], capabilities=capabilities, chunk_size=5)
    logits = advance(model, state, ids[:, 12:], mask[:, 12:], capabilities=capabilities)
    assert difference(model, logits, [ids[0], ids[1, 7:]]) < TOLERANCE
    assert state.num_tokens.tolist() == [24, 17]


@pytest.mark.parametrize("name", ZOO)
def test_one_document_to_questions_of_different_length(name: str) -> None:
    model, capabilities = subject(name)
    document, questions = random_ids(1, 15), random_ids(3, 6, seed=7)
    mask = torch.ones_like(questions)
    mask[1, :4] = 0
    state = State.empty(1)
    advance(model, state, document, capabilities=capabilities)
    asked = state.select(torch.zeros(3, dtype=torch.long))
    logits = advance(model, asked, questions, mask, capabilities=capabilities)
    rows = [torch.cat([document[0], question[keep.bool()]]) for question, keep in zip(questions, mask, strict=True)]
    assert difference(model, logits, rows) < TOLERANCE
    assert len(state) == 15, "asking must leave the document's state as it was"


@pytest.mark.parametrize("name", ZOO)
def test_rows_can_change_places(name: str) -> None:
    model, capabilities = subject(name)
    ids, more = random_ids(3, 12), random_ids(3, 4, seed=3)
    state = State.empty(3)
    advance(model, state, ids, capabilities=capabilities)
    order = torch.tensor([2, 0, 0])
    logits = advance(model, state.select(order), more, capabilities=capabilities)
    rows = [torch.cat([ids[index], row]) for index, row in zip(order.tolist(), more, strict=True)]
    assert difference(model, logits, rows) < TOLERANCE


@pytest.mark.parametrize("name", ZOO)
def test_greedy_generation_equals_repeated_full_forwards(name: str) -> None:
    model, capabilities = subject(name)
    ids = random_ids(1, 20)
    state = State.empty(1)
    advance(model, state, ids[:, :15], capabilities=capabilities)
    output = generate(model, state, ids[:, 15:], capabilities=capabilities, **GREEDY, **LOGITS)
    row = ids[0]
    for step in output.logits:
        assert difference(model, step, [row]) < TOLERANCE
        row = torch.cat([row, step.argmax(dim=-1)])
    assert torch.equal(output.sequences[0], row)


@pytest.mark.parametrize("name", sorted(set(ZOO) - set(NO_NATIVE_BEAMS)))
@pytest.mark.parametrize("options", [dict(num_beams=3), dict(num_beams=4, num_return_sequences=2)])
def test_beams_equal_the_plain_model(name: str, options: dict[str, int]) -> None:
    model, capabilities = subject(name)
    ids = random_ids(1, 20)
    state = State.empty(1)
    advance(model, state, ids[:, :15], capabilities=capabilities)
    ours = generate(model, state, ids[:, 15:], capabilities=capabilities, **GREEDY, **options)
    assert torch.equal(ours, model.generate(ids, **GREEDY, **options))


@pytest.mark.parametrize("name", sorted(NO_NATIVE_BEAMS))
def test_beams_where_transformers_has_none(name: str) -> None:
    """The score of the best beam is the sum of its tokens' log probabilities under the plain model."""
    model, capabilities = subject(name)
    ids = random_ids(1, 20)
    state = State.empty(1)
    advance(model, state, ids[:, :15], capabilities=capabilities)
    output = generate(
        model, state, ids[:, 15:], capabilities=capabilities, **GREEDY, num_beams=3, return_dict_in_generate=True,
        output_scores=True, length_penalty=0.0,
    )  # fmt: skip
    row, score = output.sequences[0], 0.0
    for position in range(20, len(row)):
        score += float(full(model, row[:position]).log_softmax(dim=-1)[row[position]])
    assert abs(score - float(output.sequences_scores[0])) < 1e-3


@pytest.mark.parametrize("name", ["llama", "mamba", "mamba2", "jamba", "rwkv4"])
def test_sampling_equals_the_plain_model(name: str) -> None:
    model, capabilities = subject(name)
    ids = random_ids(1, 20)
    options = GREEDY | dict(do_sample=True, top_k=20, repetition_penalty=1.3, max_new_tokens=12)
    state = State.empty(1)
    advance(model, state, ids[:, :15], capabilities=capabilities)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ours = generate(model, state, ids[:, 15:], capabilities=capabilities, **options)
        torch.manual_seed(0)
        assert torch.equal(ours, model.generate(ids, **options))


def test_streaming_puts_every_new_token() -> None:
    model, capabilities = subject("mamba")
    ids = random_ids(1, 20)

    class Letters:
        def decode(self, tokens: list[int], **_: Any) -> str:
            return "".join(f"<{token}>" for token in tokens)

    streamer = TextIteratorStreamer(Letters(), skip_prompt=True)  # type: ignore[arg-type]
    state = State.empty(1)
    advance(model, state, ids[:, :15], capabilities=capabilities)
    output = generate(model, state, ids[:, 15:], capabilities=capabilities, streamer=streamer, **GREEDY)
    assert "".join(streamer) == Letters().decode(output[0, 20:].tolist())


@pytest.mark.parametrize("name", ZOO)
def test_fork_goes_another_way(name: str) -> None:
    model, capabilities = subject(name)
    ids, left, right = random_ids(1, 12), random_ids(1, 5, seed=2), random_ids(1, 5, seed=3)
    state = State.empty(1)
    advance(model, state, ids, capabilities=capabilities)
    other = state.fork()
    first = advance(model, state, left, capabilities=capabilities)
    second = advance(model, other, right, capabilities=capabilities)
    assert difference(model, first, [torch.cat([ids[0], left[0]])]) < TOLERANCE
    assert difference(model, second, [torch.cat([ids[0], right[0]])]) < TOLERANCE


@pytest.mark.parametrize("name", ZOO)
def test_a_state_survives_being_stored(name: str) -> None:
    model, capabilities = subject(name)
    ids, more = random_ids(2, 12), random_ids(2, 5, seed=2)
    state = State.empty(2)
    advance(model, state, ids, capabilities=capabilities)
    back = state_from_tensors(model, capabilities, *state_to_tensors(state))
    assert back.nbytes == state.nbytes
    expected = advance(model, state, more, capabilities=capabilities)
    assert torch.equal(advance(model, back, more, capabilities=capabilities), expected)


@pytest.mark.parametrize("name", sorted(set(ZOO) - {"xlstm"}))  # its torch path multiplies float32 by bfloat16
def test_bfloat16_stays_within_rounding(name: str) -> None:
    model = build(name, torch.bfloat16)
    capabilities = probe(model)
    ids = random_ids(1, 24)
    state = State.empty(1)
    advance(model, state, ids[:, :15], capabilities=capabilities)
    logits = advance(model, state, ids[:, 15:], capabilities=capabilities)
    exact = full(build(name), ids)  # the same weights before they were rounded
    rounding = float((full(model, ids).float() - exact).abs().max() / exact.abs().max())
    assert difference(model, logits, [ids[0]]) < max(2 * rounding, 1e-2)


@pytest.mark.parametrize("name", ["mamba", "rwkv4", "recurrent_gemma"])
def test_a_recurrent_state_does_not_grow(name: str) -> None:
    model, capabilities = subject(name)
    state = State.empty(1)
    advance(model, state, random_ids(1, 4), capabilities=capabilities)
    before = state.nbytes
    advance(model, state, random_ids(1, 8), capabilities=capabilities)
    assert state.nbytes == before
