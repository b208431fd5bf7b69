"""jrt: read more than a model's memory holds.

Importing this package loads neither torch nor transformers and changes nothing global; every public name is loaded when
it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAZY = {
    "ARMT": "jrt.adapters.armt",
    "InfiniAttention": "jrt.adapters.infini",
    "JRTPrompt": "jrt.prompts",
    "RMT": "jrt.adapters.rmt",
    "Capabilities": "jrt.state",
    "Reader": "jrt.reader",
    "Reading": "jrt.reading",
    "load": "jrt.loading",
    "probe": "jrt.state",
    "register_pipelines": "jrt.pipelines",
    "wrap": "jrt.reader",
}

__all__ = [
    "ARMT",
    "RMT",
    "Capabilities",
    "InfiniAttention",
    "JRTPrompt",
    "Reader",
    "Reading",
    "load",
    "probe",
    "register_pipelines",
    "wrap",
]

if TYPE_CHECKING:
    from jrt.adapters.armt import ARMT as ARMT
    from jrt.adapters.infini import InfiniAttention as InfiniAttention
    from jrt.adapters.rmt import RMT as RMT
    from jrt.loading import load as load
    from jrt.pipelines import register_pipelines as register_pipelines
    from jrt.prompts import JRTPrompt as JRTPrompt
    from jrt.reader import Reader as Reader
    from jrt.reader import wrap as wrap
    from jrt.reading import Reading as Reading
    from jrt.state import Capabilities as Capabilities
    from jrt.state import probe as probe


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        from jrt.errors import did_you_mean

        raise AttributeError(f"module 'jrt' has no attribute {name!r}.{did_you_mean(name, _LAZY)}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
