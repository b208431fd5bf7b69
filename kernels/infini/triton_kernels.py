"""Local attention with the memory read fused in, and its gradients, as Triton kernels.

A program takes a block of one segment: it never leaves it, so there is no mask between segments. Tensors are
contiguous, `(B, H, T, D)`; memories `(B, Hkv, n, D, Dv)` and normalisers `(B, Hkv, n, D)` are those before each of the
n segments, in float32. Exponentials are powers of two: `scale` holds log2(e). README.md has the gradients.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

NOTHING = tl.constexpr(-1.0e30)


@triton.jit
def _place(blocks, n):
    """(segment, block of it, head counted over rows) of a program. One dimension: a grid's second ends at 65535."""
    at = tl.program_id(0).to(tl.int64)
    within = (at % (n * blocks)).to(tl.int32)
    return within // blocks, within % blocks, at // (n * blocks)


@triton.jit
def sigma(x, RELU: tl.constexpr):
    if RELU:
        return tl.maximum(x, 0.0)
    return tl.where(x > 0, x + 1.0, tl.exp(tl.minimum(x, 0.0)))


@triton.jit
def sigma_slope(x, RELU: tl.constexpr):
    if RELU:
        return tl.where(x > 0, 1.0, 0.0)
    return tl.where(x > 0, 1.0, tl.exp(tl.minimum(x, 0.0)))


@triton.jit
def _scores(b_q, b_k, o_m, o_n, end, real, row, T, scale, MASKED: tl.constexpr, PRECISION: tl.constexpr):
    """Scaled scores (M, N); those that are not seen are NOTHING."""
    s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * scale
    seen = (o_n[None, :] <= o_m[:, None]) & (o_n[None, :] < end)
    if MASKED:
        is_real = tl.load(real + row * T + o_n, mask=o_n < end, other=0) != 0
        seen = seen & (is_real[None, :] | (o_n[None, :] == o_m[:, None]))
    return tl.where(seen, s, NOTHING)


@triton.jit
def _share(gate, normaliser, head):
    """(sigmoid of the gate, 1.0 where the memory is not empty)."""
    filled = tl.where(tl.max(tl.abs(normaliser), 0) > 0, 1.0, 0.0)
    return tl.sigmoid(tl.load(gate + head).to(tl.float32)), filled


