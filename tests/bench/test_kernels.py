"""The kernel benchmark without a GPU: every way is right, wrong ones are found and not timed, the clock is obeyed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from kernel_cases import CPU, LARGE, FakeTimer, case, measured, way_named

from jrt.bench import kernels, kernels_infini, kernels_taylor
from jrt.bench.cells import PHASES, Case, Cell, Phase, ends
from jrt.bench.clocks import CudaTimer, timed
from jrt.bench.kernels_registry import WAYS
from jrt.bench.measuring import measure_on_cpu, prepare, seconds_expected
from jrt.bench.roofline import H200
from jrt.errors import InvalidOptionError


@pytest.mark.parametrize(
    ("way", "phase"),
    [
        pytest.param(way, phase, id=f"{way.group}-{way.name}-{phase}")
        for way in WAYS
        if "cpu" in way.devices
        for phase in way.phases
    ],
)
@pytest.mark.parametrize("length", [40, 1100])
def test_every_way_is_right(way: Any, phase: Phase, length: int) -> None:
    """Of a short sequence every position is compared, of a long one both ends; gradients too."""
    at = Case(phase, 1, 1 if way.group == "scan" else 2, length, CPU, torch.float32)  # a scan has 96 channels a head
    if (reason := way.obstacle(at)) is not None:
        assert way.name == "scan, compiled", reason  # no compiler, or a backward pass
        return
    _, verdict = prepare(way, at)
    assert verdict.right, verdict


@pytest.mark.parametrize("phase", ["prefill", "backward"])
@pytest.mark.parametrize("name", ["Infini-attention", "Infini-attention, delta"])
def test_infini_over_several_segments(name: str, phase: Phase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels_infini, "SEGMENT", 16)
    monkeypatch.setitem(kernels_infini._OPTIONS, "segment_length", 16)
    _, verdict = prepare(way_named(name), case(phase, 100))
    assert verdict.right, verdict
    forgetful = replace(way_named("causal SDPA"), operation=way_named(name).operation)
    assert not prepare(forgetful, case(phase, 100))[1].right


def _broken(way: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return replace(way, forward=lambda at, inputs: change(way.forward(at, inputs)))


def last_position(output: Tensor) -> Tensor:
    """Off by a thousandth, at the last position of the last head of the last row."""
    output = output.clone()
    output[-1, -1, -1] *= 1.003
    return output


@pytest.mark.parametrize("phase", ["prefill", "backward"])
@pytest.mark.parametrize("name", ["taylor", "taylor with prefix (PLA)", "sliding window"])
def test_one_wrong_position_is_found_and_not_timed(name: str, phase: Phase) -> None:
    way, timer = replace(way_named(name), ours=True), FakeTimer()
    wrong = replace(_broken(way, last_position), name="wrong", ours=False)
    cell = Cell(way.group, case(phase, 1100))
    right_row, wrong_row = measured(cell, [way, wrong], timer)
    assert right_row["ms"] == 10 and right_row["ratio"] == 1 and right_row["note"] == ""
    assert wrong_row["note"].startswith("WRONG") and wrong_row["ms"] is None and wrong_row["error"] > 1e-5
    found = {row["way"]: row for row in measure_on_cpu(cell, [way, wrong], rounds=1)}
    assert found[name]["CPU ms"] > 0 and found["wrong"]["CPU ms"] is None


def test_not_a_number_is_wrong() -> None:
    way = _broken(way_named("taylor"), lambda output: output * float("nan"))
    assert not prepare(way, case())[1].right
    (row,) = measured(Cell("taylor", case()), [way], FakeTimer())
    assert row["note"] == "WRONG (output is not finite), not timed" and row["error"] is None  # JSON knows no NaN


def test_sixteen_bits_may_be_off_twice_as_far_as_plain_torch() -> None:
    way, at = way_named("taylor"), case(dtype=torch.bfloat16)
    _, verdict = prepare(way, at)
    assert verdict.right and verdict.error > 1e-4
    assert not prepare(_broken(way, lambda output: output * 1.05), at)[1].right


@pytest.mark.parametrize("phase", PHASES)
def test_times_ratios_and_floors(phase: Phase) -> None:
    """A fake timer in place of the GPU's; everything else is what runs there."""
    timer, at = FakeTimer(seconds=0.02), case(phase)
    ours, other = way_named("taylor"), way_named("causal SDPA")
    rows = measured(Cell("taylor", at), [other, ours], timer)
    assert [row["way"] for row in rows] == ["causal SDPA", "taylor"]
    for row, way in zip(rows, (other, ours), strict=True):
        floor = 1e3 * way.operation.work(at).floor(H200)
        assert row["ms"] == 20 and row["ratio"] == 1
        assert row["floor ms"] == floor and row["of floor"] == floor / 20
        assert row["graph ms"] == (20 if phase == "decode" else None)
    assert timer.graphs == (2 if phase == "decode" else 0)
    assert measured(Cell("taylor", at), [ours], timer, replace(LARGE, ceilings=None))[0]["floor ms"] is None


