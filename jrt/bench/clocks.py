"""How the kernel benchmark takes times: on a CPU in turns, on a GPU with events, one way after the other.

A GPU call is timed by two events around it. Before each, a buffer larger than the cache is overwritten, so that inputs
come from memory as they do inside a model; what is reported is the median of enough rounds. Only `CudaTimer` needs a
GPU: the rest takes any timer.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any, Protocol

import torch

_WARM_UP = 3
_SECONDS = 0.15  # of timed work for one way in one cell
_ROUNDS = (3, 60)
_CACHE = 256 << 20  # bytes that are overwritten between rounds; the H200's second-level cache has 50 MB


class Timer(Protocol):
    """Times calls on a device."""

    def seconds(self, call: Callable[[], Any], rounds: int) -> list[float]:
        """Runs `call` that often and returns what each took."""
        ...

    def captured(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """The same work without what Python costs."""
        ...


class CudaTimer:
    """CUDA events around every call."""

    def __init__(self) -> None:
        self._cache = torch.empty(_CACHE, dtype=torch.int8, device="cuda")

    def seconds(self, call: Callable[[], Any], rounds: int) -> list[float]:
        pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(rounds)]
        for start, end in pairs:
            self._cache.zero_()
            start.record()
            call()
            end.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1e3 for start, end in pairs]

    def captured(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """`call` as a CUDA graph."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        replay: Callable[[], Any] = graph.replay
        return replay


def timed(call: Callable[[], Any], timer: Timer) -> float:
    """Median seconds of as many rounds as fit a fixed time, within bounds, after a warm-up (kernels compile then)."""
    once = timer.seconds(call, 1)[0]
    if once < _SECONDS:
        once = min(timer.seconds(call, _WARM_UP))
    rounds = int(min(max(_SECONDS / max(once, 1e-9), _ROUNDS[0]), _ROUNDS[1]))
    return median(timer.seconds(call, rounds))
