"""Gives one module instance another meaning of a global name its `forward` calls, for as long as a context lasts.

A modelling file calls its kernels by global names. To replace such a name for one model only, neither the modelling
file nor the class may change: the instance gets a copy of its class's `forward`, with the same code and a scope in
which the name means something else. Decorators around `forward` are copied along. When the last context is left, the
instance is as it was.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

Replacement = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Takes the function that a name stands for and returns the one that it is to stand for."""

Around = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], AbstractContextManager[None] | None]
"""A context around a call of the module, given the module and the call's arguments; None where it needs none."""

_LOCK = threading.Lock()
_ABSENT = object()


def calls(module: nn.Module, name: str) -> bool:
    """Whether the `forward` of the module's class, below its decorators, calls a function of its file called `name`."""
    function = type(module).forward
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return isinstance(function, types.FunctionType) and name in function.__code__.co_names and name in _scope(function)


@contextmanager
def rebound(module: nn.Module, replacements: Mapping[str, Replacement], around: Around | None = None) -> Iterator[None]:
    """A context in which `module.forward` calls the replacements.

    Contexts on one module may be nested and may overlap in several threads; the first one's replacements hold until the
    last one is left, so all contexts of one module have to ask for the same.

    Args:
        module: the instance; its class has to call the names, see `calls`.
        replacements: what each global name becomes.
        around: entered around every call, where there is something to prepare.
    """
    attribute = "_old_forward" if "_old_forward" in vars(module) else "forward"  # accelerate keeps the real one there
    with _LOCK:
        covered = vars(module).get(attribute, _ABSENT)
        forward = covered if isinstance(covered, _Forward) else _Forward(module, covered, replacements, around)
        vars(module)[attribute] = forward
        forward.contexts += 1
    try:
        yield
    finally:
        with _LOCK:
            forward.contexts -= 1
            if forward.contexts == 0 and vars(module).get(attribute) is forward:
                if forward.covered is _ABSENT:
                    del vars(module)[attribute]
                else:
                    vars(module)[attribute] = forward.covered


class _Forward:
    """Stands for `forward` on one instance."""

    def __init__(
        self, module: nn.Module, covered: Any, replacements: Mapping[str, Replacement], around: Around | None
    ) -> None:
        self.module, self.covered, self.around = module, covered, around
        self.function = _rebuilt(type(module).forward, replacements)
        self.contexts = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return self._outside_of_the_graph(*args, **kwargs)
        context = self.around(self.module, args, kwargs) if self.around is not None else None
        if context is None:
            return self.function(self.module, *args, **kwargs)
        with context:
            return self.function(self.module, *args, **kwargs)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # what the call depends on is no part of a graph
    def _outside_of_the_graph(self, *args: Any, **kwargs: Any) -> Any:
        return self(*args, **kwargs)


def _rebuilt(function: Any, replacements: Mapping[str, Replacement]) -> types.FunctionType:
    """A copy of `function`, decorators included, in whose scope the names are replaced."""
    inner = getattr(function, "__wrapped__", None)
    if inner is None:
        scope = _scope(function)
        ours = {name: replace(scope[name]) for name, replace in replacements.items()}
        return _copied(function, {**scope, **ours}, function.__closure__)
    rebuilt = _rebuilt(inner, replacements)
    cells = [types.CellType(rebuilt) if cell.cell_contents is inner else cell for cell in function.__closure__ or ()]
    return _copied(function, _scope(function), tuple(cells))


def _copied(function: Any, scope: dict[str, Any], closure: tuple[Any, ...] | None) -> types.FunctionType:
    copy = types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__, closure)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _scope(function: Any) -> dict[str, Any]:
    scope: dict[str, Any] = function.__globals__
    return scope
