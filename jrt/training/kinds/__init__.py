"""The kinds of training, one file each; `jrt train NAME` runs one."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from jrt.errors import UnknownNameError, did_you_mean

if TYPE_CHECKING:
    from jrt.training.kinds.base import Kind

KINDS = {
    "based": ("jrt.training.kinds.based:Based", "A Based language model: causal Taylor attention."),
    "infini": ("jrt.training.kinds.infini:Infini", "Infini-attention on a decoder: a compressive memory."),
    "jrt-rnn": ("jrt.training.kinds.jrt_rnn:JRTRNN", "A JRT-RNN: a Based model that reads its prompt non-causally."),
    "rmt": ("jrt.training.kinds.rmt:RMT", "RMT on an encoder or decoder: memory tokens, a curriculum of segments."),
}
"""Every kind by name: `module:class`, and what it trains."""


def kind_class(name: str) -> type[Kind]:
    """The class of a kind.

    Raises:
        UnknownNameError: there is no such kind.
    """
    if name not in KINDS:
        raise UnknownNameError(f"There is no kind of training {name!r}.{did_you_mean(name, KINDS)}", "jrt train --help")
    module, _, attribute = KINDS[name][0].partition(":")
    found: type[Kind] = getattr(importlib.import_module(module), attribute)
    return found
