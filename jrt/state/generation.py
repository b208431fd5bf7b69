"""transformers' `generate` on top of a captured state, the same for every family.

`generate` has two opposite conventions for a warm cache (key-value caches want all ids, recurrent ones the new ids
only; the wrong one returns garbage without an error), does not expand a cache for beams, refuses beams or crashes for
some families. So it never sees the model's own cache here: it drives `_StatefulModel`, whose forward is `advance` and
whose cache is the `State`. Greedy decoding, sampling, beams, streaming, processors and stopping criteria are
transformers' own.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from jrt.errors import EmptyInputError, InvalidOptionError
from jrt.state.capabilities import Capabilities
from jrt.state.running import device_of
from jrt.state.state import State, advance

_REFUSED = {
    "past_key_values": "the state is the cache",
    "cache_implementation": "the state is the cache",
    "inputs": "the prompt is input_ids",
    "inputs_embeds": "a state remembers token ids",
    "output_hidden_states": "a state is read without them",
    "output_attentions": "a state is read without them",
    "prefill_chunk_size": "prompts are read in parts anyway",
    "guidance_scale": "it reads another prompt beside the state",
    "assistant_model": "a state cannot be rolled back",
    "prompt_lookup_num_tokens": "a state cannot be rolled back",
    "assistant_early_exit": "a state cannot be rolled back",
}
"""Options of transformers' `generate` that cannot work on a state, and why."""


class _StatefulModel(torch.nn.Module, GenerationMixin):
    """What `generate` takes for the model; lives for one call."""

    main_input_name = "input_ids"
    _is_stateful = False  # the state forks, whatever the family's own cache can do

    def __init__(self, model: Any, capabilities: Capabilities) -> None:
        super().__init__()
        self.model = model
        self.capabilities = capabilities
        self.generation_config = copy.copy(model.generation_config)
        self.generation_config.cache_implementation = None  # the state is the cache

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)

    def can_generate(self) -> bool:
        return True

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, past_key_values: State, attention_mask: Tensor | None = None, **_: Any
    ) -> dict[str, Any]:
        """The columns that the state has not read yet; everything else `generate` passes is about other caches."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        first = len(past_key_values)
        return {
            "input_ids": input_ids[:, first:],
            "attention_mask": mask[:, first:],
            "past_key_values": past_key_values,
        }

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, past_key_values: State, return_dict: bool = True
    ) -> CausalLMOutputWithPast:
        device = device_of(self.model)
        logits = advance(
            self.model,
            past_key_values,
            input_ids.to(device),
            attention_mask.to(device),
            capabilities=self.capabilities,
        )
        return CausalLMOutputWithPast(logits=logits[:, None], past_key_values=past_key_values)  # type: ignore[arg-type]


def generate(
    model: Any,
    state: State,
    ids: Tensor,
    mask: Tensor | None = None,
    *,
    capabilities: Capabilities,
    **generation: Any,
) -> Any:
    """Continues from `state` with `ids` as if the whole text had been the prompt.

    Args:
        model: a causal language model of transformers.
        state: what was read before; it is used up, so fork it first to keep it.
        ids: the rest of the prompt, (B, N), N >= 1; rows of different length are padded on the left.
        mask: 1 for tokens, 0 for padding, (B, N).
        capabilities: what `probe(model)` found.
        **generation: what transformers' `generate` takes.

    Returns:
        What `generate` returns for the whole prompt: ids of shape (B, T + N + new), or its dictionary.

    Raises:
        EmptyInputError: `ids` has no row or no column.
        InvalidOptionError: a mask of another shape, padding on the right, or an option that cannot work.
    """
    mask = _checked(ids, mask)
    _refuse_options(generation)
    copies = _copies(model, generation)
    whole, whole_mask = torch.cat([state.ids, ids], dim=1), torch.cat([state.mask, mask], dim=1)
    if copies > 1:  # `generate` repeats the ids for beams and for several answers, but not a cache that it was given
        state.reorder_cache(torch.arange(len(ids)).repeat_interleave(copies))
    return _StatefulModel(model, capabilities).generate(
        whole, attention_mask=whole_mask, past_key_values=state, **generation
    )


def mask_of(model: Any, ids: Tensor, generation: dict[str, Any]) -> Tensor:
    """The mask of prompts that came without one, (B, N), as transformers' `generate` infers it.

    Pad tokens are padding, unless the end-of-sequence token is the same one.
    """
    pad, end = (_setting(model, generation, name) for name in ("pad_token_id", "eos_token_id"))
    if pad is None or pad in (end if isinstance(end, (list, tuple)) else [end]):
        return torch.ones_like(ids)
    return ids.ne(pad).long()


def _setting(model: Any, generation: dict[str, Any], name: str) -> Any:
    """What `generate` goes by: its own argument, that of a configuration it is given, or the model's."""
    config = generation.get("generation_config")
    found = (generation.get(name), getattr(config, name, None), getattr(model.generation_config, name, None))
    return next((value for value in found if value is not None), None)


def _checked(ids: Tensor, mask: Tensor | None) -> Tensor:
    """The mask of tokens that can be continued, (B, N)."""
    if ids.dim() != 2:
        raise InvalidOptionError(f"input_ids have the shape {tuple(ids.shape)}.", "Pass rows of token ids, (B, N).")
    if ids.numel() == 0:
        raise EmptyInputError("Nothing was given to continue with.", "Pass at least one token after the state.")
    mask = torch.ones_like(ids) if mask is None else mask
    if mask.shape != ids.shape:
        raise InvalidOptionError(
            f"attention_mask has the shape {tuple(mask.shape)}, input_ids {tuple(ids.shape)}.", "Give them alike."
        )
    if not bool(mask[:, -1].all()):
        row = int((mask[:, -1] == 0).nonzero()[0])
        raise InvalidOptionError(
            f"Row {row} is padded on the right, and its answer would follow the padding.",
            'Pad prompts on the left: tokenizer.padding_side = "left".',
        )
    return mask


def _refuse_options(generation: dict[str, Any]) -> None:
    """Says which options cannot work on a state, before they are ignored or fail half way."""
    config = generation.get("generation_config")
    for name, reason in _REFUSED.items():
        value = generation.get(name, getattr(config, name, None))
        if value is not None and value is not False and not (name == "guidance_scale" and value == 1):
            raise InvalidOptionError(f"generate cannot take {name} here: {reason}.", f"Leave {name} out.")


def _copies(model: Any, generation: dict[str, Any]) -> int:
    """How many rows `generate` makes of each one."""
    beams, answers = (_setting(model, generation, name) or 1 for name in ("num_beams", "num_return_sequences"))
    return max(int(beams), int(answers))
