"""Second-order Taylor linear attention and prefix linear attention (Based, JRT-RNN), on any device, linear in the
length.

    encoder = taylor_state(k_encoder, v_encoder, mask)                    # the prefix, read at once
    o, state = taylor_attention(q, k, v, encoder, mask)                   # prefix linear attention
    o, state = taylor_attention(q, k, v, state)                           # the next chunk, of any length
    o = taylor_step(q, k, v, state)                                       # one position, state updated in place

Shapes: queries and keys `(B, H, T, D)`, values `(B, H, T, Dv)`, masks `(B, T)`. D is the feature dimension (16 in the
published models), Dv the head's width. README.md in this folder has the maths.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from jrt.kernels.taylor import ops
from jrt.kernels.taylor.features import TaylorState, compute_dtype, num_features

__all__ = ["Padding", "TaylorState", "num_features", "taylor_attention", "taylor_state", "taylor_step"]

Padding = Literal["strict", "legacy"]
"""What a mask does: "strict" takes a masked position out of every sum; "legacy" only sets its key to zero before the
feature map, whose constant then still counts and still adds v, which is how the published JRT-RNN models were run."""


def taylor_state(k: Tensor, v: Tensor, mask: Tensor | None = None, *, padding: Padding = "strict") -> TaylorState:
    """Reads keys and values without an order: the encoder's side of prefix linear attention, and any state to start
    from.

    Args:
        k: `(B, H, T, D)`.
        v: `(B, H, T, Dv)`.
        mask: `(B, T)`, true where a position is real; None when all are.
        padding: what the mask does.

    Returns:
        The state, float32 (float64 for float64 inputs). Differentiable.

    Raises:
        ValueError: shapes, types or devices do not fit together.

    Example:
        >>> taylor_state(torch.zeros(1, 2, 5, 16), torch.ones(1, 2, 5, 64)).values.shape
        torch.Size([1, 2, 160, 64])
    """
    _check(k, k, v, None, mask)
    k, mask = _masked(k, mask, padding)
    return TaylorState(*ops.taylor_state(k, v, mask))


def taylor_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    initial_state: TaylorState | None = None,
    mask: Tensor | None = None,
    *,
    padding: Padding = "strict",
    scale: float | None = None,
    epsilon: float = 1e-12,
) -> tuple[Tensor, TaylorState]:
    """Causal attention with the weights 1 + s + s^2 / 2, on top of what `initial_state` has read.

    o_i = sum_j weight(q_i, k_j) v_j / (sum_j weight(q_i, k_j) + epsilon) over j <= i and everything in `initial_state`
    (arXiv 2407.05483, equation 7, the causal sum covering the prefix too, as in the published models).

    Args:
        q: `(B, H, T, D)`.
        k: `(B, H, T, D)`.
        v: `(B, H, T, Dv)`.
        initial_state: a final state of an earlier call, a `taylor_state`, or None to start from nothing.
        mask: `(B, T)`, true where a position is real; None when all are. Outputs at masked positions mean nothing.
        padding: what the mask does.
        scale: s = scale * <q, k>; None is 1 / sqrt(D).
        epsilon: added to the denominator.

    Returns:
        (o `(B, H, T, Dv)` in v's type, the state after the last position). Both are differentiable, in q, k, v and the
        initial state.

    Raises:
        ValueError: shapes, types or devices do not fit together.
    """
    _check(q, k, v, initial_state, mask)
    k, mask = _masked(k, mask, padding)
    values, normalizer = initial_state if initial_state is not None else (None, None)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    o, _, *final = ops.taylor_attention(q, k, v, values, normalizer, mask, scale, epsilon)
    return o, TaylorState(*final)


def taylor_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: TaylorState,
    mask: Tensor | None = None,
    *,
    padding: Padding = "strict",
    scale: float | None = None,
    epsilon: float = 1e-12,
) -> Tensor:
    """`taylor_attention` for one position (T = 1), which **updates `state` in place**; for generating, without
    gradients.

    Args and errors as in `taylor_attention`; a masked row leaves its state as it is ("strict"). Clone the state's
    tensors before to keep the old ones.

    Returns:
        o, `(B, H, 1, Dv)`.
    """
    _check(q, k, v, state, mask)
    if q.shape[2] != 1:
        raise ValueError(f"taylor_step takes one position, got {q.shape[2]}. Use taylor_attention for more.")
    if not (state.values.is_contiguous() and state.normalizer.is_contiguous()):
        raise ValueError("taylor_step updates the state in place, so it must be contiguous. Call .contiguous() first.")
    k, mask = _masked(k, mask, padding)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return ops.taylor_step(q, k, v, state.values, state.normalizer, mask, scale, epsilon)


def _masked(k: Tensor, mask: Tensor | None, padding: Padding) -> tuple[Tensor, Tensor | None]:
    """(keys, mask for the sums)"""
    if padding not in ("strict", "legacy"):
        raise ValueError(f"padding={padding!r} is not known. Use 'strict' or 'legacy'.")
    if mask is None or padding == "strict":
        return k, mask
    return k * mask[:, None, :, None], None


def _check(q: Tensor, k: Tensor, v: Tensor, state: TaylorState | None, mask: Tensor | None) -> None:
    if q.dim() != 4 or q.shape != k.shape or v.dim() != 4 or v.shape[:3] != k.shape[:3]:
        raise ValueError(
            f"q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)} do not fit together. "
            "They are (batch, heads, length, width); q and k share all four, v the first three."
        )
    if not (q.dtype == k.dtype == v.dtype and v.dtype.is_floating_point):
        raise ValueError(f"q, k and v must share a floating type, got {q.dtype}, {k.dtype} and {v.dtype}. Cast them.")
    others = [k, v, *(state or ()), *([] if mask is None else [mask])]
    if any(other.device != q.device for other in others):
        raise ValueError(f"Tensors are on {sorted({str(t.device) for t in [q, *others]})}. Move them to one device.")
    if mask is not None and (mask.dtype != torch.bool or mask.shape != (q.shape[0], q.shape[2])):
        raise ValueError(
            f"The mask is {mask.dtype} {tuple(mask.shape)}; it must be bool {(q.shape[0], q.shape[2])}, "
            "true where a position is real."
        )
    if state is None:
        return
    expected = (*q.shape[:2], num_features(q.shape[-1]))
    if state.values.shape != (*expected, v.shape[-1]) or state.normalizer.shape != expected:
        raise ValueError(
            f"The state's shapes {tuple(state.values.shape)} and {tuple(state.normalizer.shape)} do not fit; "
            f"these q and v need {(*expected, v.shape[-1])} and {expected}."
        )
    if not state.values.dtype == state.normalizer.dtype == compute_dtype(v.dtype):
        raise ValueError(
            f"The state must be {compute_dtype(v.dtype)}, got {state.values.dtype}. Low precision loses it."
        )
