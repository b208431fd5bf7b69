"""The model that reads through Infini-attention: it cuts its input into windows and runs the base on each.

The whole state is in the `InfiniCache` that goes in and out of `forward`. In training without a cache, gradients flow
through the memory of all segments of the call.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jrt.adapters.adapted import AdaptedModel
from jrt.adapters.infini_attention import WindowAttention
from jrt.adapters.infini_cache import InfiniCache, InfiniLayer, no_tokens
from jrt.adapters.infini_families import family_of, key_value_heads
from jrt.adapters.infini_outputs import InfiniOutput, Part, Wanted, combined, sum_of_losses
from jrt.adapters.infini_settings import settings_of
from jrt.adapters.infini_switch import StandIn, switched
from jrt.adapters.infini_windows import Window, windows
from jrt.errors import EmptyInputError, InvalidOptionError, StateMismatchError

if TYPE_CHECKING:
    from jrt.adapters.infini import InfiniAttention

WIDE = 4096
"""Tokens a row in one forward of the base at most, where a segment is shorter and no gradient is wanted."""


class InfiniModel(AdaptedModel):
    """A decoder with a compressive memory; made by `InfiniAttention.adapt`.

    Attributes:
        gates: by layer, the logits of every query head's gate, `(H,)`: the memory's share is their sigmoid.
        write_gates: by layer, how the write gates see key and value; empty without `write_gate`.
        write_penalty: the method's own at the start; a schedule may change it.
    """

    method: InfiniAttention
    accepts_loss_kwargs = True
    """Trainer passes `num_items_in_batch`, so steps of several batches weigh every label alike."""

    def __init__(self, base: Any, method: InfiniAttention) -> None:
        super().__init__(base, method)
        self.settings = settings_of(base, method)
        self.write_penalty = method.write_penalty
        self.checkpointing = method.gradient_checkpointing
        layers = [str(layer) for layer, kind in enumerate(self.settings.kinds) if kind == "memory"]
        config, device = base.config, self.device
        heads, pairs = config.num_attention_heads, key_value_heads(base)
        self.gates = nn.ParameterDict(
            {layer: nn.Parameter(torch.full((heads,), method.gate_init, device=device)) for layer in layers}
        )
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        self.write_gates = nn.ModuleDict(
            {layer: WriteGate(pairs, width).to(device) for layer in layers} if method.write_gate else {}
        )
        self.follow_mode()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: InfiniCache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        num_items_in_batch: Tensor | int | None = None,
    ) -> InfiniOutput:
        """Reads new tokens on top of a cache.

        Args:
            input_ids: new tokens, `(B, T)`.
            attention_mask: 1 for tokens, 0 for padding, of the new tokens or of all, `(B, past + T)`.
            inputs_embeds: in place of `input_ids`, `(B, T, d)`.
            labels: `(B, T)`, as transformers takes them: the same tokens, -100 where there is no loss. Each is
                predicted by the token before it in its row; padding predicts nothing.
            past_key_values: what was read before; it grows in place.
            use_cache: return the cache; None is yes outside of training.
            logits_to_keep: of how many last columns logits are wanted; 0 is all.
            num_items_in_batch: what the loss is divided by; None is the number of labels.

        Returns:
            Logits of the new tokens, `(B, T, V)` (at padding they mean nothing), the cache, and the loss where labels
            were given. In training with labels there are no logits: only those that the loss needs are computed.

        Raises:
            EmptyInputError: there is no token.
            InvalidOptionError: ids and embeddings at once, labels of another shape, or logits of fewer than 0 columns.
            StateMismatchError: the cache or the mask has other rows than the input.
        """
        tokens = _tokens(input_ids, inputs_embeds)
        mask = _real(attention_mask, tokens)
        wanted = Wanted.of((len(tokens), tokens.shape[1]), mask, labels, logits_to_keep, self.training)
        cache = self._cache(past_key_values, len(tokens))
        parts = [self._advance(tokens, wanted, window, cache) for window in self._windows(tokens, mask, cache)]
        cache.columns += tokens.shape[1]
        keep = not self.training if use_cache is None else use_cache
        kept = cache if keep else None
        return combined(parts, wanted, kept, mask is not None, self.write_penalty, num_items_in_batch)

    def _cache(self, cache: InfiniCache | None, rows: int) -> InfiniCache:
        if cache is None:
            cache = InfiniCache(len(self.settings.kinds))
        if not isinstance(cache, InfiniCache) or (cache.seen is not None and len(cache.seen) != rows):
            held = f" of {len(cache.seen)} rows" if isinstance(cache, InfiniCache) and cache.seen is not None else ""
            raise StateMismatchError(
                f"InfiniAttention got a {type(cache).__name__}{held} for {rows} rows of tokens.",
                "Pass the past_key_values that this model's forward returned for the same rows, or none.",
            )
        if cache.seen is None:
            cache.seen = no_tokens(rows)
        return cache

    def _windows(self, tokens: Tensor, mask: Tensor | None, cache: InfiniCache) -> Iterator[Window]:
        """The windows of a call; the memory forgets its past between them where gradients are to end."""
        assert cache.seen is not None
        size, reach = self.settings.segment_length, self.method.bptt_segments
        training = self.training and torch.is_grad_enabled()
        wide = self.settings.plain and not (self.training and _drops(self.base.config))
        lengths = cache.seen % size + (tokens.shape[1] if mask is None else mask.sum(1))
        total = -(-int(lengths.max()) // size)
        if not wide or "window" in self.settings.kinds or (training and self.checkpoints()):
            segments = 1
        elif training:
            segments = total if reach is None else reach + 1
        else:
            segments = max(1, WIDE // size)
        first = (total - 1) % segments + 1 if training else segments
        for index, window in enumerate(windows(mask, tokens.shape[1], cache.seen, size, (first, segments), wide)):
            whole_group = segments > 1 or (reach is not None and (total - index) % (reach + 1) == 0)
            if training and reach is not None and index and whole_group:
                cache.detach_()
            yield window

    def _advance(self, tokens: Tensor, wanted: Wanted, window: Window, cache: InfiniCache) -> Part:
        """Reads one window; the cache holds it afterwards."""
        arguments = (tokens, wanted, window, list(cache.layers))
        if self.training and torch.is_grad_enabled() and self.checkpoints():
            part, cache.layers = checkpoint(self._read, *arguments, use_reentrant=False)
        else:
            part, cache.layers = self._read(*arguments)
        cache.seen = window.seen + window.counts
        return part

    def _read(
        self, tokens: Tensor, wanted: Wanted, window: Window, before: list[InfiniLayer]
    ) -> tuple[Part, list[InfiniLayer]]:
        """One forward of the base; it depends on its arguments only, so that it can be computed again."""
        device = tokens.device
        targets = wanted.targets_of(window)
        columns = wanted.columns_of(window, targets)
        kept = columns.to(device) if len(columns) else torch.zeros(1, dtype=torch.long, device=device)
        inputs = tokens[torch.arange(len(tokens), device=device)[:, None], window.columns.to(device)]
        attention = WindowAttention(
            self.settings, dict(self.gates), dict(self.write_gates), window, self.training, before
        )
        with switched(self.base.config, attention, *self._stand_in()), _without_checkpointing(self.base):
            output = self.base(
                **{"input_ids" if tokens.dim() == 2 else "inputs_embeds": inputs},
                position_ids=window.positions(self.settings.restart).to(device),
                use_cache=False,
                logits_to_keep=kept,
            )
        logits = output.logits[:, : len(columns)]
        loss = None if targets is None else sum_of_losses(logits, targets[:, columns.to(targets.device)])
        layers = [attention.after.get(layer, InfiniLayer()) for layer in range(len(before))]
        return Part.of(window, columns, logits if wanted.logits else None, loss, attention.writes), layers

    def _stand_in(self) -> tuple[list[nn.Module], StandIn | None]:
        """Attention modules that do not ask transformers' registry, and what attends for them."""
        name = family_of(self.base.config).stand_in
        if name is None:
            return [], None
        found = importlib.import_module(name)
        return [module for module in self.base.modules() if found.is_attention(module)], found.attend

    def checkpoints(self) -> bool:
        """Whether a training step computes every segment again in its backward pass instead of keeping it."""
        return self.checkpointing or any(vars(module).get("gradient_checkpointing") for module in self.base.modules())

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Keeps of each segment only the state at its borders; what Trainer's `gradient_checkpointing` calls.

        Args:
            activation_checkpointing_kwargs: ours is always without re-entering autograd.
            every_n_layers: ours is by segments, so 1.
            offload: ours keeps the borders where they are, so False.

        Raises:
            InvalidOptionError: something else is asked for.
        """
        options = dict(activation_checkpointing_kwargs or {})
        if options.pop("use_reentrant", False) or options or every_n_layers != 1 or offload:
            raise InvalidOptionError(
                "InfiniAttention computes whole segments again, without re-entering autograd, and offloads nothing.",
                "Leave out gradient_checkpointing_kwargs and the other options of checkpointing.",
            )
        self.checkpointing = True

    def activation_checkpointing_disable(self) -> None:
        """Undoes `activation_checkpointing_enable`."""
        self.checkpointing = False

    gradient_checkpointing_enable = activation_checkpointing_enable
    gradient_checkpointing_disable = activation_checkpointing_disable

    def gate_values(self) -> dict[int, Tensor]:
        """By layer, the memory's share in every query head, between 0 and 1, `(H,)` on the CPU."""
        return {int(layer): torch.sigmoid(gate.detach().float()).cpu() for layer, gate in self.gates.items()}

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for an optimizer: the gates come last, without decay and with the method's own learning rate."""
        gates = [gate for gate in self.gates.parameters() if gate.requires_grad]
        own = {id(parameter) for parameter in [*self.gates.parameters(), *self.write_gates.parameters()]}
        groups = super().parameter_groups(weight_decay)
        for group in groups:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in own]
        groups[-1]["params"] += [gate for gate in self.write_gates.parameters() if gate.requires_grad]
        rate = self.method.gate_learning_rate
        return [*groups, {"params": gates, "weight_decay": 0.0} | ({} if rate is None else {"lr": rate})]


