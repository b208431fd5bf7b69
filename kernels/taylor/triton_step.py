"""One position as one Triton kernel: the state is read and written once, the features are gathered by index.

What a step costs is moving the state, 42 KB a head at 64 columns, so nothing here uses the tensor cores. One program
takes a whole head: the normaliser is read and written in place, and two programs could not share it.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# (types of Triton's language say nothing to a type checker)

from __future__ import annotations

import triton
import triton.language as tl

from jrt.kernels.taylor.triton_tiles import FEATURE_DIM, FEATURES


@triton.jit
def _factor(x, index, scale):
    """Entries of [x, 1, 0] by index."""
    entry = tl.load(x + index, mask=index < FEATURE_DIM, other=0.0).to(tl.float32) * scale
    return tl.where(index == FEATURE_DIM, 1.0, entry)


@triton.jit
def _features(q, k, table, e, scale, real):
    """(key's features, zero when it is masked; query's features with their weights)"""
    left = tl.load(table + e, mask=e < FEATURES, other=FEATURE_DIM + 1)
    right = tl.load(table + FEATURES + e, mask=e < FEATURES, other=FEATURE_DIM + 1)
    weight = tl.where((left == right) & (left < FEATURE_DIM), 0.5, 1.0)
    added = tl.where(real, _factor(k, left, 1.0) * _factor(k, right, 1.0), 0.0)
    return added, _factor(q, left, scale) * _factor(q, right, scale) * weight


@triton.jit
def step_kernel(
    q,  # (B, H, 1, 16) by strides
    k,  # (B, H, 1, 16) by strides
    v,  # (B, H, 1, WIDTH) by strides
    mask,  # (B, 1), or None
    table,  # (2, 160)
    values,  # (rows, 160, WIDTH), updated
    normalizer,  # (rows, 160), updated
    o,  # (rows, WIDTH), written
    scale,
    epsilon,
    H,
    q_b,
    q_h,
    k_b,
    k_h,
    v_b,
    v_h,
    WIDTH: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_V)
    q += row // H * q_b + row % H * q_h
    k += row // H * k_b + row % H * k_h
    v += row // H * v_b + row % H * v_h
    b_v = tl.load(v + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
    real = True
    if mask is not None:
        real = tl.load(mask + row // H) != 0
    e = tl.arange(0, 256)
    added, read = _features(q, k, table, e, scale, real)
    total = tl.load(normalizer + row * FEATURES + e, mask=e < FEATURES, other=0.0) + added
    tl.debug_barrier()  # several warps read the same sums; none may see what another has written
    tl.store(normalizer + row * FEATURES + e, total, mask=e < FEATURES)
    denominator = tl.sum(total * read, 0) + epsilon
    numerator = tl.zeros([BLOCK_V], tl.float32)
    for start in tl.static_range(0, FEATURES, BLOCK_E):
        e = start + tl.arange(0, BLOCK_E)
        added, read = _features(q, k, table, e, scale, real)
        place = values + (row * FEATURES + e[:, None]) * WIDTH + columns[None, :]
        inside = (columns < WIDTH)[None, :] & (e >= 0)[:, None]
        tile = tl.load(place, mask=inside, other=0.0) + added[:, None] * b_v[None, :]
        tl.store(place, tile, mask=inside)
        numerator += tl.sum(tile * read[:, None], 0)
    result = numerator / denominator
    tl.store(o + row * WIDTH + columns, result.to(o.dtype.element_ty), mask=columns < WIDTH)
