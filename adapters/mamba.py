"""Makes transformers' Mamba models continue from a captured state exactly, and faster, for the length of a context.

Mamba-1, Falcon-Mamba, Jamba, Zamba: transformers' `mamba_selective_scan` takes no state, so a scan of several tokens on
top of a captured state starts from zero: silently wrong. Inside `adapt(model)` the mixers call our scan, which starts
from the state in the cache, leaves it as it is at padding, and is several times faster.

Mamba-2, Bamba, Zamba2 and their kin on a CPU: transformers' chunked scan is exact, but pads every call to a multiple of
`chunk_size` (256) and does work that grows with it. Inside the context a call takes the smaller of its length and 64,
which was the fastest at every length measured; the sum is the same in another order.

The mixers' convolution and linear layers take the fastest kernel that the machine has as well.

Mixers are found by structure, not by name, and nothing but the instances of this model is touched (rebinding.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from jrt.adapters.rebinding import Replacement, calls, rebound
from jrt.kernels.causal_conv1d import causal_conv1d
from jrt.kernels.linear import linear
from jrt.kernels.selective_scan import Scan, Situation, choose, implementation, selective_scan

_SCAN, _CHUNKED_SCAN, _CONVOLUTION = "mamba_selective_scan", "mamba2_chunk_scan", "causal_conv1d_fn"
_CPU_CHUNK = 64


@contextmanager
def adapt(model: nn.Module, path: str | None = None) -> Iterator[None]:
    """A context in which `model` continues exactly from a captured state, in chunks of any size, and scans faster.

    Contexts may be nested and may overlap in several threads; the model is as it was when the last one is left, also
    after an exception. Models without Mamba mixers are not touched.

    Args:
        model: a model of transformers, also wrapped by PEFT, accelerate or torch.compile.
        path: the Mamba-1 scan to take, for measuring one; None takes the fastest that fits each call.

    Example:
        >>> with adapt(model):
        ...     state = model(document_ids, use_cache=True).cache_params
        ...     logits = model(question_ids, cache_params=state).logits
    """
    scan = _from_state(selective_scan if path is None else implementation(path))
    with ExitStack() as stack:
        for module in model.modules():
            if calls(module, _SCAN):
                stack.enter_context(rebound(module, _ours(module, {_SCAN: scan}), _starting_state))
            elif calls(module, _CHUNKED_SCAN):
                stack.enter_context(rebound(module, _ours(module, {_CHUNKED_SCAN: _in_small_chunks})))
            else:
                continue
            for child in module.children():
                if type(child) is nn.Linear and calls(child, "F"):
                    stack.enter_context(rebound(child, {"F": _linear}))
        yield


@dataclass(frozen=True)
class ScanReport:
    """How the mixers of one class and device scan inside `adapt`.

    Attributes:
        mixer: the class.
        count: how many of them the model has.
        device: where their weights are.
        path: the implementation that reads a document.
        continued: the implementation that goes on from a state or reads padded rows.
        passed_over: faster implementations that do not read documents, each with the reason.
    """

    mixer: str
    count: int
    device: str
    path: str
    continued: str
    passed_over: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        and_then = "" if self.continued == self.path else f", {self.continued} from a state on"
        head = f"{self.count} x {self.mixer} on {self.device}: {self.path}{and_then}"
        return "\n".join([head, *(f"  not {path}: {reason}" for path, reason in self.passed_over)])


def describe(model: nn.Module) -> list[ScanReport]:
    """Which scan each kind of Mamba mixer takes inside `adapt`, and why not a faster one; empty for other models."""
    kinds: Counter[tuple[str, str, torch.device, torch.dtype, int]] = Counter()
    for module in model.modules():
        for name in (_SCAN, _CHUNKED_SCAN):
            if calls(module, name):
                weight: Any = module.A_log
                kinds[name, type(module).__name__, weight.device, weight.dtype, weight.shape[-1]] += 1
    reports = []
    for (name, mixer, device, dtype, states), count in kinds.items():
        if name == _SCAN:
            first = choose(Situation(device, dtype, states))
            later = choose(Situation(device, dtype, states, continued=True))
            reports.append(ScanReport(mixer, count, str(device), first.path, later.path, first.passed_over))
        else:
            path = "transformers" + (f" in chunks of at most {_CPU_CHUNK}" if device.type == "cpu" else "")
            reports.append(ScanReport(mixer, count, str(device), path, path, ()))
    return reports


def _ours(mixer: nn.Module, scan: dict[str, Replacement]) -> dict[str, Replacement]:
    """The scan and, where the mixer calls one, the convolution."""
    return scan | ({_CONVOLUTION: _convolution} if calls(mixer, _CONVOLUTION) else {})


@dataclass
class _Call:
    """One forward of one mixer: the state it starts from, the mask, and how many scans it made so far."""

    state: Tensor | None
    mask: Tensor | None
    scans: int = 0

    def next_state(self) -> Tensor | None:
        """The initial state of the next scan, (B, D, N); Zamba scans head by head and keeps them in one state."""
        self.scans += 1
        if self.state is None or self.state.dim() == 3:
            return self.state
        return self.state[:, self.scans - 1]


_CALL: ContextVar[_Call | None] = ContextVar("jrt_mamba_call", default=None)


def _starting_state(
    mixer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> AbstractContextManager[None] | None:
    """Hands the state in the cache and the mask to the scans of this call; a single step on a state scans nothing."""
    given = dict(zip(("hidden_states", "cache_params", "attention_mask"), args, strict=False)) | kwargs
    single, cache, mask = given["hidden_states"].shape[1] == 1, given.get("cache_params"), given.get("attention_mask")
    state = cache.get_recurrent_state(mixer.layer_idx) if cache is not None else None
    if single and state is not None:
        return None
    if mask is not None and (single or bool(mask.all())):
        mask = None  # nothing is padding: paths that know no mask may be taken
    return _during(_Call(state, mask))


@contextmanager
def _during(call: _Call) -> Iterator[None]:
    token = _CALL.set(call)
    try:
        yield
    finally:
        _CALL.reset(token)


def _from_state(ours: Scan) -> Replacement:
    """Our scan with the signature of transformers', started from the state of the mixer that is running."""

    def replacement(original: Callable[..., Any]) -> Callable[..., Any]:
        def scan(
            hidden_states: Tensor,
            dt: Tensor,
            A: Tensor,
            B: Tensor,
            C: Tensor,
            D: Tensor | None = None,
            z: Tensor | None = None,
            delta_bias: Tensor | None = None,
            delta_softplus: bool = False,
            return_last_state: bool = False,
            **implementation: Any,
        ) -> Any:
            call = _CALL.get()
            if call is None or not delta_softplus:  # not how a mixer calls it
                implementation |= dict(delta_softplus=delta_softplus, return_last_state=return_last_state)
                return original(hidden_states, dt, A, B, C, D=D, z=z, delta_bias=delta_bias, **implementation)
            y, state = ours(
                hidden_states, dt, A, B, C, D, z, delta_bias, initial_state=call.next_state(), mask=call.mask
            )
            return (y, state) if return_last_state else y

        return scan

    return replacement


def _in_small_chunks(original: Callable[..., Any]) -> Callable[..., Any]:
    """transformers' chunked scan with the chunk that is fastest on a CPU."""

    def scan(hidden_states: Tensor, *args: Any, chunk_size: int, **kwargs: Any) -> Any:
        if hidden_states.device.type == "cpu":
            chunk_size = min(chunk_size, _CPU_CHUNK, hidden_states.shape[1])
        return original(hidden_states, *args, chunk_size=chunk_size, **kwargs)

    return scan


def _convolution(original: Callable[..., Any]) -> Callable[..., Any]:
    """transformers' causal convolution by ours, which copies nothing on a CPU."""

    def convolution(
        hidden_states: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None, **packed: Any
    ) -> Any:
        if activation not in {None, "silu", "swish"} or any(value is not None for value in packed.values()):
            return original(hidden_states, weight, bias, activation=activation, **packed)
        return causal_conv1d(hidden_states, weight, bias, silu=activation is not None)[0]

    return convolution


def _linear(functional: Any) -> Any:
    """What `torch.nn.functional` is to a linear layer, with our `linear`."""
    return SimpleNamespace(linear=linear)
