"""The least time that an operation can take on a GPU, from its shapes: operations over the peak rate, bytes over the
bandwidth, whichever is longer. Arithmetic, not a measurement; a measured time is printed beside it as a share.

Bytes count every input read once and every output written once. Operations count what tensor cores do. The floor
belongs to the operation as it is defined here (chunks of 64, 160 packed features), not to one implementation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Ceilings:
    """What a device reaches in practice.

    Attributes:
        flops: bf16 tensor-core operations a second.
        bandwidth: bytes a second from its memory.
    """

    flops: float
    bandwidth: float


H200 = Ceilings(flops=790e12, bandwidth=4.3e12)
H100 = Ceilings(flops=790e12, bandwidth=3.0e12)
CEILINGS: Mapping[str, Ceilings] = {"NVIDIA H200": H200, "NVIDIA H100 80GB HBM3": H100}
"""By the name that torch.cuda.get_device_name gives; other devices get no floor."""

CHUNK = 64  # positions that Taylor attention handles as a product of matrices
FEATURES = 160  # packed features of a 16-wide vector, padding included
SELECTION = 4 * 2 * 16 * FEATURES  # operations that form the features of a query and a key by 0/1 matrices
TAYLOR_BACKWARD = 176_000  # operations a position and head, 16 features and values 64 wide
_ATTENTION_BACKWARD = 2.5  # five products where the forward pass has two


@dataclass(frozen=True)
class Work:
    """Operations and bytes of one call."""

    flops: float
    bytes: float

    def floor(self, ceilings: Ceilings) -> float:
        """Seconds below which the call cannot come on such a device."""
        return max(self.flops / ceilings.flops, self.bytes / ceilings.bandwidth)


def taylor(
    count: int,
    *,
    feature_dim: int = 16,
    width: int = 64,
    features: int = FEATURES,
    chunk: int = CHUNK,
    selection: int = SELECTION,
    encoder: int = 0,
    size: int = 2,
) -> Work:
    """Taylor attention forward: q, k, v in, o out.

    Args:
        count: positions times heads times rows.
        feature_dim: width of queries and keys.
        width: of the values.
        features: E.
        chunk: positions of a chunk.
        selection: operations a position for the features; 0 where they come for nothing.
        encoder: positions (times heads times rows) of a prefix that is read without an order.
        size: bytes of a number.
    """
    flops: float = count * (4 * features * width + 2 * chunk * (feature_dim + width) + selection)
    flops += encoder * (2 * features * width + selection / 2)
    return Work(flops, size * (count * 2 * (feature_dim + width) + encoder * (feature_dim + width)))


def taylor_backward(count: int, *, feature_dim: int = 16, width: int = 64, encoder: int = 0, size: int = 2) -> Work:
    """Its backward pass: q, k, v, o and do in; dq, dk, dv out. An encoder adds a product with the state's gradient."""
    flops = count * TAYLOR_BACKWARD + encoder * (4 * FEATURES * width + SELECTION / 2)
    per_position = 4 * feature_dim + 4 * width
    return Work(flops, size * (count * per_position + encoder * 2 * (feature_dim + width)))


def taylor_step(count: int, *, width: int = 64) -> Work:
    """One position of `count` heads times rows: the float32 state read and written."""
    state = count * FEATURES * (width + 1)
    return Work(4 * state, 2 * 4 * state)


def attention(count: int, length: int, *, width: int = 64, size: int = 2, window: int | None = None) -> Work:
    """Causal softmax attention forward over `count` heads times rows; a window bounds what a query sees."""
    seen = length * length / 2 if window is None or window >= length else length * window
    return Work(4 * count * seen * width, size * count * length * 4 * width)


def attention_backward(count: int, length: int, *, width: int = 64, size: int = 2, window: int | None = None) -> Work:
    """Its backward pass: q, k, v, o, do in; dq, dk, dv out."""
    forward = attention(count, length, width=width, size=size, window=window)
    return Work(_ATTENTION_BACKWARD * forward.flops, 2 * forward.bytes)


def attention_step(count: int, seen: int, *, width: int = 64, size: int = 2) -> Work:
    """One query over `seen` cached keys and values."""
    return Work(4 * count * seen * width, size * count * seen * 2 * width)


def infini(count: int, length: int, segment: int, *, width: int = 128, size: int = 2) -> Work:
    """Infini-attention forward: attention inside segments, one read and one write of the memory; q, k, v, the queries
    and keys without positions in, o out."""
    local = attention(count, length, width=width, window=segment).flops / 2 if length > segment else 0
    local = local or attention(count, length, width=width).flops
    return Work(local + 2 * count * length * (2 * width * width + 2 * width), size * count * length * 6 * width)


def scan(rows: int, channels: int, length: int, states: int, *, size: int = 2) -> Work:
    """A selective scan without a gate: u, delta, B, C in, y out. It has no products of matrices: only bytes count."""
    return Work(0, size * rows * length * (3 * channels + 2 * states))
