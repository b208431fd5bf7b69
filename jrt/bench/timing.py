"""Timing two or more ways of doing the same, so that their ratio means something on a machine that others use.

The ways take turns, so a machine that slows down slows all of them; every round gives one ratio, and the median of the
rounds' ratios is what is reported. CPU seconds (all threads of this process) stand beside wall seconds, because on a
busy machine only they repeat.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Times:
    """Seconds of every round of one way."""

    wall: Sequence[float]
    cpu: Sequence[float]

    @property
    def wall_median(self) -> float:
        return median(self.wall)

    @property
    def cpu_median(self) -> float:
        return median(self.cpu)


def interleaved(ways: Mapping[str, Callable[[], Any]], rounds: int, *, synchronize: bool = False) -> dict[str, Times]:
    """Runs every way once untimed, then `rounds` times in turns; every other round goes the other way round.

    Args:
        ways: what to time, by name.
        rounds: how often.
        synchronize: whether to wait for a CUDA device before and after every call.
    """
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for number in range(rounds):
        for name in list(ways) if number % 2 == 0 else list(ways)[::-1]:
            _wait(synchronize)
            started, started_cpu = time.perf_counter(), time.process_time()
            ways[name]()
            _wait(synchronize)
            wall[name].append(time.perf_counter() - started)
            cpu[name].append(time.process_time() - started_cpu)
    return {name: Times(wall[name], cpu[name]) for name in ways}


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> tuple[float, float, float]:
    """The median of the rounds' ratios, and the smallest and largest of them."""
    ratios = [above / below for above, below in zip(numerator, denominator, strict=True)]
    return median(ratios), min(ratios), max(ratios)


def fastest(numerator: Times, denominator: Times) -> float:
    """The ratio of the fewest CPU seconds of any round: what other programs on the machine disturb least."""
    return min(numerator.cpu) / min(denominator.cpu)


def _wait(synchronize: bool) -> None:
    if synchronize:
        import torch

        torch.cuda.synchronize()
