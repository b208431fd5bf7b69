"""What all Triton kernels of this operation share: how features are made, and how the normaliser is kept.

Features by selection: with 0/1 matrices L and R, feature(x) = (x~ L) * (x~ R). The tensor core gathers exactly, and its
result already lies where the next product wants it; gathering by index or an outer product costs eight times the
instructions. The 160 features are taken in blocks of 64, 64 and 32. The first 128 are all products of two entries of x,
so that 16 columns of L are enough; the last 32 (8 pairs, 16 linear, one constant, 7 zeros) need x~ = [x, 1], 32 wide.

The normaliser is kept as the moment matrix sum x~ x~^T (32 by 32, 17 used) instead of the packed sums: a vector of 160
numbers, broadcast over a tile, costs registers that there are none of. Every packed sum stands in the matrix twice.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# (types of Triton's language say nothing to a type checker)

from __future__ import annotations

import triton
import triton.language as tl

FEATURE_DIM = tl.constexpr(16)
FEATURES = tl.constexpr(160)
PAIRS = tl.constexpr(136)
WIDE = tl.constexpr(32)
"""Columns of x~ = [x, 1, 0, ...]."""
LEFT = tl.constexpr(0)
RIGHT = tl.constexpr(1)
WEIGHTED = tl.constexpr(2)
"""The left factor with the feature's weight, for the queries' side."""


@triton.jit
def selection(selections, e, d, WHICH: tl.constexpr):
    """(d, e) matrix with 1 where feature e takes entry d as a factor; loaded, not computed, because what is computed
    is kept in registers."""
    return tl.load(selections + WHICH * WIDE * FEATURES + d[:, None] * FEATURES + e[None, :])


@triton.jit
def selection_transposed(selections, e, d, WHICH: tl.constexpr):
    """The same as (e, d)."""
    return tl.load(selections + WHICH * WIDE * FEATURES + d[None, :] * FEATURES + e[:, None])


@triton.jit
def features(x, left, right, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """A tile of features: rows of x against (d, e) selections, or (e, d) selections against columns of x."""
    return (tl.dot(x, left, input_precision=PRECISION) * tl.dot(x, right, input_precision=PRECISION)).to(DOT)


@triton.jit
def features_transposed(x, left, right, DOT: tl.constexpr, PRECISION: tl.constexpr):
    return (tl.dot(left, x, input_precision=PRECISION) * tl.dot(right, x, input_precision=PRECISION)).to(DOT)


@triton.jit
def moment_places():
    """(index of the packed sum of every entry of the moment matrix, whether there is one, whether it is its first,
    weight of the feature)."""
    m = tl.arange(0, WIDE)[:, None]
    n = tl.arange(0, WIDE)[None, :]
    low, high = tl.minimum(m, n), tl.maximum(m, n)
    pair = low * FEATURE_DIM - low * (low - 1) // 2 + high - low
    single = tl.where(low < FEATURE_DIM, PAIRS + low, PAIRS + FEATURE_DIM)
    used = high <= FEATURE_DIM
    weight = tl.where((m == n) & (m < FEATURE_DIM), 0.5, 1.0)
    return tl.where(high < FEATURE_DIM, pair, single), used, used & (m <= n), weight


@triton.jit
def load_moments(normalizer, OF_GRADIENT: tl.constexpr):
    """The moment matrix of packed sums; of packed gradients, the matrix Q whose entries are weight_e Q_lr."""
    place, used, _, weight = moment_places()
    moments = tl.load(normalizer + place, mask=used, other=0.0)
    if OF_GRADIENT:
        moments = moments / weight
    return moments


@triton.jit
def store_moments(normalizer, moments, before, OF_GRADIENT: tl.constexpr):
    """The reverse; the seven padding features are those of `before`, the sums that the kernel began with, or zero."""
    place, _, first, weight = moment_places()
    if OF_GRADIENT:
        moments = moments * weight
    tl.store(normalizer + place, moments, mask=first)
    padding = tl.arange(0, 8)
    kept = tl.zeros([8], tl.float32)
    if before is not None:
        kept = tl.load(before + PAIRS + FEATURE_DIM + 1 + padding, mask=padding < 7, other=0.0)
    tl.store(normalizer + PAIRS + FEATURE_DIM + 1 + padding, kept, mask=padding < 7)


@triton.jit
def load_tile(state, e, columns, WIDTH: tl.constexpr):
    """Features `e` of a state `(160, WIDTH)`."""
    return tl.load(state + e[:, None] * WIDTH + columns[None, :], mask=(columns < WIDTH)[None, :], other=0.0)


@triton.jit
def store_tile(state, tile, e, columns, WIDTH: tl.constexpr):
    tl.store(state + e[:, None] * WIDTH + columns[None, :], tile, mask=(columns < WIDTH)[None, :])


@triton.jit
def load_rows(x, stride, real, scale, DOT: tl.constexpr):
    """(rows, 16) of queries or keys; `x` points at the first row. Keys (scale None) go straight to shared memory."""
    d, rows = tl.arange(0, FEATURE_DIM), tl.arange(0, real.shape[0])
    tile = tl.load(x + rows[:, None] * stride + d[None, :], mask=real[:, None], other=0.0)
    if scale is not None:
        tile = tile.to(tl.float32) * scale
    return tile.to(DOT)


@triton.jit
def load_columns(x, stride, real, scale, DOT: tl.constexpr):
    """(16, rows) of queries or keys."""
    d, rows = tl.arange(0, FEATURE_DIM), tl.arange(0, real.shape[0])
    tile = tl.load(x + rows[None, :] * stride + d[:, None], mask=real[None, :], other=0.0)
    if scale is not None:
        tile = tile.to(tl.float32) * scale
    return tile.to(DOT)


@triton.jit
def load_wide_rows(x, stride, real, scale, DOT: tl.constexpr):
    """(rows, 32) of [x, 1, 0, ...], zero where a row is not real."""
    d, rows = tl.arange(0, WIDE), tl.arange(0, real.shape[0])
    inside = real[:, None] & (d < FEATURE_DIM)[None, :]
    tile = tl.load(x + rows[:, None] * stride + d[None, :], mask=inside, other=0.0)
    if scale is not None:
        tile = tile.to(tl.float32) * scale
    return tl.where((d == FEATURE_DIM)[None, :] & real[:, None], 1.0, tile.to(tl.float32)).to(DOT)


@triton.jit
def load_wide_columns(x, stride, real, scale, DOT: tl.constexpr):
    """(32, rows) of the same."""
    d, rows = tl.arange(0, WIDE), tl.arange(0, real.shape[0])
    inside = real[None, :] & (d < FEATURE_DIM)[:, None]
    tile = tl.load(x + rows[None, :] * stride + d[:, None], mask=inside, other=0.0)
    if scale is not None:
        tile = tile.to(tl.float32) * scale
    return tl.where((d == FEATURE_DIM)[:, None] & real[None, :], 1.0, tile.to(tl.float32)).to(DOT)


@triton.jit
def load_values(y, stride, columns, real, WIDTH: tl.constexpr, DOT: tl.constexpr):
    """(rows, columns) of values; `y` points at the first row."""
    rows = tl.arange(0, real.shape[0])
    inside = real[:, None] & (columns < WIDTH)[None, :]
    return tl.load(y + rows[:, None] * stride + columns[None, :], mask=inside, other=0.0).to(DOT)


@triton.jit
def store_rows(y, tile, columns, exists, WIDTH: tl.constexpr):
    """The reverse, into dense rows of WIDTH."""
    rows = tl.arange(0, exists.shape[0])
    inside = exists[:, None] & (columns < WIDTH)[None, :]
    tl.store(y + rows[:, None] * WIDTH + columns[None, :], tile.to(y.dtype.element_ty), mask=inside)


@triton.jit
def positions(at, count, mask, BLOCK_T: tl.constexpr):
    """(which of the BLOCK_T positions from `at` on exist, which of them are not masked), of `count` in all."""
    rows = tl.arange(0, BLOCK_T)
    exists = rows < count - at
    real = exists
    if mask is not None:
        real = exists & (tl.load(mask + at + rows, mask=exists, other=0) != 0)
    return exists, real
