"""Measures one cell of the kernel benchmark: prepares its ways, checks each against the formula, times the right ones.

Nothing stops a run: what cannot be measured becomes a row that says why.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from jrt.bench.cells import Case, Cell, Way
from jrt.bench.checking import Verdict, check_gradients, check_output
from jrt.bench.clocks import Timer, timed
from jrt.bench.roofline import Ceilings, Work
from jrt.bench.timing import interleaved, ratio

LONGEST_CALL = 1.5
"""Seconds at which a single call on a GPU is left out."""
_EFFICIENCY = 0.35  # share of the ceilings that an unknown kernel reaches, to guess how long a call takes
_SECONDS_OF_A_WAY = 0.4  # inputs, the check, the rounds of a fast call
_CALLS = 5  # of a slow way: checked, warmed up, timed
_SPARE = 6e9  # bytes of GPU memory for the check and for torch
_CPU_SECONDS = 20.0  # of timed work for one cell on a CPU
_FEWEST_ROUNDS = 3

_CPU_TIMES = ("ms", "CPU ms")
_GPU_TIMES = ("ms", "graph ms", "floor ms", "of floor")

Row = dict[str, Any]
Measure = Callable[[Way, Case], Row]


@dataclass(frozen=True)
class Machine:
    """What a GPU can do.

    Attributes:
        memory: bytes that are free.
        ceilings: its peak rates, or None when they are not known.
    """

    memory: float
    ceilings: Ceilings | None


def measure_on_gpu(cell: Cell, ways: Sequence[Way], machine: Machine, measure: Measure) -> list[Row]:
    """One way after the other; `measure` is `measure_way`, here or in another process."""
    rows: list[Row] = []
    for way in _taking_part(cell, ways):
        reason = _in_the_way(way, cell.case) or _too_large(way, cell.case, machine)
        found = measure(way, cell.case) if reason is None else {"note": reason}
        row = _row(cell, way, _GPU_TIMES)
        rows.append(row | found)
    base = _base([row["way"] for row in rows if row["ms"]], ways)
    for row in rows:
        if base is not None and row["ms"]:
            row["ratio"] = row["ms"] / next(other["ms"] for other in rows if other["way"] == base)
    return rows


def measure_way(way: Way, case: Case, timer: Timer, machine: Machine) -> Row:
    """Times one way with inputs of its own, which are freed afterwards; a note where that fails."""
    row = _attempt(way, case, partial(_gpu_times, case=case, timer=timer))
    with contextlib.suppress(RuntimeError):  # a device that the way broke
        torch.cuda.empty_cache()
    return row | _share_of_floor(row, way, case, machine.ceilings)


def measure_on_cpu(cell: Cell, ways: Sequence[Way], rounds: int) -> list[Row]:
    """All ways in turns, because a CPU is shared; as many rounds as fit 20 seconds, at least 3 and at most `rounds`."""
    rows: dict[str, Row] = {}
    calls: dict[str, Callable[[], Any]] = {}
    once = 0.0
    for way in _taking_part(cell, ways):
        row = rows[way.name] = _row(cell, way, _CPU_TIMES)
        reason = _in_the_way(way, cell.case)
        if reason is not None:
            row["note"] = reason
            continue
        found: dict[str, Any] = {}

        def keep(call: Callable[[], Any], found: dict[str, Any] = found) -> Row:
            started = time.perf_counter()
            call()
            found["call"], found["once"] = call, time.perf_counter() - started
            return {}

        row |= _attempt(way, cell.case, keep)
        if "call" in found:
            calls[way.name], once = found["call"], once + found["once"]
    fitting = int(min(max(_CPU_SECONDS / max(once, 1e-6), _FEWEST_ROUNDS), rounds))
    times = interleaved(calls, fitting)
    base = _base(list(times), ways)
    for name, taken in times.items():
        rows[name] |= {"ms": 1e3 * taken.wall_median, "CPU ms": 1e3 * taken.cpu_median}
        rows[name]["ratio"] = None if base is None else ratio(taken.cpu, times[base].cpu)[0]
    return list(rows.values())


def seconds_expected(cell: Cell, ways: Sequence[Way], machine: Machine) -> float:
    """A guess at what a cell takes on a GPU, without compiling: what the roofline says, and a fixed cost."""
    total = 0.0
    for way in _taking_part(cell, ways):
        if _in_the_way(way, cell.case) is None and _too_large(way, cell.case, machine) is None:
            total += _SECONDS_OF_A_WAY + _CALLS * _seconds(way, cell.case, machine)
    return total


def _taking_part(cell: Cell, ways: Sequence[Way]) -> list[Way]:
    case = cell.case
    fitting = (way for way in ways if case.phase in way.phases and case.device.type in way.devices)
    return [way for way in fitting if way.group == cell.group]


def _row(cell: Cell, way: Way, times: Sequence[str]) -> Row:
    """Every column, empty, so that all rows make one table."""
    case = cell.case
    identity = {
        "way": way.name,
        "group": cell.group,
        "phase": case.phase,
        "batch": case.batch,
        "positions": case.length,
    }
    return identity | dict.fromkeys([*times, "ratio", "error"]) | {"note": ""}


def _in_the_way(way: Way, case: Case) -> str | None:
    """The way's obstacle; what is raised on the search for one is one too."""
    try:
        return way.obstacle(case)
    except Exception as error:  # a package that is half installed, a device that does not answer
        return _said(error)


