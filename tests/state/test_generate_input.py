"""What `generate` on a state takes: prompts as transformers takes them, and no option that it would ignore."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

import pytest
import torch
from zoo import build, random_ids

import jrt
from jrt.errors import EmptyInputError, InvalidOptionError
from jrt.state import State, generate, probe

IDS = random_ids(2, 9, seed=3).clamp_min(3)
MASK = torch.ones_like(IDS)
MASK[1, :4] = 0
PADDED = IDS.masked_fill(MASK == 0, 0)
OPTIONS: dict[str, Any] = dict(max_new_tokens=6, do_sample=False, eos_token_id=1, pad_token_id=0)


def continued(ids: Any = PADDED, mask: Any = MASK, **options: Any) -> Any:
    model = build("llama")
    return generate(model, State.empty(len(ids)), ids, mask, capabilities=probe(model), **(OPTIONS | options))


def test_a_prompt_padded_on_the_right_is_refused_and_not_answered_after_its_padding() -> None:
    rolled, mask = torch.stack([PADDED[0], PADDED[1].roll(-4)]), torch.stack([MASK[0], MASK[1].roll(-4)])
    with pytest.raises(InvalidOptionError, match=r"Row 1 is padded on the right.*padding_side"):
        continued(rolled, mask)
    assert torch.equal(continued(), build("llama").generate(PADDED, attention_mask=MASK, **OPTIONS))


def test_prompts_of_another_shape_are_refused() -> None:
    for ids in (PADDED[:0], PADDED[:, :0]):
        with pytest.raises(EmptyInputError):
            continued(ids, MASK[: len(ids), : ids.shape[1]])
    with pytest.raises(InvalidOptionError, match="rows of token ids"):
        continued(PADDED[0], None)
    with pytest.raises(InvalidOptionError, match="attention_mask has the shape"):
        continued(PADDED, MASK[:, 1:])


@pytest.mark.parametrize(
    "option",
    [
        {"past_key_values": 1}, {"cache_implementation": "static"}, {"inputs_embeds": torch.zeros(2, 9, 64)},
        {"output_hidden_states": True}, {"output_attentions": True}, {"prefill_chunk_size": 4},
        {"guidance_scale": 1.5}, {"prompt_lookup_num_tokens": 3}, {"assistant_model": 1},
    ],
    ids=lambda option: next(iter(option)),
)  # fmt: skip
def test_options_that_cannot_work_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError, match=f"generate cannot take {next(iter(option))} here"):
        continued(**option)


def test_options_that_change_nothing_are_taken() -> None:
    assert torch.equal(continued(guidance_scale=1.0, output_attentions=False, use_cache=False), continued())


def test_the_cache_that_a_model_would_choose_for_itself_does_not_matter() -> None:
    """Checkpoints bring one along in generation_config.json."""
    model = build("llama")
    model.generation_config.cache_implementation = "static"
    ours = generate(model, State.empty(2), PADDED, MASK, capabilities=probe(model), **OPTIONS)
    assert torch.equal(ours, continued()) and model.generation_config.cache_implementation == "static"


@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize("method", [None, jrt.RMT(0, segment_length=64), jrt.InfiniAttention(64)])
def test_without_a_mask_pad_tokens_are_padding_as_in_transformers(method: Any, pad: int) -> None:
    model, options = build("llama"), OPTIONS | {"pad_token_id": pad}
    ids = PADDED.masked_fill(MASK == 0, pad)  # a pad token that ends answers too says nothing about padding
    expected = model.generate(ids, **options)
    assert torch.equal(jrt.wrap(model, *([method] if method else [])).generate(ids, **options), expected)
    if method is not None:
        assert torch.equal(method.adapt(model).generate(ids, **options), expected)
