"""Makes transformers' Mamba-1 mixers continue from a captured state exactly, and faster, for the length of a context.

transformers' `mamba_selective_scan` takes no state, so Mamba, Falcon-Mamba, Jamba and Zamba start their scan from zero
when several tokens follow a captured state: silently wrong. Inside `adapt(model)` every mixer of that model runs its
own class's code, with one global name (the scan) standing for ours, which starts from the state in the cache. The name
is replaced in a copy of the function that belongs to the mixer instance: transformers' modules, other models, and the
model itself after the context are untouched.

Mixers are found by structure, not by name: a module whose `forward` calls a global `mamba_selective_scan`.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jrt.kernels.selective_scan import selective_scan

_SCAN = "mamba_selective_scan"
_LOCK = threading.Lock()


@contextmanager
def adapt(model: nn.Module) -> Iterator[None]:
    """A context in which `model` continues exactly from a captured state, in chunks of any size, and scans faster.

    Contexts may be nested and may overlap in several threads; the model is as it was when the last one is left, also
    after an exception. Models without Mamba mixers are not touched.

    Args:
        model: a model of transformers, also wrapped by PEFT, accelerate or torch.compile.

    Example:
        >>> with adapt(model):
        ...     state = model(document_ids, use_cache=True).cache_params
        ...     logits = model(question_ids, cache_params=state).logits
    """
    with ExitStack() as stack:
        for module in model.modules():
            if calls_scan(module):
                stack.enter_context(_installed(module))
        yield


def calls_scan(module: nn.Module) -> bool:
    """Whether the module's class is a Mamba-1 mixer of transformers, told by what its `forward` calls."""
    return _innermost(type(module).forward) is not None


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


class _ExactForward:
    """Stands for `forward` on one mixer instance, for as long as a context holds it."""

    def __init__(self, mixer: nn.Module, name: str) -> None:
        self.mixer, self.name = mixer, name
        self.contexts = 0
        self.hidden = mixer.__dict__.get(name, _ABSENT)  # an attribute of the instance that this one covers
        self.function = _with_our_scan(type(mixer).forward)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # the state below is no part of a compiled graph
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(("hidden_states", "cache_params", "attention_mask"), args, strict=False)) | kwargs
        cache, mask = given.get("cache_params"), given.get("attention_mask")
        if mask is not None and (given["hidden_states"].shape[1] == 1 or bool(mask.all())):
            mask = None  # nothing is padding: paths that know no mask may be taken
        state = cache.get_recurrent_state(self.mixer.layer_idx) if cache is not None else None
        if state is not None and torch.is_grad_enabled() and state.requires_grad:
            state = state.clone()  # the cache is overwritten in place, and the backward pass needs what it held
        token = _CALL.set(_Call(state, mask))
        try:
            return self.function(self.mixer, *args, **kwargs)
        finally:
            _CALL.reset(token)


_ABSENT = object()


@contextmanager
def _installed(mixer: nn.Module) -> Iterator[None]:
    """Covers the mixer's forward; the last of several contexts uncovers it."""
    name = "_old_forward" if "_old_forward" in mixer.__dict__ else "forward"  # accelerate keeps the real one there
    with _LOCK:
        forward = mixer.__dict__.get(name)
        if not isinstance(forward, _ExactForward):
            forward = _ExactForward(mixer, name)
            mixer.__dict__[name] = forward
        forward.contexts += 1
    try:
        yield
    finally:
        with _LOCK:
            forward.contexts -= 1
            if forward.contexts == 0:
                if forward.hidden is _ABSENT:
                    del mixer.__dict__[name]
                else:
                    mixer.__dict__[name] = forward.hidden


def _innermost(function: Any) -> types.FunctionType | None:
    """The function below all decorators, if it calls the scan by its global name."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    found = isinstance(function, types.FunctionType) and _SCAN in function.__code__.co_names
    return function if found and _SCAN in function.__globals__ else None


def _with_our_scan(function: Any) -> types.FunctionType:
    """A copy of `function`, decorators included, that calls our scan."""
    inner = getattr(function, "__wrapped__", None)
    if inner is None:
        scope = {**function.__globals__, _SCAN: _scan(function.__globals__[_SCAN])}
        return _copied(function, scope, function.__closure__)
    ours = _with_our_scan(inner)
    cells = tuple(types.CellType(ours) if cell.cell_contents is inner else cell for cell in function.__closure__ or ())
    return _copied(function, function.__globals__, cells)


def _copied(function: Any, scope: dict[str, Any], closure: tuple[Any, ...] | None) -> types.FunctionType:
    copy = types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__, closure)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _scan(original: Callable[..., Any]) -> Callable[..., Any]:
    """transformers' scan with the signature it has there, started from the state of the mixer that is running."""

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
        **options: Any,
    ) -> Any:
        call = _CALL.get()
        if call is None or not delta_softplus:  # not how a mixer calls it
            options |= dict(delta_softplus=delta_softplus, return_last_state=return_last_state)
            return original(hidden_states, dt, A, B, C, D=D, z=z, delta_bias=delta_bias, **options)
        mask = call.mask
        if mask is not None and mask.shape != (len(hidden_states), hidden_states.shape[-1]):
            mask = None  # the mixer itself would have failed or ignored it
        y, state = selective_scan(
            hidden_states, dt, A, B, C, D, z, delta_bias, initial_state=call.next_state(), mask=mask
        )
        return (y, state) if return_last_state else y

    return scan
