"""A run of the kernel benchmark: which cells there are, in which order, and for which of them there is time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch

from jrt.bench.cells import PHASES, Case, Cell, Phase, Way, by_priority
from jrt.bench.clocks import CudaTimer, Timer
from jrt.bench.kernels_registry import WAYS
from jrt.bench.measuring import Machine, Row, measure_on_cpu, measure_on_gpu, measure_way, seconds_expected
from jrt.bench.roofline import CEILINGS
from jrt.bench.worker import LostError, Worker

Measure = Callable[[Cell], list[Row]]
Expected = Callable[[Cell], float]
_SECONDS_OF_A_WAY = 90.0  # after which it is given up: compiling and all its rounds take less


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


def on_gpu(worker: Worker, stop: float, now: Callable[[], float] = time.monotonic) -> tuple[Measure, Expected]:
    """How cells are measured on the GPU of this machine, and how long each is expected to take.

    Every way is measured in `worker`. One that is lost, or leaves the GPU unusable, is not tried again in that phase,
    and the next has a new process; one that is not ready at `stop` is given up, so that a run never lasts longer.

    Raises:
        LostError: the GPU does not answer.
    """
    machine = worker.ask(_machine, seconds=_SECONDS_OF_A_WAY)
    broken: dict[tuple[str, str, Phase], str] = {}

    def measure(way: Way, case: Case) -> Row:
        key, left = (way.group, way.name, case.phase), stop - now()
        if key in broken:
            return {"note": f"left out: {broken[key]} at another size"}
        if left <= 0:
            return {"note": "left out: the time was up"}
        try:
            row, usable = worker.ask(_measured, way.group, way.name, case, seconds=min(left, _SECONDS_OF_A_WAY))
        except LostError as error:
            if left < _SECONDS_OF_A_WAY and now() >= stop:
                return {"note": "left out: the time was up"}
            broken[key] = str(error)
            return {"note": broken[key]}
        if not usable:
            worker.close()
            broken[key] = "it broke the device"
        found: Row = row
        return found

    return partial(measure_on_gpu, ways=WAYS, machine=machine, measure=measure), partial(
        seconds_expected, ways=WAYS, machine=machine
    )


def tuned_on_gpu(worker: Worker, seconds: float) -> dict[str, Any]:
    """Looks for the fastest launches of the Taylor kernels for so long, and keeps them for later calls.

    Returns:
        Shape class -> launch and milliseconds; or why there is none, by the key "error".
    """
    try:
        found: dict[str, Any] = worker.ask(_tuned, seconds, seconds=seconds + _SECONDS_OF_A_WAY)
    except LostError as error:
        return {"error": str(error)}
    return found


def use_gpu() -> CudaTimer:
    """What the other process begins with."""
    torch.set_num_threads(1)
    return CudaTimer()


def _machine(timer: Timer) -> Machine:
    return Machine(torch.cuda.mem_get_info()[0], CEILINGS.get(torch.cuda.get_device_name()))


def _measured(timer: Timer, group: str, name: str, case: Case) -> tuple[Row, bool]:
    """(the times of a way, whether the GPU still answers), in the other process."""
    (way,) = (way for way in WAYS if (way.group, way.name) == (group, name))
    row = measure_way(way, case, timer, _machine(timer))
    try:
        torch.cuda.synchronize()
    except RuntimeError:  # after an illegal address nothing in this process works any more
        return row, False
    return row, True


def _tuned(timer: Timer, seconds: float) -> dict[str, Any]:
    """The launches as plain numbers, in the other process."""
    from jrt.kernels.taylor.tune import tune

    try:
        found = tune(seconds=seconds)
    except Exception as error:  # the cells are still to be measured
        return {"error": f"{type(error).__name__}: {error}"}
    return {name: asdict(launch) | {"ms": milliseconds} for name, (launch, milliseconds) in found.items()}


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
