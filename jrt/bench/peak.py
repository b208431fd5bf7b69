"""The most memory that a call holds at once, counted by torch's own allocators.

The size of the process would tell less: it keeps what was freed, and it counts the libraries.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def peak_bytes(call: Callable[[], Any], device: torch.device | str = "cpu") -> int:
    """Runs `call` once and returns by how many bytes its tensors exceeded, at most, what was there before.

    Args:
        call: what to run.
        device: where its tensors are; on CUDA the allocator's own figure, elsewhere the CPU's allocations one by one.

    Example:
        >>> peak_bytes(lambda: torch.zeros(1000, dtype=torch.uint8).sum()) >= 1000
        True
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with (
        _quiet_profiler(),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile,
    ):
        call()
    events: Any = profile.profiler
    changes = [event.nbytes() for event in events.kineto_results.events() if event.name() == "[memory]"]
    return max(itertools.accumulate(changes, initial=0))


@contextmanager
def _quiet_profiler() -> Iterator[None]:
    """The profiler reads from the environment how much it writes to stderr: by default two lines for every call."""
    before = os.environ.get("KINETO_LOG_LEVEL")
    os.environ["KINETO_LOG_LEVEL"] = "99" if before is None else before
    try:
        yield
    finally:
        if before is None:
            del os.environ["KINETO_LOG_LEVEL"]
