"""transformers' `generate` on top of a captured state, the same for every family.

`generate` has two opposite conventions for a warm cache (key-value caches want all ids, recurrent ones the new ids
only; the wrong one returns garbage without an error), does not expand a cache for beams, refuses beams or crashes for
some families. So it never sees the model's own cache here: it drives `_StatefulModel`, whose forward is `advance` and
whose cache is the `State`. Greedy decoding, sampling, beams, streaming, processors and stopping criteria are
transformers' own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from jrt.errors import EmptyInputError
from jrt.state.capabilities import Capabilities
from jrt.state.state import State, advance


class _StatefulModel(torch.nn.Module, GenerationMixin):
    """What `generate` takes for the model; lives for one call."""

    main_input_name = "input_ids"
    _is_stateful = False  # the state forks, whatever the family's own cache can do

    def __init__(self, model: Any, capabilities: Capabilities) -> None:
        super().__init__()
        self.model = model
        self.capabilities = capabilities

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
        device = self.model.device
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
        EmptyInputError: `ids` has no column.
    """
    if ids.shape[1] == 0:
        raise EmptyInputError("Nothing was given to continue with.", "Pass at least one token after the state.")
    mask = torch.ones_like(ids) if mask is None else mask
    copies = _copies(model, generation)
    whole, whole_mask = torch.cat([state.ids, ids], dim=1), torch.cat([state.mask, mask], dim=1)
    if copies > 1:  # `generate` repeats the ids for beams and for several answers, but not a cache that it was given
        state.reorder_cache(torch.arange(len(ids)).repeat_interleave(copies))
    return _StatefulModel(model, capabilities).generate(
        whole, attention_mask=whole_mask, past_key_values=state, **generation
    )


def _copies(model: Any, generation: dict[str, Any]) -> int:
    """How many rows `generate` makes of each one."""
    config = generation.get("generation_config") or model.generation_config
    beams, answers = (
        generation.get(name) or getattr(config, name, None) or 1 for name in ("num_beams", "num_return_sequences")
    )
    return max(int(beams), int(answers))
