"""Intervals against closed forms, and how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jrt.errors import EmptyInputError, InvalidOptionError
from jrt.evals.statistics import (
    _resampled_means,
    average_interval,
    difference_interval,
    mean_interval,
    wilson,
)


def test_wilson_solves_its_equation() -> None:
    """Both ends are where |share - p| = z sqrt(p (1 - p) / n)."""
    for successes, count in [(1, 10), (5, 10), (37, 200), (999, 1000)]:
        share, low, high = wilson(successes, count)
        for end in (low, high):
            assert abs(share - end) == pytest.approx(1.959963984540054 * math.sqrt(end * (1 - end) / count))


def test_wilson_at_the_ends() -> None:
    z2 = 1.959963984540054**2
    assert wilson(0, 10) == pytest.approx((0.0, 0.0, z2 / (10 + z2)))
    assert wilson(10, 10) == pytest.approx((1.0, 10 / (10 + z2), 1.0))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 500), st.data())
def test_wilson_is_symmetric_and_ordered(count: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, count))
    share, low, high = wilson(successes, count)
    mirrored = wilson(count - successes, count)
    assert 0 <= low <= share <= high <= 1
    assert (low, high) == pytest.approx((1 - mirrored.high, 1 - mirrored.low))
    wider = wilson(successes, count, confidence=0.99)
    assert wider.low <= low and high <= wider.high


def test_resampled_means_have_the_mean_and_variance_of_a_bootstrap() -> None:
    values = np.array([0.0, 0.0, 1.0, -1.0, 1.0, 1.0, 0.25])
    means = _resampled_means(values, np.random.default_rng(0), 200_000)
    assert means.mean() == pytest.approx(values.mean(), abs=0.003)
    assert means.var() == pytest.approx(values.var() / len(values), rel=0.02)
    # The third moment too: multinomial counts of distinct values are not a normal approximation.
    third = ((values - values.mean()) ** 3).mean() / len(values) ** 2
    assert ((means - values.mean()) ** 3).mean() == pytest.approx(third, abs=3e-4)


def test_a_paired_difference_ignores_what_the_methods_share() -> None:
    """100 items; both right on 80, the second gains 10 and loses none: the interval is that of 10 in 100."""
    first = [1.0] * 80 + [0.0] * 20
    second = [1.0] * 90 + [0.0] * 10
    value, low, high = difference_interval(first, second, seed=0)
    assert value == pytest.approx(0.1)
    error = 1.96 * math.sqrt(0.1 * 0.9 / 100)
    assert (low, high) == pytest.approx((0.1 - error, 0.1 + error), abs=0.015)


def test_coverage_of_the_paired_interval() -> None:
    """Of 400 experiments with a known gain, about 95 % of the intervals hold it."""
    generator = np.random.default_rng(1)
    held = 0
    for seed in range(400):
        difficulty = generator.random(100)  # shared by both methods
        first = (difficulty < 0.3 + 0.2 * generator.random(100)).astype(float)
        second = (difficulty < 0.5 + 0.2 * generator.random(100)).astype(float)
        _, low, high = difference_interval(list(first), list(second), seed, resamples=1000)
        held += low <= 0.2 <= high
    assert 0.91 <= held / 400 <= 0.98


def test_coverage_of_wilson() -> None:
    counts = np.random.default_rng(2).binomial(50, 0.1, size=5000)
    intervals = [wilson(int(successes), 50) for successes in counts]
    assert 0.93 <= np.mean([low <= 0.1 <= high for _, low, high in intervals]) <= 0.985


def test_order_seed_and_ties() -> None:
    values = [0.0, 0.5, 1.0, 1.0, 0.2] * 8
    assert mean_interval(values, 3) == mean_interval(sorted(values), 3)
    assert mean_interval(values, 3) != mean_interval(values, 4)
    shifted = difference_interval([0.0] * len(values), values, 3)
    assert shifted == pytest.approx(mean_interval(values, 3))


def test_equal_items_do_not_claim_certainty() -> None:
    """Four items without a difference: up to 49 % of items (Wilson, none of four) could differ, either way."""
    unseen = wilson(0, 4).high
    assert difference_interval([1, 0, 1, 0], [1, 0, 1, 0], 0) == pytest.approx((0, -unseen, unseen))
    assert difference_interval([0] * 4, [1] * 4, 0) == pytest.approx((1, 1 - 2 * unseen, 1))
    assert difference_interval([1] * 4, [0] * 4, 0) == pytest.approx((-1, -1, -1 + 2 * unseen))
    assert mean_interval([0.7] * 4, 0) == pytest.approx((0.7, 0.7 - 0.7 * unseen, 0.7 + 0.3 * unseen))
    narrow = difference_interval([0.0] * 1000, [0.0] * 1000, 0)
    assert narrow.high - narrow.low < 0.01
    mixed = average_interval([[0.0] * 4, [0.0, 1.0] * 500], 0)
    alone = average_interval([[0.0, 1.0] * 500], 0)
    assert mixed.value == pytest.approx(0.25)
    assert mixed.high == pytest.approx(alone.high / 2 + unseen / 2, abs=0.01)


def test_an_average_counts_every_group_the_same() -> None:
    small, large = [1.0, 0.0], [0.0] * 500 + [1.0] * 500
    value, low, high = average_interval([small, large], seed=0)
    assert value == pytest.approx(0.5)
    assert high - low > mean_interval(small + large, seed=0).high - mean_interval(small + large, seed=0).low
    assert average_interval([[0.0] * 3, [1.0] * 99], seed=0).value == pytest.approx(0.5)


def test_refusals() -> None:
    with pytest.raises(EmptyInputError):
        wilson(0, 0)
    with pytest.raises(EmptyInputError):
        mean_interval([], 0)
    with pytest.raises(EmptyInputError):
        average_interval([], 0)
    with pytest.raises(InvalidOptionError, match="3 and 2"):
        difference_interval([1, 1, 1], [1, 1], 0)
    with pytest.raises(InvalidOptionError, match="probability"):
        wilson(1, 2, confidence=95)
