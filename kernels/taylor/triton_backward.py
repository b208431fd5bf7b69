"""Triton kernels of the gradients: one pass in reading order for the queries, one backwards for keys and values.

Both start from a = [do / den, -<do, o> / den], the gradient of numerator and denominator, made once by
`upstream_kernel`. README.md has the derivation. The gradients of queries and keys are sums over value columns, so every
block of columns writes its own part, and the parts are summed outside: no result depends on timing.
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
    features_transposed,
    load_columns,
    load_moments,
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


@triton.jit(do_not_specialize=["T"])
def upstream_kernel(
    d_o,  # (rows, T, WIDTH)
    o,  # (rows, T, WIDTH)
    denominator,  # (rows, T)
    of_numerator,  # (rows, T, WIDTH), written: do / den
    of_denominator,  # (rows, T), written: -<do, o> / den
    T,
    WIDTH: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    blocks = tl.cdiv(T, BLOCK_T)  # in one dimension: a grid's second ends at 65535, which are 4 million positions
    row = tl.program_id(0).to(tl.int64) // blocks
    rows, columns = tl.program_id(0) % blocks * BLOCK_T + tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_V)
    place = (row * T + rows)[:, None] * WIDTH + columns[None, :]
    inside = (rows < T)[:, None] & (columns < WIDTH)[None, :]
    total = tl.load(denominator + row * T + rows, mask=rows < T, other=1.0)
    above = tl.load(d_o + place, mask=inside, other=0.0).to(tl.float32) / total[:, None]
    tl.store(of_numerator + place, above.to(of_numerator.dtype.element_ty), mask=inside)
    b_o = tl.load(o + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(of_denominator + row * T + rows, -tl.sum(above * b_o, 1), mask=rows < T)


@triton.jit
def _through_features(gradient, of_features, x, left, right, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """Adds the gradient of x~ from the gradient of a block of its features; selections are (d, e), d all 32."""
    by_left = (of_features * tl.dot(x, right, input_precision=PRECISION)).to(DOT)
    gradient = tl.dot(by_left, tl.trans(left), gradient, input_precision=PRECISION)
    by_right = (of_features * tl.dot(x, left, input_precision=PRECISION)).to(DOT)
    return tl.dot(by_right, tl.trans(right), gradient, input_precision=PRECISION)


@triton.jit(do_not_specialize=["T", "segment"])
def queries_kernel(  # noqa: PLR0915
    q,  # (B, H, T, 16) by strides
    k,  # (B, H, T, 16) by strides
    v,  # (B, H, T, WIDTH) by strides
    mask,  # (B, T), or None
    selections,  # (3, 32, 160)
    of_numerator,  # (rows, T, WIDTH)
    of_denominator,  # (rows, T)
    initial_values,  # (rows, segments, 160, WIDTH), or None
    initial_normalizer,  # (rows, segments, 160), or None
    d_q,  # (blocks of columns, rows, T, 16), written
    scale,
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
    row, part, block = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2)
    slot = row * tl.num_programs(1) + part
    e0, e1, e2 = tl.arange(0, 64), 64 + tl.arange(0, 64), 128 + tl.arange(0, 32)
    d, wide, columns = tl.arange(0, FEATURE_DIM), tl.arange(0, WIDE), block * BLOCK_V + tl.arange(0, BLOCK_V)
    q_left0, q_right0 = selection(selections, e0, wide, WEIGHTED), selection(selections, e0, wide, RIGHT)
    q_left1, q_right1 = selection(selections, e1, wide, WEIGHTED), selection(selections, e1, wide, RIGHT)
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
    start = part * segment
    q += start * q_t
    k += start * k_t
    v += start * v_t
    of_numerator += (row * T + start) * WIDTH
    of_denominator += row * T + start
    d_q += ((block * tl.num_programs(0) + row) * T + start) * FEATURE_DIM
    if mask is not None:
        mask += row // H * T + start
    count = tl.minimum(segment, T - tl.program_id(1) * segment)
    first = tl.where(block == 0, 1.0, 0.0)  # the denominator is the first block's
    causal = tl.arange(0, BLOCK_T)[:, None] >= tl.arange(0, BLOCK_T)[None, :]
    for at in tl.range(0, count, BLOCK_T, num_stages=STAGES):
        exists, real = positions(at, count, mask, BLOCK_T)
        wide_q = load_wide_rows(q, q_t, exists, scale, DOT)
        b_k = load_columns(k, k_t, real, None, DOT)
        wide_k = load_wide_columns(k, k_t, real, None, DOT)
        b_v = load_values(v, v_t, columns, real, WIDTH, DOT)
        b_a = load_values(of_numerator, WIDTH, columns, exists, WIDTH, DOT)
        counts = tl.load(of_denominator + tl.arange(0, BLOCK_T), mask=exists, other=0.0) * first
        # q~ k~ is 1 + s, the derivative of 1 + s + s^2 / 2
        slope = tl.dot(wide_q, wide_k, input_precision=PRECISION)
        d_scores = tl.dot(b_a, tl.trans(b_v), input_precision=PRECISION) + counts[:, None]
        d_scores = tl.where(causal, d_scores * slope, 0.0)
        if mask is not None:
            d_scores = tl.where(real[None, :], d_scores, 0.0)
        gradient = tl.dot(wide_q, moments.to(DOT), input_precision=PRECISION) * counts[:, None]
        gradient = tl.dot(d_scores.to(DOT), tl.trans(wide_k), gradient, input_precision=PRECISION)
        of_features = tl.dot(b_a, tl.trans(h0.to(DOT)), input_precision=PRECISION)
        gradient = _through_features(gradient, of_features, wide_q, q_left0, q_right0, DOT, PRECISION)
        of_features = tl.dot(b_a, tl.trans(h1.to(DOT)), input_precision=PRECISION)
        gradient = _through_features(gradient, of_features, wide_q, q_left1, q_right1, DOT, PRECISION)
        of_features = tl.dot(b_a, tl.trans(h2.to(DOT)), input_precision=PRECISION)
        gradient = _through_features(gradient, of_features, wide_q, q_left2, q_right2, DOT, PRECISION)
        moments = tl.dot(wide_k, tl.trans(wide_k), moments, input_precision=PRECISION)
        h0 = tl.dot(features_transposed(b_k, k_left0, k_right0, DOT, PRECISION), b_v, h0, input_precision=PRECISION)
        h1 = tl.dot(features_transposed(b_k, k_left1, k_right1, DOT, PRECISION), b_v, h1, input_precision=PRECISION)
        h2 = tl.dot(features_transposed(wide_k, k_left2, k_right2, DOT, PRECISION), b_v, h2, input_precision=PRECISION)
        store_rows(d_q, gradient * scale, wide, exists, FEATURE_DIM)
        q += BLOCK_T * q_t
        k += BLOCK_T * k_t
        v += BLOCK_T * v_t
        of_numerator += BLOCK_T * WIDTH
        of_denominator += BLOCK_T
        d_q += BLOCK_T * FEATURE_DIM


@triton.jit(do_not_specialize=["T", "segment"])
def keys_kernel(  # noqa: PLR0915
    q,  # (B, H, T, 16) by strides; None for keys and values of a prefix, which no query has read on its way
    k,  # (B, H, T, 16) by strides
    v,  # (B, H, T, WIDTH) by strides
    mask,  # (B, T), or None
    selections,  # (3, 32, 160)
    of_numerator,  # (rows, T, WIDTH), or None
    of_denominator,  # (rows, T), or None
    final_values,  # (rows, segments, 160, WIDTH): gradient of the state after each segment
    final_normalizer,  # (rows, segments, 160)
    d_k,  # (blocks of columns, rows, T, 16), written
    d_v,  # (rows, T, WIDTH), written
    d_values,  # (rows, 160, WIDTH), written: gradient of the initial state; or None
    d_normalizer,  # (rows, 160), written, or None
    scale,
    T,
    H,
    segment,
    final_row,  # segments between two rows' final gradients, and
    final_part,  # between two segments': 0 when all share one
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
    row, part, block = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2)
    slot = row * final_row + part * final_part
    e0, e1, e2 = tl.arange(0, 64), 64 + tl.arange(0, 64), 128 + tl.arange(0, 32)
    d, wide, columns = tl.arange(0, FEATURE_DIM), tl.arange(0, WIDE), block * BLOCK_V + tl.arange(0, BLOCK_V)
    k_left0, k_right0 = selection(selections, e0, wide, LEFT), selection(selections, e0, wide, RIGHT)
    k_left1, k_right1 = selection(selections, e1, wide, LEFT), selection(selections, e1, wide, RIGHT)
    k_left2, k_right2 = selection(selections, e2, wide, LEFT), selection(selections, e2, wide, RIGHT)
    q_left0 = selection_transposed(selections, e0, d, WEIGHTED)
    q_left1 = selection_transposed(selections, e1, d, WEIGHTED)
    q_left2 = selection_transposed(selections, e2, wide, WEIGHTED)
    q_right0 = selection_transposed(selections, e0, d, RIGHT)
    q_right1 = selection_transposed(selections, e1, d, RIGHT)
    q_right2 = selection_transposed(selections, e2, wide, RIGHT)
    k += row // H * k_b + row % H * k_h
    v += row // H * v_b + row % H * v_h
    g0 = load_tile(final_values + slot * FEATURES * WIDTH, e0, columns, WIDTH)
    g1 = load_tile(final_values + slot * FEATURES * WIDTH, e1, columns, WIDTH)
    g2 = load_tile(final_values + slot * FEATURES * WIDTH, e2, columns, WIDTH)
    moments = load_moments(final_normalizer + slot * FEATURES, True)
    count = tl.minimum(segment, T - tl.program_id(1) * segment)
    last = (count - 1) // BLOCK_T * BLOCK_T
    start = part * segment + last  # of the last chunk: this pass goes backwards
    k += start * k_t
    v += start * v_t
    d_k += ((block * tl.num_programs(0) + row) * T + start) * FEATURE_DIM
    d_v += (row * T + start) * WIDTH
    if mask is not None:
        mask += row // H * T + part * segment
    if q is not None:
        q += row // H * q_b + row % H * q_h + start * q_t
        of_numerator += (row * T + start) * WIDTH
        of_denominator += row * T + start
    first = tl.where(block == 0, 1.0, 0.0)
    causal = tl.arange(0, BLOCK_T)[None, :] >= tl.arange(0, BLOCK_T)[:, None]  # keys down, queries across
    for back in tl.range(0, count, BLOCK_T, num_stages=STAGES):
        exists, real = positions(last - back, count, mask, BLOCK_T)
        wide_k = load_wide_rows(k, k_t, real, None, DOT)
        b_v = load_values(v, v_t, columns, real, WIDTH, DOT)
        gradient = tl.zeros([BLOCK_T, WIDE], tl.float32)
        of_values = tl.zeros([BLOCK_T, BLOCK_V], tl.float32)
        # The state first, the chunk itself after it: the other way round, more has to be kept and is spilled.
        gradient, of_values = _keys_block(gradient, of_values, wide_k, b_v, g0, k_left0, k_right0, DOT, PRECISION)
        gradient, of_values = _keys_block(gradient, of_values, wide_k, b_v, g1, k_left1, k_right1, DOT, PRECISION)
        gradient, of_values = _keys_block(gradient, of_values, wide_k, b_v, g2, k_left2, k_right2, DOT, PRECISION)
        gradient = tl.dot(wide_k, (moments * first).to(DOT), gradient, input_precision=PRECISION)
        if q is not None:
            b_q = load_columns(q, q_t, exists, scale, DOT)
            wide_q = load_wide_columns(q, q_t, exists, scale, DOT)
            b_a = load_values(of_numerator, WIDTH, columns, exists, WIDTH, DOT)
            counts = tl.load(of_denominator + tl.arange(0, BLOCK_T), mask=exists, other=0.0)
            slope = tl.dot(wide_k, wide_q, input_precision=PRECISION)  # 1 + s; masked keys' rows are dropped below
            d_scores = tl.dot(b_v, tl.trans(b_a), input_precision=PRECISION) + (counts * first)[None, :]
            d_scores = tl.where(causal, d_scores * slope, 0.0).to(DOT)
            gradient = tl.dot(d_scores, tl.trans(wide_q), gradient, input_precision=PRECISION)
            weights = tl.where(causal, 0.5 + 0.5 * slope * slope, 0.0).to(DOT)
            of_values = tl.dot(weights, b_a, of_values, input_precision=PRECISION)
            weighted = (wide_q.to(tl.float32) * counts[None, :]).to(DOT)
            moments = tl.dot(weighted, tl.trans(wide_q), moments, input_precision=PRECISION)
            g0 = tl.dot(features_transposed(b_q, q_left0, q_right0, DOT, PRECISION), b_a, g0, input_precision=PRECISION)
            g1 = tl.dot(features_transposed(b_q, q_left1, q_right1, DOT, PRECISION), b_a, g1, input_precision=PRECISION)
            g2 = tl.dot(
                features_transposed(wide_q, q_left2, q_right2, DOT, PRECISION), b_a, g2, input_precision=PRECISION
            )
        if mask is not None:
            gradient = tl.where(real[:, None], gradient, 0.0)
            of_values = tl.where(real[:, None], of_values, 0.0)
        store_rows(d_k, gradient, wide, exists, FEATURE_DIM)
        store_rows(d_v, of_values, columns, exists, WIDTH)
        k -= BLOCK_T * k_t
        v -= BLOCK_T * v_t
        d_k -= BLOCK_T * FEATURE_DIM
        d_v -= BLOCK_T * WIDTH
        if q is not None:
            q -= BLOCK_T * q_t
            of_numerator -= BLOCK_T * WIDTH
            of_denominator -= BLOCK_T
    if d_values is not None:  # noqa: SIM102 (decided when compiled, unlike the next)
        if part == 0:
            store_tile(d_values + row * FEATURES * WIDTH, g0, e0, columns, WIDTH)
            store_tile(d_values + row * FEATURES * WIDTH, g1, e1, columns, WIDTH)
            store_tile(d_values + row * FEATURES * WIDTH, g2, e2, columns, WIDTH)
            if block == 0:
                store_moments(d_normalizer + row * FEATURES, moments, final_normalizer + slot * FEATURES, True)


@triton.jit
def _keys_block(gradient, of_values, k, v, g, left, right, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """Adds what one block of the state's gradient says about keys and values."""
    by_left, by_right = tl.dot(k, left, input_precision=PRECISION), tl.dot(k, right, input_precision=PRECISION)
    g_dot = g.to(DOT)
    of_values = tl.dot((by_left * by_right).to(DOT), g_dot, of_values, input_precision=PRECISION)
    of_features = tl.dot(v, tl.trans(g_dot), input_precision=PRECISION)
    gradient = tl.dot((of_features * by_right).to(DOT), tl.trans(left), gradient, input_precision=PRECISION)
    gradient = tl.dot((of_features * by_left).to(DOT), tl.trans(right), gradient, input_precision=PRECISION)
    return gradient, of_values
