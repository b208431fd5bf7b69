"""The tiny random models of `jrt.state.architectures` under the name that the tests know them by."""

from __future__ import annotations

from jrt.state.architectures import ARCHITECTURES as ZOO
from jrt.state.architectures import VOCABULARY, build, random_ids

__all__ = ["VOCABULARY", "ZOO", "build", "random_ids"]
