"""What every full segment writes, N = sum w sigma(k) v^T and sum w sigma(k), as Triton kernels, and their gradients.

In plain torch sigma(k), the weighted sigma(k) and v go through memory in float32, ten times the bytes of k and v in
bfloat16, and the product runs where no tensor core does. Here k and v are read once. Products of 16 bits take sigma(k)
in two parts, so that 16 bits of it count and not 8: what is summed up over a million tokens loses nothing to speak of.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from jrt.kernels.infini.triton_kernels import sigma, sigma_slope


@triton.jit
def _rows(keys, weight, at, here, D: tl.constexpr, RELU: tl.constexpr):
    """(keys (M, D), sigma(keys), their weights) of the positions `at`; zero where they are not `here`."""
    b_k = tl.load(keys + at[:, None] * D + tl.arange(0, D)[None, :], mask=here[:, None], other=0.0).to(tl.float32)
    weights = tl.where(here, 1.0, 0.0)
    if weight is not None:
        weights = tl.load(weight + at, mask=here, other=0.0)
    return b_k, tl.where(here[:, None], sigma(b_k, RELU), 0.0), weights


@triton.jit(do_not_specialize=["T", "n"])
def sums_kernel(
    keys,  # (heads, T, D)
    values,  # (heads, T, DV)
    weight,  # (heads, T), float32, or None
    memory,  # (heads, n, D, DV), written
    normaliser,  # (heads, n, D), written
    T, n, S,
    D: tl.constexpr, DV: tl.constexpr, BM: tl.constexpr, BV: tl.constexpr, RELU: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One segment and BV columns of the values."""
    slot, column = tl.program_id(0).to(tl.int64), tl.program_id(1)
    o_d, o_v = tl.arange(0, D), column * BV + tl.arange(0, BV)
    begin = slot // n * T + slot % n * S
    b_m = tl.zeros([D, BV], tl.float32)
    b_z = tl.zeros([D], tl.float32)
    for i in tl.range(0, S, BM):
        o_m = i + tl.arange(0, BM)
        here = o_m < S
        _, sk, weights = _rows(keys, weight, begin + o_m, here, D, RELU)
        sk = sk * weights[:, None]
        b_v = tl.load(values + (begin + o_m)[:, None] * DV + o_v[None, :], mask=here[:, None], other=0.0)
        high = tl.trans(sk).to(b_v.dtype)
        b_m = tl.dot(high, b_v, b_m, input_precision=PRECISION)
        if b_v.dtype != tl.float32:
            b_m = tl.dot((tl.trans(sk) - high.to(tl.float32)).to(b_v.dtype), b_v, b_m)
        b_z += tl.sum(sk, 0)
    tl.store(memory + slot * D * DV + o_d[:, None] * DV + o_v[None, :], b_m)
    if column == 0:
        tl.store(normaliser + slot * D + o_d, b_z)


@triton.jit(do_not_specialize=["T", "n"])
def backward_sums_kernel(
    keys,  # (heads, T, D)
    values,  # (heads, T, DV)
    weight,  # (heads, T), float32, or None
    d_memory,  # (heads, n, D, DV)
    d_normaliser,  # (heads, n, D)
    d_keys,  # (heads, T, D), written, but for the positions after the last full segment
    d_values,  # (heads, T, DV), written, the same
    d_weight,  # (heads, T), written, the same; or None
    T, n, S,
    D: tl.constexpr, DV: tl.constexpr, BM: tl.constexpr, RELU: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradients of BM positions."""
    blocks = tl.cdiv(S, BM)
    slot, block = tl.program_id(0).to(tl.int64) // blocks, tl.program_id(0) % blocks
    o_d, o_v = tl.arange(0, D), tl.arange(0, DV)
    o_m = block * BM + tl.arange(0, BM)
    here = o_m < S
    at = slot // n * T + slot % n * S + o_m
    b_dm = tl.load(d_memory + slot * D * DV + o_d[:, None] * DV + o_v[None, :])
    b_dz = tl.load(d_normaliser + slot * D + o_d)
    b_k, sk, weights = _rows(keys, weight, at, here, D, RELU)
    b_v = tl.load(values + at[:, None] * DV + o_v[None, :], mask=here[:, None], other=0.0).to(tl.float32)
    wanted = tl.dot(b_v, tl.trans(b_dm), input_precision=PRECISION) + b_dz[None, :]
    b_dk = wanted * weights[:, None] * sigma_slope(b_k, RELU)
    b_dv = tl.dot(sk * weights[:, None], b_dm, input_precision=PRECISION)
    tl.store(d_keys + at[:, None] * D + o_d[None, :], b_dk.to(d_keys.dtype.element_ty), mask=here[:, None])
    tl.store(d_values + at[:, None] * DV + o_v[None, :], b_dv.to(d_values.dtype.element_ty), mask=here[:, None])
    if d_weight is not None:
        tl.store(d_weight + at, tl.sum(wanted * sk, 1), mask=here)
