"""A run of the kernel benchmark: the order of its cells, the clock, and what happens to what breaks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import worker_subject
from kernel_cases import FakeTimer, case

from jrt.bench import kernels, running
from jrt.bench.cells import PHASES, Cell, by_priority
from jrt.bench.kernels_registry import GROUPS
from jrt.bench.worker import LostError


def test_the_published_benchmark_comes_first() -> None:
    cells = running.plan(GROUPS, PHASES, [1, 2, 16, 64], [1024, 32768, 262144], case())
    assert cells[0] == Cell("taylor", replace(case(), batch=16, length=32768))
    assert {(cell.group, cell.case.phase) for cell in cells[:9]} >= {("taylor", phase) for phase in PHASES}
    assert {cell.group for cell in cells[:20]} == set(GROUPS)
    assert ("scan", "decode") not in {(cell.group, cell.case.phase) for cell in cells}
    assert len(cells) == len(set(cells)) == 12 * (3 + 3 + 2 + 2)
    assert by_priority(cells[::-1], GROUPS) == cells


def test_the_clock_is_obeyed_and_the_table_is_in_order() -> None:
    cells = [Cell("window", case(length=8)), Cell("taylor", case("decode", 4)), Cell("taylor", case(length=2))]
    seconds = {8: 5.0, 4: 50.0, 2: 3.0}
    now = [0.0]

    def measure(cell: Cell) -> list[dict[str, Any]]:
        now[0] += seconds[cell.case.length]
        return [{"length": cell.case.length}]

    rows, left_out = running.within(cells, measure, lambda cell: seconds[cell.case.length], 10.0, lambda: now[0])
    assert [row["length"] for row in rows] == [2, 8]
    assert left_out == ["taylor decode batch 2 positions 4"]


class Here:
    """A `Worker` without a process; what it is to lose is lost."""

    def __init__(self, timer: Any, lose: str | None = None, unusable: str | None = None) -> None:
        self.timer, self.lose, self.unusable = timer, lose, unusable
        self.asked, self.closed, self.limits = list[str](), 0, list[float]()

    def ask(self, function: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
        name = arguments[1] if function is running._measured else function.__name__
        self.asked.append(name)
        self.limits.append(seconds)
        if name == self.lose:
            raise LostError("the process died (SIGSEGV)")
        answer = function(self.timer, *arguments)
        return (answer[0], False) if name == self.unusable else answer

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch says where there is an H200."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (100e9, 140e9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


def test_a_run_on_a_gpu(gpu: None) -> None:
    """But for the events and the other process."""
    worker: Any = Here(FakeTimer())
    stop = time.monotonic() + 600
    measure, expected = running.on_gpu(worker, stop)
    cells = [Cell(group, case(length=30)) for group in GROUPS]
    rows, left_out = running.within(cells, measure, expected, stop)
    assert not left_out and {row["group"] for row in rows} == set(GROUPS)
    assert all(row["ms"] == 10 and row["floor ms"] > 0 for row in rows if row["note"] == "")
    assert len({tuple(row) for row in rows}) == 1
    assert worker.asked.count("_machine") == 1 and worker.closed == 0


def test_a_way_that_breaks_something_is_not_tried_again_and_the_others_are(gpu: None) -> None:
    for broken, note, again in (
        (dict(lose="taylor"), "the process died (SIGSEGV)", "left out: the process died (SIGSEGV) at another size"),
        (dict(unusable="taylor"), "", "left out: it broke the device at another size"),
    ):
        worker: Any = Here(FakeTimer(), **broken)
        measure, _ = running.on_gpu(worker, time.monotonic() + 600)
        first, second, backward = (measure(Cell("taylor", at)) for at in (case(), case(length=20), case("backward")))
        assert [row["way"] for row in first] == [row["way"] for row in second]
        assert (first[0]["way"], first[0]["note"], second[0]["note"]) == ("taylor", note, again)
        assert not [row for row in [*first[1:], *second[1:], *backward[1:]] if not row["ms"]]
        assert worker.asked.count("taylor") == 2  # once a phase
        assert worker.closed == (2 if "unusable" in broken else 0)


def test_a_way_that_is_not_ready_in_time_is_left_out(gpu: None) -> None:
    worker: Any = Here(FakeTimer(), lose="causal SDPA")
    now = [0.0]
    measure, _ = running.on_gpu(worker, 50.0, lambda: now[0])
    now[0] = 20.0
    measure(Cell("taylor", case()))
    assert max(worker.limits[1:]) == 30.0
    now[0] = 51.0
    rows = measure(Cell("taylor", case(length=20)))
    assert {row["note"] for row in rows if row["way"] != "causal SDPA"} == {"left out: the time was up"}


def test_a_gpu_that_does_not_answer_is_reported(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose device fails; the report is there all the same."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(running, "use_gpu", worker_subject.start_badly)
    found = kernels.run(lengths="24", batches="1", groups="scan", tune=True)
    assert found.rows == [] and found.settings["broken"] == "the process died (exit code 1)"
    assert len(found.settings["left_out"]) == 2 and "could not be used" in found.notes


def test_tuning_is_asked_of_the_kernels_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from jrt.kernels.taylor import tune
    from jrt.kernels.taylor.tuning import Launch

    worker: Any = Here(FakeTimer())
    monkeypatch.setattr(tune, "tune", lambda seconds: {"forward/bf16/64": (Launch(num_warps=8), seconds)})
    found = running.tuned_on_gpu(worker, 30.0)
    assert found["forward/bf16/64"]["ms"] == 30.0 and found["forward/bf16/64"]["num_warps"] == 8
    assert 30.0 < worker.limits[0] < 200.0

    def full(seconds: float) -> None:
        raise OSError("read-only")

    monkeypatch.setattr(tune, "tune", full)
    assert running.tuned_on_gpu(worker, 30.0) == {"error": "OSError: read-only"}
    assert "SIGSEGV" in running.tuned_on_gpu(Here(None, lose="_tuned"), 30.0)["error"]  # type: ignore[arg-type]
