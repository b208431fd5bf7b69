"""A state dict that names every weight once, as safetensors wants it.

A head that is tied to the embeddings is one parameter under two names. Models of transformers leave the second name out
when they save themselves; transformers' Trainer, which saves any other module by its state dict, cannot write a weight
twice and fails at its first checkpoint.
"""

from __future__ import annotations

from typing import Any

from torch import nn


class NamesWeightsOnce(nn.Module):
    """A module whose state dict leaves out what tied weights are called besides, and which loads such a state dict."""

    def state_dict(self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """As torch's, without the further names of tied weights."""
        found = super().state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)
        for other in _other_names(self):
            found.pop(prefix + other, None)
        return found

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """As torch's; a tied weight is found under its first name."""
        for other, first in _other_names(self).items():
            if prefix + first in state_dict:
                state_dict.setdefault(prefix + other, state_dict[prefix + first])
        super()._load_from_state_dict(state_dict, prefix, *args)


def _other_names(module: nn.Module) -> dict[str, str]:
    """Every further name of a parameter that has several, and its first one."""
    first: dict[int, str] = {}
    others: dict[str, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            others[name] = first[id(parameter)]
    return others