def _cost(way: Way, case: Case) -> Work:
    return way.operation.work(case) if way.cost is None else way.cost(case)


def _seconds(way: Way, case: Case, machine: Machine) -> float:
    return 0.0 if machine.ceilings is None else _cost(way, case).floor(machine.ceilings) / _EFFICIENCY


def _too_large(way: Way, case: Case, machine: Machine) -> str | None:
    copies = 1 if case.phase == "prefill" else 2  # gradients; a cache and what it was made of
    needed = copies * way.operation.work(replace(case, phase="prefill")).bytes + way.temporary(case) + _SPARE
    if needed > machine.memory:
        return f"does not fit: about {needed / 1e9:.0f} GB, {machine.memory / 1e9:.0f} GB are free"
    seconds = _seconds(way, case, machine)
    return f"left out: one call takes about {seconds:.1f} s" if seconds > LONGEST_CALL else None


def _attempt(way: Way, case: Case, measure: Callable[[Callable[[], Any]], Row]) -> Row:
    """What `measure` gives for a right way; what went wrong, otherwise."""
    try:
        call, verdict = prepare(way, case)
        if not math.isfinite(verdict.error):  # which JSON does not know
            return {"note": f"WRONG ({verdict.what} is not finite), not timed"}
        checked = {"error": verdict.error}
        if not verdict.right:
            return checked | {"note": f"WRONG ({verdict.what}, allowed {verdict.allowed:.1e}), not timed"}
        return checked | measure(call)
    except torch.OutOfMemoryError:
        return {"note": "does not fit"}
    except Exception as error:  # a kernel may raise anything; the others are still to be measured
        return {"note": _said(error)}


def _said(error: Exception) -> str:
    """An exception in one line."""
    words = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {words[0][:160]}"


def prepare(way: Way, case: Case) -> tuple[Callable[[], Any], Verdict]:
    """What is to be timed, and how right its first result was."""
    inputs = way.operation.inputs(case)
    if case.phase == "decode":
        if way.decode is None:
            raise TypeError(f"{way.name} cannot decode.")
        with torch.no_grad():
            step = way.decode(case, inputs)
            verdict = check_output(way.operation, case, inputs, step())
        return _without_gradients(step), verdict
    if case.phase == "prefill":
        forward = _without_gradients(lambda: way.forward(case, inputs))
        return forward, check_output(way.operation, case, inputs, forward())
    return _backward(way, case, inputs)


def _backward(way: Way, case: Case, inputs: dict[str, Tensor]) -> tuple[Callable[[], Any], Verdict]:
    """The backward pass alone; the forward pass was run once, and what it kept stays."""
    names = list(way.operation.roles)
    leaves = [inputs[name].requires_grad_() for name in names]
    output = way.forward(case, inputs)
    generator = torch.Generator(case.device).manual_seed(7)
    d_output = torch.randn(output.shape, generator=generator, device=case.device, dtype=output.dtype)

    def backward() -> Sequence[Tensor]:
        return torch.autograd.grad(output, leaves, d_output, retain_graph=True, materialize_grads=True)

    gradients = dict(zip(names, backward(), strict=True))
    return backward, check_gradients(way.operation, case, inputs, d_output, gradients)


def _without_gradients(call: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with torch.no_grad():
            return call()

    return run


def _gpu_times(call: Callable[[], Any], case: Case, timer: Timer) -> Row:
    """Seconds of a call; of a single position also as a graph, because Python then takes longer than the GPU."""
    row: Row = {"ms": 1e3 * timed(call, timer)}
    if case.phase == "decode":
        try:
            row["graph ms"] = 1e3 * timed(timer.captured(call), timer)
        except Exception as error:  # not everything can be captured
            row["note"] = f"no graph: {_said(error)}"
    return row


def _share_of_floor(row: Mapping[str, Any], way: Way, case: Case, ceilings: Ceilings | None) -> Row:
    """The roofline's time and its share of the measured one."""
    if ceilings is None:
        return {}
    floor = 1e3 * way.operation.work(case).floor(ceilings)
    taken = row.get("graph ms") or row.get("ms")
    return {"floor ms": floor, "of floor": floor / taken if taken else None}


def _base(timed_ways: Sequence[str], ways: Sequence[Way]) -> str | None:
    """The first way of ours that has a time: what ratios are taken to."""
    own = {way.name for way in ways if way.ours}
    return next((name for name in timed_ways if name in own), None)
