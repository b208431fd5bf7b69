"""Triton kernels that read: the state of a sequence, causal attention on top of a state, and the scan between segments.

One program takes one head, one segment of the sequence and BLOCK_V columns of the values, with the state (160, BLOCK_V)
in registers. With enough heads there is one segment; with few, `state_kernel` sums every segment alone, `scan_kernel`
turns the sums into the state at each segment's beginning, and `forward_kernel` runs over all segments at once.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# (types of Triton's language say nothing to a type checker)

from __future__ import annotations

import triton
import triton.language as tl

from jrt.kernels.taylor.triton_tiles import (
    FEATURE_DIM,
    FEATURES,
    LEFT,
    RIGHT,
    WEIGHTED,
    WIDE,
    features,
    features_transposed,
    load_columns,
    load_moments,
    load_rows,
    load_tile,
    load_values,
    load_wide_columns,
    load_wide_rows,
    positions,
    selection,
    selection_transposed,
    store_moments,
    store_rows,
    store_tile,
)


@triton.jit(do_not_specialize=["T", "segment"])
def state_kernel(
    x,  # (B, H, T, 16) by strides: keys, or queries
    y,  # (B, H, T, WIDTH) by strides: values, or gradients of numerators
    coefficient,  # (B, H, T): what a position adds to the normalizer; None is 1
    mask,  # (B, T), or None
    selections,  # (3, 32, 160)
    values,  # (rows, segments, 160, WIDTH), written
    normalizer,  # (rows, segments, 160), written
    scale,
    T,
    H,
    segment,
    x_b,
    x_h,
    x_t,
    y_b,
    y_h,
    y_t,
    WIDTH: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_V: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    OF_QUERIES: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Sums of feature(x) [y, coefficient]^T over a segment. Queries' features carry their weights."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    e0, e1, e2 = tl.arange(0, 64), 64 + tl.arange(0, 64), 128 + tl.arange(0, 32)
    d, wide, columns = tl.arange(0, FEATURE_DIM), tl.arange(0, WIDE), tl.program_id(2) * BLOCK_V + tl.arange(0, BLOCK_V)
    left0 = selection_transposed(selections, e0, d, WEIGHTED if OF_QUERIES else LEFT)
    left1 = selection_transposed(selections, e1, d, WEIGHTED if OF_QUERIES else LEFT)
    left2 = selection_transposed(selections, e2, wide, WEIGHTED if OF_QUERIES else LEFT)
    right0 = selection_transposed(selections, e0, d, RIGHT)
    right1 = selection_transposed(selections, e1, d, RIGHT)
    right2 = selection_transposed(selections, e2, wide, RIGHT)
    x += row // H * x_b + row % H * x_h
    y += row // H * y_b + row % H * y_h
    h0, h1 = tl.zeros([64, BLOCK_V], tl.float32), tl.zeros([64, BLOCK_V], tl.float32)
    h2, moments = tl.zeros([32, BLOCK_V], tl.float32), tl.zeros([WIDE, WIDE], tl.float32)
    start = part * segment
    x += start * x_t
    y += start * y_t
    if mask is not None:
        mask += row // H * T + start
    if coefficient is not None:
        coefficient += row * T + start
    count = tl.minimum(segment, T - tl.program_id(1) * segment)
    for at in tl.range(0, count, BLOCK_T, num_stages=STAGES):
        _, real = positions(at, count, mask, BLOCK_T)
        columns_x = load_columns(x, x_t, real, scale, DOT)
        wide_x = load_wide_columns(x, x_t, real, scale, DOT)
        b_y = load_values(y, y_t, columns, real, WIDTH, DOT)
        if coefficient is None:
            moments = tl.dot(wide_x, tl.trans(wide_x), moments, input_precision=PRECISION)
        else:
            counts = tl.load(coefficient + at + tl.arange(0, BLOCK_T), mask=real, other=0.0)
            weighted = (wide_x.to(tl.float32) * counts[None, :]).to(DOT)
            moments = tl.dot(weighted, tl.trans(wide_x), moments, input_precision=PRECISION)
        h0 = tl.dot(features_transposed(columns_x, left0, right0, DOT, PRECISION), b_y, h0, input_precision=PRECISION)
        h1 = tl.dot(features_transposed(columns_x, left1, right1, DOT, PRECISION), b_y, h1, input_precision=PRECISION)
        h2 = tl.dot(features_transposed(wide_x, left2, right2, DOT, PRECISION), b_y, h2, input_precision=PRECISION)
        x += BLOCK_T * x_t
        y += BLOCK_T * y_t
    slot = row * tl.num_programs(1) + part
    store_tile(values + slot * FEATURES * WIDTH, h0, e0, columns, WIDTH)
    store_tile(values + slot * FEATURES * WIDTH, h1, e1, columns, WIDTH)
    store_tile(values + slot * FEATURES * WIDTH, h2, e2, columns, WIDTH)
    if tl.program_id(2) == 0:
        store_moments(normalizer + slot * FEATURES, moments, None, OF_QUERIES)


@triton.jit(do_not_specialize=["segments"])
def scan_kernel(
    parts,  # (rows, segments, size), replaced by the sum of all earlier (REVERSE: later) ones and `initial`
    initial,  # (rows, size), or None
    final,  # (rows, size), written: the sum of all
    segments,
    size,
    REVERSE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    if initial is None:
        total = tl.zeros([BLOCK], tl.float32)
    else:
        total = tl.load(initial + row * size + place, mask=inside, other=0.0)
    for step in range(0, segments):
        index = segments - 1 - step if REVERSE else step
        pointer = parts + (row * segments + index) * size + place
        part = tl.load(pointer, mask=inside, other=0.0)
        tl.store(pointer, total, mask=inside)
        total += part
    tl.store(final + row * size + place, total, mask=inside)


@triton.jit
def _read_and_add(q, k, v, o, h, q_left, q_right, k_left, k_right, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """What the queries read of one block of the state, and the block with the keys and values added."""
    o = tl.dot(features(q, q_left, q_right, DOT, PRECISION), h.to(DOT), o, input_precision=PRECISION)
    h = tl.dot(features_transposed(k, k_left, k_right, DOT, PRECISION), v, h, input_precision=PRECISION)
    return o, h


@triton.jit
def _read_moments(q, moments, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """q~ M with M in its full precision: rounded to bfloat16, one number, the count, would move every output."""
    high = moments.to(DOT)
    read = tl.dot(q, high, input_precision=PRECISION)
    if DOT == tl.bfloat16:  # noqa: SIM300
        read = tl.dot(q, (moments - high.to(tl.float32)).to(DOT), read, input_precision=PRECISION)
    return read


@triton.jit(do_not_specialize=["T", "segment"])
def forward_kernel(  # noqa: PLR0915
    q,  # (B, H, T, 16) by strides
    k,  # (B, H, T, 16) by strides
    v,  # (B, H, T, WIDTH) by strides
    mask,  # (B, T), or None
    selections,  # (3, 32, 160)
    initial_values,  # (rows, segments, 160, WIDTH), or None
    initial_normalizer,  # (rows, segments, 160), or None
    o,  # (rows, T, WIDTH), written
    denominator,  # (rows, T), written
    final_values,  # (rows, 160, WIDTH), written, or None
    final_normalizer,  # (rows, 160), written, or None
    scale,
    epsilon,
    T,
    H,
    segment,
    q_b,
    q_h,
    q_t,
    k_b,
    k_h,
    k_t,
    v_b,
    v_h,
    v_t,
    WIDTH: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_V: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
):
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    slot = row * tl.num_programs(1) + part
    e0, e1, e2 = tl.arange(0, 64), 64 + tl.arange(0, 64), 128 + tl.arange(0, 32)
    d, wide, columns = tl.arange(0, FEATURE_DIM), tl.arange(0, WIDE), tl.program_id(2) * BLOCK_V + tl.arange(0, BLOCK_V)
    q_left0, q_right0 = selection(selections, e0, d, WEIGHTED), selection(selections, e0, d, RIGHT)
    q_left1, q_right1 = selection(selections, e1, d, WEIGHTED), selection(selections, e1, d, RIGHT)
    q_left2, q_right2 = selection(selections, e2, wide, WEIGHTED), selection(selections, e2, wide, RIGHT)
    k_left0 = selection_transposed(selections, e0, d, LEFT)
    k_left1 = selection_transposed(selections, e1, d, LEFT)
    k_left2 = selection_transposed(selections, e2, wide, LEFT)
    k_right0 = selection_transposed(selections, e0, d, RIGHT)
    k_right1 = selection_transposed(selections, e1, d, RIGHT)
    k_right2 = selection_transposed(selections, e2, wide, RIGHT)
    q += row // H * q_b + row % H * q_h
    k += row // H * k_b + row % H * k_h
    v += row // H * v_b + row % H * v_h
    if initial_values is None:
        h0, h1 = tl.zeros([64, BLOCK_V], tl.float32), tl.zeros([64, BLOCK_V], tl.float32)
        h2, moments = tl.zeros([32, BLOCK_V], tl.float32), tl.zeros([WIDE, WIDE], tl.float32)
    else:
        h0 = load_tile(initial_values + slot * FEATURES * WIDTH, e0, columns, WIDTH)
        h1 = load_tile(initial_values + slot * FEATURES * WIDTH, e1, columns, WIDTH)
        h2 = load_tile(initial_values + slot * FEATURES * WIDTH, e2, columns, WIDTH)
        moments = load_moments(initial_normalizer + slot * FEATURES, False)
    corner = (wide[:, None] == FEATURE_DIM) & (wide[None, :] == FEATURE_DIM)
    moment_weight = tl.where(corner, 1.0, 0.5)
    causal = tl.arange(0, BLOCK_T)[:, None] >= tl.arange(0, BLOCK_T)[None, :]
    start = part * segment
    q += start * q_t
    k += start * k_t
    v += start * v_t
    o += (row * T + start) * WIDTH
    denominator += row * T + start
    if mask is not None:
        mask += row // H * T + start
    count = tl.minimum(segment, T - tl.program_id(1) * segment)
    # Pointers are moved, not computed from a position: 64-bit arithmetic on whole tiles costs registers.
    for at in tl.range(0, count, BLOCK_T, num_stages=STAGES):
        exists, real = positions(at, count, mask, BLOCK_T)
        b_q = load_rows(q, q_t, exists, scale, DOT)
        wide_q = load_wide_rows(q, q_t, exists, scale, DOT)
        b_k = load_columns(k, k_t, real, None, DOT)
        wide_k = load_wide_columns(k, k_t, real, None, DOT)
        b_v = load_values(v, v_t, columns, real, WIDTH, DOT)
        weights = tl.dot(b_q, b_k, input_precision=PRECISION)
        weights = tl.where(causal, 1.0 + weights + 0.5 * weights * weights, 0.0)
        if mask is not None:  # positions past the end need none: what is causal exists
            weights = tl.where(real[None, :], weights, 0.0)
        read = _read_moments(wide_q, moments * moment_weight, DOT, PRECISION)
        total = tl.sum(weights, 1) + tl.sum(read * wide_q.to(tl.float32), 1) + epsilon
        moments = tl.dot(wide_k, tl.trans(wide_k), moments, input_precision=PRECISION)
        b_o = tl.dot(weights.to(DOT), b_v, input_precision=PRECISION)
        b_o, h0 = _read_and_add(b_q, b_k, b_v, b_o, h0, q_left0, q_right0, k_left0, k_right0, DOT, PRECISION)
        b_o, h1 = _read_and_add(b_q, b_k, b_v, b_o, h1, q_left1, q_right1, k_left1, k_right1, DOT, PRECISION)
        b_o, h2 = _read_and_add(wide_q, wide_k, b_v, b_o, h2, q_left2, q_right2, k_left2, k_right2, DOT, PRECISION)
        store_rows(o, b_o / total[:, None], columns, exists, WIDTH)
        if tl.program_id(2) == 0:
            tl.store(denominator + tl.arange(0, BLOCK_T), total, mask=exists)
        q += BLOCK_T * q_t
        k += BLOCK_T * k_t
        v += BLOCK_T * v_t
        o += BLOCK_T * WIDTH
        denominator += BLOCK_T
    if final_values is not None:
        store_tile(final_values + row * FEATURES * WIDTH, h0, e0, columns, WIDTH)
        store_tile(final_values + row * FEATURES * WIDTH, h1, e1, columns, WIDTH)
        store_tile(final_values + row * FEATURES * WIDTH, h2, e2, columns, WIDTH)
        if tl.program_id(2) == 0:
            before = None if initial_normalizer is None else initial_normalizer + row * FEATURES
            store_moments(final_normalizer + row * FEATURES, moments, before, False)
