"""ARMT, the associative recurrent memory transformer: every layer keeps a matrix, and memory tokens write into it.

RMT hands the memory tokens themselves on, so what a segment may keep is as wide as they are, and every segment writes
it anew. ARMT (arXiv 2407.04841) reads the same memory tokens in every segment; what they come to in a layer is written
into that layer's associative matrix by the delta rule, and every token of the next segment reads the matrix before the
layer runs. A key that is written again replaces its value, and other keys keep theirs.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from jrt.adapters.rmt import SegmentMethod

Normalization = Literal["length", "sum"]


class ARMT(SegmentMethod):
    """How long a segment is, and how large the matrix of a layer.

    The options that it shares with `jrt.RMT` mean what they mean there; `initial_std` is that of the memory tokens. The
    values that are written start at zero, so a decoder reads at first as if every segment stood alone.

    How it carries beside RMT at the same size is in the card of `jrt/tiny-rmt`. The paper's normalisation (`sum`) went
    to NaN in that training: its read-out is a quotient without a bound (`jrt.adapters.armt_memory`).

    Attributes:
        key_width: width of keys and queries; a layer keeps D x 2 x feature_order x key_width numbers.
        feature_order: nu of the DPFP feature map; more makes keys more distinct.
        normalization: of what is read. `length` gives keys and queries length 1; `sum` divides by how much was written
            under a key, as the paper does, and keeps one row more, (D + 1) x ...

    Example:
        >>> reader = jrt.wrap(model, jrt.ARMT(num_memory_tokens=10, segment_length=512))
    """

    kind = "armt"

    key_width: int = Field(default=64, ge=2, strict=True)
    feature_order: int = Field(default=3, ge=1, strict=True)
    normalization: Normalization = "length"

    def _classes(self) -> tuple[Any, Any]:
        from jrt.adapters.armt_model import ARMTDecoder, ARMTEncoder

        return ARMTEncoder, ARMTDecoder