@triton.jit(do_not_specialize=["T", "n"])
def forward_kernel(
    q, k, v, mq, memory, normaliser, gate, real, o, lse, scale, epsilon, T, n, H, G, S,
    D: tl.constexpr, DV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    RELU: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    segment, block, i_h = _place(tl.cdiv(S, BM), n)
    row, head = i_h // H, i_h % H
    i_k = row * (H // G) + head // G
    o_d, o_v = tl.arange(0, D), tl.arange(0, DV)
    begin = tl.cast(segment, tl.int64) * S
    end = tl.minimum(begin + S, T)
    count = (end - begin).to(tl.int32)
    o_m = begin + block * BM + tl.arange(0, BM)
    m_m = (o_m < end)[:, None]
    at = i_h * T + o_m
    b_q = tl.load(q + at[:, None] * D + o_d[None, :], mask=m_m, other=0.0)
    top = tl.full([BM], NOTHING, tl.float32)
    total = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, DV], tl.float32)
    for j in tl.range(0, tl.minimum((block + 1) * BM, count), BN):
        o_n = begin + j + tl.arange(0, BN)
        there = (o_n < end)[:, None]
        from_k = i_k * T + o_n
        b_k = tl.load(k + from_k[:, None] * D + o_d[None, :], mask=there, other=0.0)
        s = _scores(b_q, b_k, o_m, o_n, end, real, row, T, scale, MASKED, PRECISION)
        new_top = tl.maximum(top, tl.max(s, 1))
        p = tl.exp2(s - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        total = total * shrink + tl.sum(p, 1)
        top = new_top
        b_v = tl.load(v + from_k[:, None] * DV + o_v[None, :], mask=there, other=0.0)
        acc = tl.dot(p.to(b_v.dtype), b_v, acc * shrink[:, None], input_precision=PRECISION)
    at_state = i_k * n + segment
    b_z = tl.load(normaliser + at_state * D + o_d)
    b_memory = tl.load(memory + at_state * D * DV + o_d[:, None] * DV + o_v[None, :])
    sq = sigma(tl.load(mq + at[:, None] * D + o_d[None, :], mask=m_m, other=0.0).to(tl.float32), RELU)
    read = tl.dot(sq, b_memory, input_precision=PRECISION) / (tl.sum(sq * b_z[None, :], 1) + epsilon)[:, None]
    opening, filled = _share(gate, b_z, head)
    share = opening * filled
    out = share * read + (1.0 - share) * acc / total[:, None]
    tl.store(o + at[:, None] * DV + o_v[None, :], out.to(o.dtype.element_ty), mask=m_m)
    tl.store(lse + at, top + tl.log2(total), mask=o_m < end)


@triton.jit(do_not_specialize=["T", "n"])
def backward_query_kernel(
    q, k, v, mq, memory, normaliser, gate, real, o, lse, d_o, d_q, d_mq, d_gate, delta, scale, epsilon, T, n, H, G, S,
    D: tl.constexpr, DV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    RELU: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradients of a block of queries, their share of the gate's, and delta for the keys' kernel."""
    segment, block, i_h = _place(tl.cdiv(S, BM), n)
    row, head = i_h // H, i_h % H
    i_k = row * (H // G) + head // G
    o_d, o_v = tl.arange(0, D), tl.arange(0, DV)
    begin = tl.cast(segment, tl.int64) * S
    end = tl.minimum(begin + S, T)
    count = (end - begin).to(tl.int32)
    o_m = begin + block * BM + tl.arange(0, BM)
    m_m = (o_m < end)[:, None]
    at = i_h * T + o_m
    b_do = tl.load(d_o + at[:, None] * DV + o_v[None, :], mask=m_m, other=0.0).to(tl.float32)
    b_o = tl.load(o + at[:, None] * DV + o_v[None, :], mask=m_m, other=0.0).to(tl.float32)
    at_state = i_k * n + segment
    b_z = tl.load(normaliser + at_state * D + o_d)
    b_memory = tl.load(memory + at_state * D * DV + o_d[:, None] * DV + o_v[None, :])
    b_mq = tl.load(mq + at[:, None] * D + o_d[None, :], mask=m_m, other=0.0).to(tl.float32)
    sq = sigma(b_mq, RELU)
    inverse = 1.0 / (tl.sum(sq * b_z[None, :], 1) + epsilon)
    read = tl.dot(sq, b_memory, input_precision=PRECISION) * inverse[:, None]
    opening, filled = _share(gate, b_z, head)
    share = opening * filled
    by_read = tl.sum(b_do * read, 1)
    b_delta = tl.sum(b_do * b_o, 1) - share * by_read
    tl.store(delta + at, b_delta, mask=o_m < end)
    change = filled * opening * ((1.0 - opening) * by_read - b_delta)
    tl.store(d_gate + tl.program_id(0), tl.sum(tl.where(o_m < end, change, 0.0), 0))
    d_numerator = b_do * (share * inverse)[:, None]
    d_denominator = -tl.sum(d_numerator * read, 1)
    d_sq = tl.dot(d_numerator, tl.trans(b_memory), input_precision=PRECISION) + d_denominator[:, None] * b_z[None, :]
    b_dmq = d_sq * sigma_slope(b_mq, RELU)
    tl.store(d_mq + at[:, None] * D + o_d[None, :], b_dmq.to(d_mq.dtype.element_ty), mask=m_m)

    b_q = tl.load(q + at[:, None] * D + o_d[None, :], mask=m_m, other=0.0)
    b_lse = tl.load(lse + at, mask=o_m < end, other=0.0)
    above = (b_do * (1.0 - share)).to(b_q.dtype)
    b_dq = tl.zeros([BM, D], tl.float32)
    for j in tl.range(0, tl.minimum((block + 1) * BM, count), BN):
        o_n = begin + j + tl.arange(0, BN)
        there = (o_n < end)[:, None]
        from_k = i_k * T + o_n
        b_k = tl.load(k + from_k[:, None] * D + o_d[None, :], mask=there, other=0.0)
        b_v = tl.load(v + from_k[:, None] * DV + o_v[None, :], mask=there, other=0.0)
        s = _scores(b_q, b_k, o_m, o_n, end, real, row, T, scale, MASKED, PRECISION)
        p = tl.exp2(s - b_lse[:, None])
        d_s = p * (tl.dot(above, tl.trans(b_v), input_precision=PRECISION) - b_delta[:, None])
        b_dq = tl.dot(d_s.to(b_k.dtype), b_k, b_dq, input_precision=PRECISION)
    b_dq = b_dq * (scale * 0.6931471805599453)
    tl.store(d_q + at[:, None] * D + o_d[None, :], b_dq.to(d_q.dtype.element_ty), mask=m_m)


@triton.jit(do_not_specialize=["T", "n"])
def backward_key_kernel(
    q, k, v, normaliser, gate, real, lse, d_o, delta, d_k, d_v, scale, T, n, H, G, S,
    D: tl.constexpr, DV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradients that local attention gives a block of BN keys and values, from every head of their group."""
    segment, block, i_k = _place(tl.cdiv(S, BN), n)
    row, pair = i_k // (H // G), i_k % (H // G)
    o_d, o_v = tl.arange(0, D), tl.arange(0, DV)
    begin = tl.cast(segment, tl.int64) * S
    end = tl.minimum(begin + S, T)
    count = (end - begin).to(tl.int32)
    o_n = begin + block * BN + tl.arange(0, BN)
    there = (o_n < end)[:, None]
    from_k = i_k * T + o_n
    b_k = tl.load(k + from_k[:, None] * D + o_d[None, :], mask=there, other=0.0)
    b_v = tl.load(v + from_k[:, None] * DV + o_v[None, :], mask=there, other=0.0)
    b_z = tl.load(normaliser + (i_k * n + segment) * D + o_d)
    b_dk = tl.zeros([BN, D], tl.float32)
    b_dv = tl.zeros([BN, DV], tl.float32)
    for g in tl.range(0, G):
        head = pair * G + g
        opening, filled = _share(gate, b_z, head)
        first = (block * BN) // BM * BM
        for i in tl.range(first, count, BM):
            o_m = begin + i + tl.arange(0, BM)
            m_m = (o_m < end)[:, None]
            at = (row * H + head) * T + o_m
            b_q = tl.load(q + at[:, None] * D + o_d[None, :], mask=m_m, other=0.0)
            b_do = tl.load(d_o + at[:, None] * DV + o_v[None, :], mask=m_m, other=0.0).to(tl.float32)
            b_lse = tl.load(lse + at, mask=o_m < end, other=0.0)
            b_delta = tl.load(delta + at, mask=o_m < end, other=0.0)
            above = (b_do * (1.0 - opening * filled)).to(b_q.dtype)
            s = _scores(b_q, b_k, o_m, o_n, end, real, row, T, scale, MASKED, PRECISION)
            p = tl.where(m_m, tl.exp2(s - b_lse[:, None]), 0.0)
            b_dv = tl.dot(tl.trans(p.to(b_q.dtype)), above, b_dv, input_precision=PRECISION)
            d_s = p * (tl.dot(above, tl.trans(b_v), input_precision=PRECISION) - b_delta[:, None])
            b_dk = tl.dot(tl.trans(d_s.to(b_q.dtype)), b_q, b_dk, input_precision=PRECISION)
    b_dk = b_dk * (scale * 0.6931471805599453)
    tl.store(d_k + from_k[:, None] * D + o_d[None, :], b_dk.to(d_k.dtype.element_ty), mask=there)
    tl.store(d_v + from_k[:, None] * DV + o_v[None, :], b_dv.to(d_v.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["T", "n"])
def backward_memory_kernel(
    mq, memory, normaliser, gate, d_o, d_memory, d_normaliser, epsilon, T, n, H, G, S,
    D: tl.constexpr, DV: tl.constexpr, BM: tl.constexpr, RELU: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What the queries of one segment want of the state before it."""
    segment, _, i_k = _place(1, n)
    row, pair = i_k // (H // G), i_k % (H // G)
    o_d, o_v = tl.arange(0, D), tl.arange(0, DV)
    begin = tl.cast(segment, tl.int64) * S
    end = tl.minimum(begin + S, T)
    count = (end - begin).to(tl.int32)
    at_state = i_k * n + segment
    b_z = tl.load(normaliser + at_state * D + o_d)
    b_memory = tl.load(memory + at_state * D * DV + o_d[:, None] * DV + o_v[None, :])
    b_dm = tl.zeros([D, DV], tl.float32)
    b_dz = tl.zeros([D], tl.float32)
    for g in tl.range(0, G):
        head = pair * G + g
        opening, filled = _share(gate, b_z, head)
        for i in tl.range(0, count, BM):
            o_m = begin + i + tl.arange(0, BM)
            m_m = (o_m < end)[:, None]
            at = (row * H + head) * T + o_m
            b_do = tl.load(d_o + at[:, None] * DV + o_v[None, :], mask=m_m, other=0.0).to(tl.float32)
            b_mq = tl.load(mq + at[:, None] * D + o_d[None, :], mask=m_m, other=0.0).to(tl.float32)
            sq = tl.where(m_m, sigma(b_mq, RELU), 0.0)
            inverse = 1.0 / (tl.sum(sq * b_z[None, :], 1) + epsilon)
            read = tl.dot(sq, b_memory, input_precision=PRECISION) * inverse[:, None]
            d_numerator = b_do * (opening * filled * inverse)[:, None]
            b_dm = tl.dot(tl.trans(sq), d_numerator, b_dm, input_precision=PRECISION)
            b_dz += tl.sum(sq * -tl.sum(d_numerator * read, 1)[:, None], 0)
    tl.store(d_memory + at_state * D * DV + o_d[:, None] * DV + o_v[None, :], b_dm)
    tl.store(d_normaliser + at_state * D + o_d, b_dz)
