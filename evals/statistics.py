"""How sure a score is: intervals of a proportion, of a mean, and of the difference of two methods on the same items.

Two methods read the same items, so their difference is the mean of the items' own differences, and resampling items
(not scores of each method apart) keeps what the methods have in common out of the interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jrt.errors import EmptyInputError, InvalidOptionError

RESAMPLES = 10_000


class Estimate(NamedTuple):
    """A number and the ends of its interval."""

    value: float
    low: float
    high: float


def wilson(successes: int, count: int, confidence: float = 0.95) -> Estimate:
    """Wilson's score interval of a proportion (Wilson 1927), which is right for small counts and near 0 and 1.

    Args:
        successes: how many of `count` are right.
        count: how many there are, at least 1.
        confidence: the probability that such an interval holds the true proportion.

    Raises:
        EmptyInputError: `count` is 0.

    Example:
        >>> [round(end, 4) for end in wilson(0, 10)]
        [0.0, 0.0, 0.2775]
    """
    _check(count, confidence)
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    share = successes / count
    center = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = math.sqrt(z2 * (share * (1 - share) / count + z2 / (4 * count * count))) / (1 + z2 / count)
    low = 0.0 if successes == 0 else center - half
    high = 1.0 if successes == count else center + half
    return Estimate(share, low, high)


def mean_interval(
    values: Sequence[float], seed: int, *, confidence: float = 0.95, resamples: int = RESAMPLES
) -> Estimate:
    """The mean and its percentile bootstrap interval (Efron 1979); see `average_interval`.

    Args:
        values: one score an item, 0 to 1.
        seed: of the resampling; the same seed gives the same interval.
        confidence: the probability that such an interval holds the true mean.
        resamples: how many samples are drawn.

    Raises:
        EmptyInputError: there are no values.
    """
    return average_interval([values], seed, lowest=0, confidence=confidence, resamples=resamples)


def difference_interval(
    first: Sequence[float],
    second: Sequence[float],
    seed: int,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> Estimate:
    """How much better the second method is than the first on the same items: paired percentile bootstrap.

    Args:
        first: scores of the first method, one an item.
        second: scores of the second method on the same items in the same order.
        seed: of the resampling.
        confidence: the probability that such an interval holds the true difference.
        resamples: how many samples are drawn.

    Raises:
        EmptyInputError: there are no items.
        InvalidOptionError: the methods have not scored the same number of items.
    """
    return average_interval([differences(first, second)], seed, confidence=confidence, resamples=resamples)


def average_interval(
    groups: Sequence[Sequence[float]],
    seed: int,
    *,
    lowest: float = -1,
    highest: float = 1,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> Estimate:
    """The average of the groups' means, each group counting the same; items are resampled within their group.

    A group whose items all have one value resamples to that value, however few they are, which would claim certainty.
    For such a group the interval is widened by what items of another value could do: their share is at most Wilson's
    upper end for none out of n, and their value is `lowest` or `highest`.

    Args:
        groups: values of each group's items.
        seed: of the resampling; the same seed gives the same interval.
        lowest: the least value that an item can have; -1 for a difference of scores.
        highest: the greatest.
        confidence: the probability that such an interval holds the true average.
        resamples: how many samples are drawn.

    Raises:
        EmptyInputError: there are no groups, or one is empty.
    """
    if not groups:
        raise EmptyInputError("There is nothing to average.")
    generator = np.random.default_rng(seed)
    for group in groups:
        _check(len(group), confidence)
    drawn = np.mean([_resampled_means(group, generator, resamples) for group in groups], axis=0)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    for group in groups:
        if min(group) == max(group):
            unseen = wilson(0, len(group), confidence).high / len(groups)
            low, high = low - unseen * (group[0] - lowest), high + unseen * (highest - group[0])
    value = math.fsum(math.fsum(group) / len(group) for group in groups) / len(groups)
    return Estimate(value, float(low), float(high))


def differences(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """What each item gains.

    Raises:
        InvalidOptionError: the lengths differ.
    """
    if len(first) != len(second):
        raise InvalidOptionError(
            f"The methods have {len(first)} and {len(second)} scores; a paired comparison needs the same items."
        )
    return [after - before for before, after in zip(first, second, strict=True)]


def _resampled_means(values: Sequence[float], generator: np.random.Generator, resamples: int) -> NDArray[np.float64]:
    """Means of `resamples` samples drawn with replacement, (resamples,).

    A resample's mean depends only on how often each distinct value was drawn, and that is multinomial; there are few
    distinct values, so this is the same draw without a (resamples, n) table of indices.
    """
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    count = int(counts.sum())
    drawn = generator.multinomial(count, counts / count, size=resamples)
    means: NDArray[np.float64] = drawn @ distinct / count
    return means


def _check(count: int, confidence: float) -> None:
    if count < 1:
        raise EmptyInputError("There are no scores, so there is no interval.")
    if not 0 < confidence < 1:
        raise InvalidOptionError(f"confidence={confidence} is no probability.", "Use a number between 0 and 1: 0.95.")
