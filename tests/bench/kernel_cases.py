"""Small cases of the kernel benchmark and a timer for machines without a GPU, shared by its tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from jrt.bench.cells import Case, Cell, Phase
from jrt.bench.kernels_registry import WAYS
from jrt.bench.measuring import Machine, measure_on_gpu, measure_way
from jrt.bench.roofline import H200

CPU = torch.device("cpu")
LARGE = Machine(memory=1e12, ceilings=H200)


def case(phase: Phase = "prefill", length: int = 40, dtype: torch.dtype = torch.float32) -> Case:
    return Case(phase, 2, 2, length, CPU, dtype)


def measured(cell: Cell, ways: Sequence[Any], timer: Any, machine: Machine = LARGE) -> list[dict[str, Any]]:
    """What a GPU's process does, in this one."""
    return measure_on_gpu(cell, ways, machine, partial(measure_way, timer=timer, machine=machine))


def way_named(name: str) -> Any:
    return next(way for way in WAYS if way.name == name)


class FakeTimer:
    """Runs what it is given and claims that it took a millisecond for every character of the call's name."""

    def __init__(self, seconds: float = 0.01) -> None:
        self.each, self.rounds, self.graphs = seconds, list[int](), 0

    def seconds(self, call: Callable[[], Any], rounds: int) -> list[float]:
        self.rounds.append(rounds)
        for _ in range(min(rounds, 2)):
            call()
        return [self.each] * rounds

    def captured(self, call: Callable[[], Any]) -> Callable[[], Any]:
        self.graphs += 1
        return call