def test_what_cannot_be_measured_says_why() -> None:
    def explode(at: Case, inputs: Any) -> Tensor:
        raise RuntimeError("no kernel image is available\nand more")

    def exhaust(at: Case, inputs: Any) -> Tensor:
        raise torch.OutOfMemoryError("too much")

    def refuse(at: Case) -> str | None:
        raise AssertionError("no CUDA")

    ours = way_named("taylor")
    ways = [
        replace(ours, name="explodes", forward=explode),
        replace(ours, name="exhausts", forward=exhaust),
        replace(ours, name="obstacle", obstacle=lambda at: "is not installed"),
        replace(ours, name="unknown", obstacle=refuse),
        replace(ours, name="elsewhere", devices=("cuda",)),
        replace(ours, name="large", temporary=lambda at: 1e12),
        replace(ours, name="slow", cost=lambda at: kernels_taylor.Work(790e12, 0)),
    ]
    notes = {row["way"]: row["note"] for row in measured(Cell("taylor", case()), ways, FakeTimer())}
    assert notes == {
        "explodes": "RuntimeError: no kernel image is available",
        "exhausts": "does not fit",
        "obstacle": "is not installed",
        "unknown": "AssertionError: no CUDA",
        "large": "does not fit: about 1006 GB, 1000 GB are free",
        "slow": "left out: one call takes about 2.9 s",
    }
    assert seconds_expected(Cell("taylor", case()), ways, LARGE) == pytest.approx(0.8, abs=0.01)
    cpu = measure_on_cpu(Cell("taylor", case()), ways[:5], rounds=1)
    assert [row["note"] for row in cpu] == list(notes.values())[:4]


@pytest.mark.parametrize(("once", "rounds"), [(1e-6, [1, 3, 60]), (0.01, [1, 3, 15]), (3.0, [1, 3])])
def test_as_many_rounds_as_fit(once: float, rounds: list[int]) -> None:
    timer = FakeTimer(once)
    assert timed(lambda: None, timer) == once
    assert timer.rounds == rounds


def test_based_kernels_of_fla_are_given_their_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the package: sequence first, and dense once it has put heads first."""
    seen: list[tuple[int, ...]] = []

    def based(q: Tensor, k: Tensor, v: Tensor, use_norm: bool = False) -> Tensor:
        assert use_norm and all(tensor.transpose(1, 2).is_contiguous() for tensor in (q, k, v))  # not copied
        seen.append(tuple(q.shape))
        s = torch.einsum("bihd,bjhd->bhij", q, k) / 4
        weights = (1 + s + s * s / 2).tril()
        return torch.einsum("bhij,bjhd->bihd", weights / weights.sum(-1, keepdim=True), v)

    package: Any = ModuleType("fla.ops.based")
    package.parallel_based = package.fused_chunk_based = based
    for name in ("fla", "fla.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "fla.ops.based", package)
    for name in ("fla fused_chunk_based", "fla parallel_based"):
        _, verdict = prepare(way_named(name), case())
        assert verdict.right
    assert seen == [(2, 40, 2, 16)] * 2


def test_a_run_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    threads = torch.get_num_threads()
    report = kernels.run(lengths="24,48", heads=2, rounds=1, groups="window,taylor", plot_to=tmp_path / "kernels.png")
    assert torch.get_num_threads() == threads
    assert "GPU times are not measured" in report.notes
    assert [row["group"] for row in report.rows] == sorted(row["group"] for row in report.rows)
    ours = [row for row in report.rows if row["way"] == "taylor"]
    assert [(row["phase"], row["positions"]) for row in ours] == [(p, t) for p in PHASES for t in (24, 48)]
    assert all(row["ratio"] == 1 and row["error"] < 1e-5 for row in ours)
    assert len(list(report.tables())) == 1 and (tmp_path / "kernels.png").stat().st_size > 1000
    assert kernels.run(lengths="24", heads=1, rounds=1, budget_minutes=0.0).settings["left_out"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": "tailor"}, "no 'tailor' here. Did you mean 'taylor'"),
        ({"phases": "prefill,back"}, "no 'back' here"),
        ({"batches": "1,x"}, "--batches '1,x': 'x' is no number"),
        ({"lengths": "0"}, "--lengths '0': '0' is no number of 1 or more"),
        ({"device": "cuda"}, "has no CUDA device"),
        ({"device": "tpu"}, "no device 'tpu'"),
        ({"tune": True}, "tuned on a GPU"),
    ],
)
def test_what_cannot_be_asked(options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InvalidOptionError, match=message):
        kernels.run(**({"lengths": "8"} | options))


def test_what_cannot_be_captured_keeps_its_time() -> None:
    class Uncaptured(FakeTimer):
        def captured(self, call: Callable[[], Any]) -> Callable[[], Any]:
            raise RuntimeError("operation not permitted when stream is capturing")

    (row,) = measured(Cell("taylor", case("decode")), [way_named("taylor")], Uncaptured())
    assert row["ms"] == 10 and row["graph ms"] is None and row["note"].startswith("no graph: RuntimeError")


def test_an_end_that_is_wrong_is_not_hidden_by_the_beginning() -> None:
    """At 32768 positions an output is a hundred times smaller than at the first."""

    def wrong(output: Tensor) -> Tensor:
        output = output.clone()
        output[..., -64:, :] *= 1.05
        return output

    way, at = way_named("taylor"), Case("prefill", 1, 1, 32768, CPU, torch.bfloat16)
    assert prepare(way, at)[1].right
    assert not prepare(_broken(way, wrong), at)[1].right


def test_positions_that_are_compared() -> None:
    assert torch.equal(ends(1024), torch.arange(1024))
    assert ends(5000).tolist() == [*range(64), *range(4936, 5000)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_events_measure_what_a_call_takes() -> None:
    timer, x = CudaTimer(), torch.randn(4096, 4096, device="cuda")
    short, long = (timed(call, timer) for call in (lambda: x @ x, lambda: x @ x @ x @ x @ x))
    assert 2.5 < long / short < 6
    assert timed(timer.captured(lambda: x @ x), timer) == pytest.approx(short, rel=0.3)
