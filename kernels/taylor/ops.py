"""The operations as torch sees them: registered, so that autograd, `torch.compile(fullgraph=True)` and fake tensors
work.

States and gradients are made contiguous here, because gradients arrive expanded (stride 0); queries, keys and values
are read as they lie, as long as their last dimension is dense. Autocast is off inside: states and sums are float32
whatever the surrounding code does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jrt.kernels.taylor.features import TaylorState, compute_dtype, num_features
from jrt.kernels.taylor.paths import implementation


def _ready(*tensors: Tensor | None) -> list[Any]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def _readable(*tensors: Tensor) -> list[Tensor]:
    return [tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in tensors]


def _pair(values: Tensor | None, normalizer: Tensor | None) -> TaylorState | None:
    return None if values is None or normalizer is None else TaylorState(values, normalizer)


def _state_shapes(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    batch, heads, _, width = k.shape
    features, dtype = num_features(width), compute_dtype(v.dtype)
    return (
        v.new_empty(batch, heads, features, v.shape[-1], dtype=dtype),
        v.new_empty(batch, heads, features, dtype=dtype),
    )


@torch.library.custom_op("jrt::taylor_state", mutates_args=())
def taylor_state(k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    k, v = _readable(k, v)
    (mask,) = _ready(mask)
    with torch.autocast(k.device.type, enabled=False):
        return tuple(implementation(k).state(k, v, mask))  # type: ignore[return-value]


@taylor_state.register_fake
def _(k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    return _state_shapes(k, v)


@torch.library.custom_op("jrt::taylor_state_gradient", mutates_args=())
def taylor_state_gradient(
    d_values: Tensor, d_normalizer: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    k, v = _readable(k, v)
    d_values, d_normalizer, mask = _ready(d_values, d_normalizer, mask)
    with torch.autocast(k.device.type, enabled=False):
        return implementation(k).state_gradient(d_values, d_normalizer, k, v, mask)


@taylor_state_gradient.register_fake
def _(d_values: Tensor, d_normalizer: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    return k.new_empty(k.shape), v.new_empty(v.shape)


def _save_state(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _state_backward(ctx: Any, d_values: Tensor, d_normalizer: Tensor) -> tuple[Tensor, Tensor, None]:
    return *taylor_state_gradient(d_values, d_normalizer, *ctx.saved_tensors), None


taylor_state.register_autograd(_state_backward, setup_context=_save_state)


@torch.library.custom_op("jrt::taylor_attention", mutates_args=())
def taylor_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    values: Tensor | None,
    normalizer: Tensor | None,
    mask: Tensor | None,
    scale: float,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(o, denominator, values, normalizer)"""
    q, k, v = _readable(q, k, v)
    values, normalizer, mask = _ready(values, normalizer, mask)
    with torch.autocast(k.device.type, enabled=False):
        o, denominator, final = implementation(k).forward(q, k, v, _pair(values, normalizer), mask, scale, epsilon)
    return o, denominator, final.values, final.normalizer


@taylor_attention.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    values: Tensor | None,
    normalizer: Tensor | None,
    mask: Tensor | None,
    scale: float,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    denominator = q.new_empty(q.shape[:3], dtype=compute_dtype(v.dtype))
    return v.new_empty(v.shape), denominator, *_state_shapes(k, v)


@torch.library.custom_op("jrt::taylor_attention_gradient", mutates_args=())
def taylor_attention_gradient(
    d_o: Tensor,
    d_values: Tensor,
    d_normalizer: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    values: Tensor | None,
    normalizer: Tensor | None,
    mask: Tensor | None,
    o: Tensor,
    denominator: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(dq, dk, dv, gradient of the initial values, of the initial normalizer)"""
    q, k, v = _readable(q, k, v)
    d_o, d_values, d_normalizer, values, normalizer = _ready(d_o, d_values, d_normalizer, values, normalizer)
    mask, o, denominator = _ready(mask, o, denominator)
    with torch.autocast(k.device.type, enabled=False):
        dq, dk, dv, initial = implementation(k).backward(
            d_o,
            TaylorState(d_values, d_normalizer),
            q,
            k,
            v,
            _pair(values, normalizer),
            mask,
            o,
            denominator,
            scale,
        )
    return dq, dk, dv, initial.values, initial.normalizer


@taylor_attention_gradient.register_fake
def _(
    d_o: Tensor,
    d_values: Tensor,
    d_normalizer: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    values: Tensor | None,
    normalizer: Tensor | None,
    mask: Tensor | None,
    o: Tensor,
    denominator: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), *_state_shapes(k, v)


def _save_attention(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.scale, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*tensors, output[0], output[1])


def _attention_backward(
    ctx: Any, d_o: Tensor, _: Any, d_values: Tensor, d_normalizer: Tensor
) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # read once: gradient checkpointing allows no more
    dq, dk, dv, *initial = taylor_attention_gradient(d_o, d_values, d_normalizer, *saved, ctx.scale)
    if saved[3] is None:
        initial = [None, None]
    return dq, dk, dv, *initial, None, None, None


taylor_attention.register_autograd(_attention_backward, setup_context=_save_attention)


@torch.library.custom_op("jrt::taylor_step", mutates_args={"values", "normalizer"})
def taylor_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    values: Tensor,
    normalizer: Tensor,
    mask: Tensor | None,
    scale: float,
    epsilon: float,
) -> Tensor:
    q, k, v = _readable(q, k, v)
    (mask,) = _ready(mask)
    with torch.autocast(k.device.type, enabled=False):
        return implementation(k).step(q, k, v, values, normalizer, mask, scale, epsilon)


@taylor_step.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    values: Tensor,
    normalizer: Tensor,
    mask: Tensor | None,
    scale: float,
    epsilon: float,
) -> Tensor:
    return v.new_empty(v.shape)
