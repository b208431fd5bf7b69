"""A run of the kernel benchmark: which cells there are, in which order, and for which of them there is time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from jrt.bench.cells import PHASES, Case, Cell, Phase, by_priority
from jrt.bench.clocks import CudaTimer
from jrt.bench.kernels_registry import WAYS
from jrt.bench.measuring import Machine, measure_on_cpu, measure_on_gpu, seconds_expected
from jrt.bench.roofline import CEILINGS

Measure = Callable[[Cell], list[dict[str, Any]]]
Expected = Callable[[Cell], float]


def plan(
    groups: Sequence[str], phases: Sequence[Phase], batches: Sequence[int], lengths: Sequence[int], like: Case
) -> list[Cell]:
    """Every comparison in which a way of ours takes part, most wanted first; heads, device and type are `like`'s."""
    cells = []
    for group in groups:
        own = {phase for way in WAYS if way.group == group and way.ours for phase in way.phases}
        for phase in (phase for phase in phases if phase in own):
            for batch in batches:
                for length in lengths:
                    cells.append(Cell(group, replace(like, phase=phase, batch=batch, length=length)))
    return by_priority(cells, groups)


def on_gpu() -> tuple[Measure, Expected]:
    """How cells are measured on the GPU of this machine, and how long each is expected to take."""
    machine = Machine(torch.cuda.mem_get_info()[0], CEILINGS.get(torch.cuda.get_device_name()))
    measure = partial(measure_on_gpu, ways=WAYS, timer=CudaTimer(), machine=machine)
    return measure, partial(seconds_expected, ways=WAYS, machine=machine)


def on_cpu(rounds: int) -> tuple[Measure, Expected]:
    """The same for a CPU, where nothing is known beforehand."""
    return partial(measure_on_cpu, ways=WAYS, rounds=rounds), lambda cell: 0.0


@contextmanager
def one_thread() -> Iterator[None]:
    """torch computes on one thread of the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def within(
    cells: Sequence[Cell],
    measure: Measure,
    expected: Expected,
    stop: float,
    now: Callable[[], float] = time.monotonic,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Measures cells in their order while the clock allows it; a shorter one may still fit after a longer one did not.

    Args:
        cells: most wanted first.
        measure: gives the rows of a cell.
        expected: seconds that a cell is expected to take.
        stop: when the time is up, by `now`.
        now: the clock.

    Returns:
        The rows by group, phase, rows of the batch and length; and the labels of the cells that were left out.
    """
    measured: list[tuple[Cell, list[dict[str, Any]]]] = []
    left_out = []
    for cell in cells:
        if now() + expected(cell) >= stop:
            left_out.append(cell.label)
        else:
            measured.append((cell, measure(cell)))
    groups = list(dict.fromkeys(way.group for way in WAYS))

    def place(pair: tuple[Cell, Any]) -> tuple[int, ...]:
        case = pair[0].case
        return groups.index(pair[0].group), PHASES.index(case.phase), case.batch, case.length

    return [row for _, rows in sorted(measured, key=place) for row in rows], left_out