class WriteGate(nn.Module):
    """How much of each token a layer writes: a rectified linear map of its key and value, 1 at the start.

    Args:
        heads: Hkv.
        width: D, and Dv.
    """

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(heads, 2 * width))
        self.bias = nn.Parameter(torch.ones(heads))

    def forward(self, key: Tensor, value: Tensor) -> Tensor:
        """Keys without positions and values `(B, Hkv, T, D)` to `(B, Hkv, T)`, in single precision."""
        both = torch.cat([key, value], -1).float()
        weight, bias = (part.to(both)[:, None] for part in (self.weight, self.bias))
        return torch.relu((both * weight).sum(-1) + bias)


def _tokens(input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
    """The new tokens, as ids `(B, T)` or embeddings `(B, T, d)`."""
    if input_ids is not None and inputs_embeds is not None:
        raise InvalidOptionError("forward got input_ids and inputs_embeds.", "Pass one of them.")
    tokens = input_ids if input_ids is not None else inputs_embeds
    if tokens is None or tokens.numel() == 0:
        raise EmptyInputError(
            "forward got no tokens.", "Pass input_ids or inputs_embeds of one row and column or more."
        )
    if tokens.dim() != (2 if input_ids is not None else 3):
        raise InvalidOptionError(
            f"forward got tokens of the shape {tuple(tokens.shape)}.",
            "Pass input_ids (B, T) or inputs_embeds (B, T, d).",
        )
    return tokens


def _real(attention_mask: Tensor | None, tokens: Tensor) -> Tensor | None:
    """Which of the new tokens are real, `(B, T)` on the CPU; None where all are."""
    if attention_mask is None:
        return None
    rows, length = tokens.shape[:2]
    if attention_mask.dim() != 2 or len(attention_mask) != rows or attention_mask.shape[1] < length:
        raise StateMismatchError(
            f"The attention mask is {tuple(attention_mask.shape)} for tokens {(rows, length)}.",
            "Pass 1 for tokens and 0 for padding, of the new tokens or of all that were read.",
        )
    mask = attention_mask[:, -length:].bool().cpu()
    return None if bool(mask.all()) else mask


def _drops(config: Any) -> bool:
    """Whether the base drops attention weights in training, which the kernel does not."""
    return any(getattr(config, name, 0.0) for name in ("attention_dropout", "attn_pdrop"))


@contextmanager
def _without_checkpointing(base: nn.Module) -> Iterator[None]:
    """The base without its own gradient checkpointing, which would call attention again outside of our forward."""
    modules = [module for module in base.modules() if vars(module).get("gradient_checkpointing")]
    for module in modules:
        vars(module)["gradient_checkpointing"] = False
    try:
        yield
    finally:
        for module in modules:
            vars(module)["gradient_checkpointing"] = True
