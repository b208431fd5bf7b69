"""The attention of one forward over one window: local attention, what the memory says, and what is kept of the window.

A wide window, whole segments from a border on, goes through `kernels.infini`. A window inside a segment (a decoding
step, a question after a document, rows at different places) is attended here, on top of the unfinished segment in the
cache, and written when its segment is full. States go in and come out; nothing is changed in place, so a forward can be
computed again in a backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from jrt.adapters.infini_cache import InfiniLayer
from jrt.adapters.infini_local import Band, band, keep_last, local_attention, rowwise, segmentwise
from jrt.adapters.infini_rotation import unrotated
from jrt.adapters.infini_windows import Window
from jrt.kernels.infini import FeatureMap, InfiniState, Rule, infini_attention
from jrt.kernels.infini.features import empty_state, features
from jrt.kernels.infini.states import states

Kind = Literal["memory", "segment", "window"]
"""What a layer is: with a memory; local attention in the segment only; its own window, over borders, as it was."""


@dataclass(frozen=True)
class Settings:
    """What holds for every forward of one model.

    Attributes:
        segment_length: tokens a segment.
        rule: how a segment is written.
        feature_map: sigma.
        epsilon: added to the memory's denominators.
        kinds: what each layer is.
        windows: how many tokens each layer's own attention sees; None for all.
        layer_types: what each layer is called in the config, where its rotary tables depend on that.
        rotary: the base's module that makes rotary tables; None for none.
        pairs: how it rotates, see `unrotated`.
        restart: positions begin at 0 in every segment.
        prescaled_query: queries arrive multiplied by 1 / sqrt(D).
        plain: the layers' own attention in a segment is softmax attention and nothing else, as the kernel's is.
    """

    segment_length: int
    rule: Rule
    feature_map: FeatureMap
    epsilon: float
    kinds: tuple[Kind, ...]
    windows: tuple[int | None, ...]
    layer_types: tuple[str, ...] | None
    rotary: nn.Module | None
    pairs: bool
    restart: bool
    prescaled_query: bool
    plain: bool


@dataclass
class WindowAttention:
    """What the layers' attention calls during one forward of the base.

    Attributes:
        settings: of the model.
        gates: by layer, the gate's logits, `(H,)`.
        write_gates: by layer, a function of keys `(B, Hkv, T, D)` and values; empty where everything is written.
        window: the tokens.
        training: whether `writes` is wanted.
        before: the state of every layer before the window.
        after: the state of every layer after it, filled as the layers run.
        writes: the mean of what each memory layer writes of a token: its features, or its write gate.
    """

    settings: Settings
    gates: Mapping[str, Tensor]
    write_gates: Mapping[str, Callable[[Tensor, Tensor], Tensor]]
    window: Window
    training: bool
    before: list[InfiniLayer]
    after: dict[int, InfiniLayer] = field(default_factory=dict)
    writes: list[Tensor] = field(default_factory=list)
    _tables: dict[Any, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scaling: float | None,
        dropout: float,
        softcap: float | None,
    ) -> Tensor:
        """The attention of one layer; `(B, H, N, Dv)`.

        Args:
            module: the base's attention module.
            query: as the base rotated it, `(B, H, N, D)`.
            key: the same, `(B, Hkv, N, D)`.
            value: `(B, Hkv, N, Dv)`.
            scaling: of the scores; None is 1 / sqrt(D).
            dropout: of the attention weights.
            softcap: the bound of the scores; None for none.
        """
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        kind = self.settings.kinds[layer]
        query, key = query.to(value.dtype), key.to(value.dtype)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        before = self._before(layer, key, value)
        assert before.keys is not None and before.values is not None
        held = before.keys.shape[2]
        keys, values = torch.cat([before.keys, key], 2), torch.cat([before.values, value], 2)
        state = None
        if kind == "memory" and self.window.wide:
            output, state = self._read_and_write(layer, query, key, value, before, scale)
        elif kind == "segment" and self.window.wide:
            output = self._by_segment(layer, query, key, value, scale, dropout, softcap)
        else:
            seen = band(held, self.window.length, self._fills(layer), self.settings.windows[layer], key.device)
            output = local_attention(query, keys, values, seen, scale, dropout, softcap)
            if kind == "memory":
                output = self._read(layer, query, output, before)
                self._note_new(layer, key, value)
                state = self._write(layer, keys, values, held, before)
        width = self._width(layer)
        self.after[layer] = InfiniLayer(
            keep_last(keys, held, self.window.counts, width),
            keep_last(values, held, self.window.counts, width),
            state.memory if state is not None else None,
            state.normaliser if state is not None else None,
        )
        return output

    def _before(self, layer: int, key: Tensor, value: Tensor) -> InfiniLayer:
        before = self.before[layer]
        if before.keys is not None:
            return before
        state = empty_state(key, value) if self.settings.kinds[layer] == "memory" else None
        return InfiniLayer(key[:, :, :0], value[:, :, :0], state and state.memory, state and state.normaliser)

    def _fills(self, layer: int) -> Tensor:
        """How many of the held columns are tokens of each row, `(B,)`."""
        if self.settings.kinds[layer] != "window":
            return self.window.fills
        width = self.settings.windows[layer]
        assert width is not None
        return self.window.seen.clamp(max=width - 1)

    def _width(self, layer: int) -> int:
        """How many columns are held afterwards."""
        if self.settings.kinds[layer] != "window":
            return int(self.window.ends.max())
        width = self.settings.windows[layer]
        assert width is not None
        return min(int((self.window.seen + self.window.counts).max()), width - 1)

    def _read_and_write(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, before: InfiniLayer, scale: float
    ) -> tuple[Tensor, InfiniState]:
        """A wide window: everything in one call of the kernel."""
        memory_key = self._plain(layer, key)
        weight = self._weight(layer, memory_key, value)
        self._note(memory_key, weight)
        if not self.window.uniform:
            complete = self.window.complete().to(device=key.device, dtype=torch.float32)[:, None]
            weight = complete.expand(-1, key.shape[1], -1) if weight is None else weight * complete
        return infini_attention(
            query,
            key,
            value,
            self._plain_query(layer, query),
            memory_key,
            self.gates[str(layer)].to(key.device),
            self._state(before),
            segment_length=self.settings.segment_length,
            rule=self.settings.rule,
            feature_map=self.settings.feature_map,
            write_gate=weight,
            scale=scale,
            epsilon=self.settings.epsilon,
        )

    def _by_segment(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        dropout: float,
        softcap: float | None,
    ) -> Tensor:
        """A wide window in a layer without memory: each segment for itself."""
        size = self.settings.segment_length
        first, second, third = (segmentwise(x, size) for x in (query, key, value))
        nothing = torch.zeros(1, dtype=torch.long)
        seen = band(0, size, nothing, self.settings.windows[layer], key.device) if size > 1 else Band(None)
        local = local_attention(first, second, third, seen, scale, dropout, softcap)
        return rowwise(local, len(query), query.shape[2])

    def _read(self, layer: int, query: Tensor, local: Tensor, before: InfiniLayer) -> Tensor:
        """Local attention mixed with the memory by the gate; alone where nothing is written yet."""
        state = self._state(before)
        dtype, heads = state.memory.dtype, state.memory.shape[1]
        sigma_q = features(self._plain_query(layer, query).to(dtype), self.settings.feature_map)
        sigma_q = sigma_q.unflatten(1, (heads, -1))  # (B, Hkv, G, N, D)
        numerator = sigma_q @ state.memory[:, :, None]
        denominator = sigma_q @ state.normaliser[:, :, None, :, None]
        gates = torch.sigmoid(self.gates[str(layer)].to(local.device, dtype)).view(heads, -1, 1, 1)
        share = gates * (state.normaliser != 0).any(-1)[:, :, None, None, None]
        own = local.to(dtype).unflatten(1, (heads, -1))
        mixed = torch.lerp(own, numerator / (denominator + self.settings.epsilon), share.expand_as(own))
        return mixed.flatten(1, 2).to(local.dtype)

    def _write(self, layer: int, keys: Tensor, values: Tensor, held: int, before: InfiniLayer) -> InfiniState:
        """The memory after the segments that the window fills, if it fills any."""
        state, finished = self._state(before), self.window.finished
        if not bool(finished.any()):
            return state
        size, dtype = self.settings.segment_length, state.memory.dtype
        key = self._plain(layer, keep_last(keys, held, self.window.counts, size), segment=True)
        value = keep_last(values, held, self.window.counts, size)
        weight = finished.to(device=keys.device, dtype=dtype)[:, None, None].expand(-1, keys.shape[1], size)
        gate = self._weight(layer, key, value)
        weight = weight if gate is None else weight * gate
        sigma_k = features(key.to(dtype), self.settings.feature_map)
        found = states(
            sigma_k[:, :, None],
            weight[:, :, None],
            value.to(dtype)[:, :, None],
            state,
            self.settings.rule,
            self.settings.epsilon,
        )
        return InfiniState(found.memory[:, :, -1], found.normaliser[:, :, -1])

    def _note_new(self, layer: int, key: Tensor, value: Tensor) -> None:
        if self.training:
            plain = self._plain(layer, key)
            self._note(plain, self._weight(layer, plain, value))

    def _weight(self, layer: int, memory_key: Tensor, value: Tensor) -> Tensor | None:
        """How much of each token is written, `(B, Hkv, N)`; None for all."""
        return self.write_gates[str(layer)](memory_key, value) if self.write_gates else None

    def _note(self, memory_key: Tensor, weight: Tensor | None) -> None:
        """What is written of a token in the mean: of its features, or by its gate `(B, Hkv, N)` where it has one."""
        if not self.training:
            return
        amount = features(memory_key.float(), self.settings.feature_map).mean(-1) if weight is None else weight.float()
        real = self.window.real().to(amount.device)[:, None]
        self.writes.append((amount * real).sum() / (real.sum() * amount.shape[1]))

    def _state(self, layer: InfiniLayer) -> InfiniState:
        assert layer.memory is not None and layer.normaliser is not None
        return InfiniState(layer.memory, layer.normaliser)

    def _plain_query(self, layer: int, query: Tensor) -> Tensor:
        plain = self._plain(layer, query)
        return plain * plain.shape[-1] ** 0.5 if self.settings.prescaled_query else plain

    def _plain(self, layer: int, x: Tensor, segment: bool = False) -> Tensor:
        """`x` without its rotation: of the window's tokens, or of the segment that each row is in."""
        rotary = self.settings.rotary
        if rotary is None:
            return x
        types = self.settings.layer_types
        which = (types[layer] if types is not None else None, segment)
        if which not in self._tables:
            window, restart = self.window, self.settings.restart
            positions = window.segment_positions(restart) if segment else window.positions(restart)
            if window.uniform or (segment and restart):
                positions = positions[:1]
            extra = () if which[0] is None else (which[0],)
            self._tables[which] = rotary(x, positions.to(x.device), *extra)
        return unrotated(x, *self._tables[which], self.settings.pairs)
