"""ARMT around a model: RMT's segments, with the memory in the layers instead of in the tokens.

What is handed from segment to segment are the states of all layers, one below the other in one tensor, so everything
that RMT does with a memory (truncated gradients, ragged rows, the cache, saved readings) holds for them as well.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from jrt.adapters.armt import ARMT
from jrt.adapters.armt_memory import NORMALIZATIONS, LayerMemory
from jrt.adapters.rmt_body import ModelFacts, layers_of, unwrapped
from jrt.adapters.rmt_decoder import RMTDecoder
from jrt.adapters.rmt_encoder import RMTEncoder
from jrt.adapters.rmt_model import RMTModel
from jrt.errors import UnsupportedModelError

_TOKENS_FIRST = ("xlnet",)
"""Models whose layers pass (T, B, D) on. By name, because where T is B no shape tells."""


class _Associative(RMTModel):
    """What ARMT does otherwise than RMT; mixed into the encoder and the decoder.

    Attributes:
        layer_memories: how each layer reads and writes.
    """

    reads_tokens = False

    def __init__(self, base: Any, method: ARMT, facts: ModelFacts) -> None:
        super().__init__(base, method, facts)  # type: ignore[call-arg]  # the encoder's or the decoder's
        layers, config = layers_of(base), unwrapped(base).config
        width = config.get_text_config(decoder=True).hidden_size
        if len(layers) != config.num_hidden_layers:
            raise UnsupportedModelError(
                f"{type(unwrapped(base)).__name__} has {len(layers)} modules for {config.num_hidden_layers} layers, "
                "and each layer keeps a memory of its own.",
                "Use RMT, or a model whose layers share no weights.",
            )
        if config.model_type in _TOKENS_FIRST:
            raise UnsupportedModelError(
                f"The layers of {type(unwrapped(base)).__name__} take tokens before rows, "
                "and each row keeps a memory of its own.",
                "Use RMT around this model.",
            )
        self.rows_a_layer = width + NORMALIZATIONS[method.normalization].extra_rows
        self.features = 2 * method.feature_order * method.key_width
        device = self.initial_memory.device
        sizes = (width, method.key_width, method.feature_order)
        self.layer_memories = nn.ModuleList(LayerMemory(*sizes, method.normalization, device) for _ in layers)

    def start_memory(self) -> Tensor:
        """Nothing is stored: zeros, fp32, (layers x rows a layer, K)."""
        rows = len(self.layer_memories) * self.rows_a_layer
        return torch.zeros(rows, self.features, device=self.initial_memory.device)

    def embed_memory(self, memory: Tensor) -> Tensor:
        """The memory tokens, which are the same in every segment, (B, m, E)."""
        tokens = self.initial_memory.float().expand(len(memory), -1, -1)
        return super().embed_memory(tokens)

    def run(self, memory: Tensor, columns: Tensor, head: bool, inputs: dict[str, Any]) -> tuple[Any, Tensor, Tensor]:
        """One forward of the base model, whose layers read `memory`; what they write is the new one."""
        states = memory.view(len(memory), len(self.layer_memories), self.rows_a_layer, -1).unbind(dim=1)
        with self._beside_layers(states, columns) as written:
            output, _, gates = super().run(memory, columns, head, inputs)
        return output, torch.cat([written[layer] for layer in range(len(states))], dim=1), gates

    def written(self, old: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """The layers have written; nothing is left to do."""
        return old, torch.ones_like(output[..., :1])

    def _memory_of(self, number: int) -> LayerMemory:
        memory = self.layer_memories[number]
        assert isinstance(memory, LayerMemory)
        return memory

    @contextmanager
    def _beside_layers(self, states: tuple[Tensor, ...], columns: Tensor) -> Iterator[dict[int, Tensor]]:
        """While the context lasts, layers read their states; their new states are in the dictionary afterwards."""
        written: dict[int, Tensor] = {}
        row = torch.arange(len(columns), device=columns.device)[:, None]

        def before(number: int, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            read = self._memory_of(number).read
            if arguments:
                return (read(states[number], arguments[0]), *arguments[1:]), named
            return arguments, named | {"hidden_states": read(states[number], named["hidden_states"])}

        def after(number: int, arguments: tuple[Any, ...], output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            written[number] = self._memory_of(number).written(states[number], hidden[row, columns])

        handles = []
        try:
            for number, layer in enumerate(layers_of(self.base)):
                handles.append(layer.register_forward_pre_hook(_here(partial(before, number)), with_kwargs=True))
                handles.append(layer.register_forward_hook(_here(partial(after, number))))
            yield written
        finally:
            for handle in handles:
                handle.remove()


def _here(hook: Any) -> Any:
    """The hook for calls of this thread alone; others may run the same model meanwhile."""
    thread = threading.get_ident()
    return lambda module, *arguments: hook(*arguments) if threading.get_ident() == thread else None


class ARMTEncoder(_Associative, RMTEncoder):
    """An encoder whose layers keep associative memories; see `ARMT`."""


class ARMTDecoder(_Associative, RMTDecoder):
    """A decoder whose layers keep associative memories; see `ARMT`."""
