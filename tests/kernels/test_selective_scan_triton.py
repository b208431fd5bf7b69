"""The Triton scan: right in the interpreter, no spills when compiled for GPUs that are not there, and its dispatch."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import types
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

sys.path.insert(0, str(Path(__file__).parent))
from scan_inputs import relative_error, scan_inputs, to

from jrt.kernels.selective_scan import Situation, choose, paths, selective_scan
from jrt.kernels.selective_scan.installed import selective_scan_mamba_ssm
from jrt.kernels.selective_scan.reference import selective_scan_reference

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
CUDA = torch.device("cuda")


@pytest.fixture(scope="module")
def interpreted() -> dict[str, dict[str, float]]:
    """The errors of every case of interpreted_scan.py."""
    script = Path(__file__).with_name("interpreted_scan.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, script], check=False, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    found: dict[str, dict[str, float]] = json.loads(run.stdout)
    return found


@needs_triton
@pytest.mark.parametrize("steps", ["one step", "15 steps", "16 steps", "17 steps", "130 steps"])
def test_equals_the_definition(interpreted: dict[str, dict[str, float]], steps: str) -> None:
    assert set(interpreted[steps]) == {"y", "state"}
    assert all(error < 1e-5 for error in interpreted[steps].values()), interpreted[steps]


@needs_triton
@pytest.mark.parametrize("case", ["gradients of 3 steps", "gradients of 64 steps", "gradients of 70 steps, padded"])
def test_all_gradients_equal_those_of_the_definition(interpreted: dict[str, dict[str, float]], case: str) -> None:
    assert len(interpreted[case]) == 9
    assert all(error < 1e-5 for error in interpreted[case].values()), interpreted[case]


@needs_triton
def test_gradients_without_memory_of_their_own(interpreted: dict[str, dict[str, float]]) -> None:
    assert interpreted["expanded gradient"]["u"] < 1e-5


@needs_triton
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("kernel", ["forward", "backward"])
def test_does_not_spill_more_than_the_committed_table(kernel: str, architecture: int) -> None:
    from jrt.kernels.selective_scan.resources import TABLE, resources

    (committed,) = [
        row
        for row in json.loads(TABLE.read_text())
        if (row["kernel"], row["architecture"], row["block_channels"]) == (kernel, architecture, 32)
    ]
    found = resources(kernel, architecture, 32)
    assert found["spilled_bytes"] <= committed["spilled_bytes"] == 0
    if version("triton").startswith("3.9."):  # the table's; another compiler lays out shared memory in another way
        assert found["shared_bytes"] <= committed["shared_bytes"]


@needs_triton
def test_a_gpu_without_mamba_ssm_takes_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mamba_ssm" else found(name))
    choice = choose(Situation(CUDA))
    assert choice.path == "triton" and "not installed" in dict(choice.passed_over)["mamba_ssm"]


def install(monkeypatch: pytest.MonkeyPatch, scan: Any, cuda: object = object()) -> None:
    """A stand-in for mamba-ssm."""
    names = ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.selective_scan_interface")
    modules = [types.ModuleType(name) for name in names]
    for name, module in zip(names, modules, strict=True):
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    vars(modules[-1]).update(selective_scan_fn=scan, selective_scan_cuda=cuda)


class Called(Exception):  # noqa: N818
    """Raised by a stand-in to end a call on tensors that hold nothing."""


def test_mamba_ssm_is_taken_for_the_calls_that_it_can_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    def selective_scan_fn(*args: Any, **kwargs: Any) -> Any:
        raise Called

    install(monkeypatch, selective_scan_fn)
    inputs = scan_inputs(state=False, dtype=torch.float32)
    with FakeTensorMode(), pytest.raises(Called):
        fake = {name: torch.empty(value.shape, device=CUDA) for name, value in inputs.items() if value is not None}
        selective_scan(**fake)
    assert choose(Situation(CUDA)).path == "mamba_ssm"
    for situation, reason in {
        Situation(CUDA, continued=True): "starts from zero",
        Situation(CUDA, gradients=True): "no gradient",
        Situation(CUDA, states=512): "256 states",
        Situation(torch.device("cpu")): "CUDA device",
    }.items():
        choice = choose(situation)
        assert choice.path != "mamba_ssm" and reason in dict(choice.passed_over)["mamba_ssm"]


def test_a_mamba_ssm_that_does_not_work_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, None, cuda=None)
    assert "without its CUDA part" in dict(choose(Situation(CUDA)).passed_over)["mamba_ssm"]
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops.selective_scan_interface", None)
    assert "does not import" in dict(choose(Situation(CUDA)).passed_over)["mamba_ssm"]
    with pytest.raises(RuntimeError, match="does not import"):
        selective_scan_mamba_ssm(**scan_inputs(state=False))


def test_mamba_ssm_gets_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with mamba-ssm's signature and demands gives the right output and state."""

    def selective_scan_fn(
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        z: Tensor | None = None,
        delta_bias: Tensor | None = None,
        delta_softplus: bool = False,
        return_last_state: bool = False,
    ) -> Any:
        assert delta_softplus and return_last_state
        assert {t.dtype for t in (u, delta, B, C, z) if t is not None} == {torch.bfloat16}
        assert {t.dtype for t in (A, D, delta_bias) if t is not None} == {torch.float32}
        return selective_scan_reference(u, delta, A, B, C, D, z, delta_bias)

    install(monkeypatch, selective_scan_fn)
    inputs = to(scan_inputs(state=False), torch.bfloat16)
    found = paths.implementation("mamba_ssm")(**inputs)
    for ours, right in zip(found, selective_scan_reference(**inputs), strict=True):
        assert relative_error(ours, right) < 1e-6
    with pytest.raises(RuntimeError, match="starts from zero"):
        selective_scan_mamba_ssm(**to(scan_inputs(), torch.bfloat16))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_no_worse_than_twice_plain_torch(dtype: torch.dtype) -> None:
    inputs = to(scan_inputs(2, 1536, 16, 1000, masked=True), dtype)
    inputs = {name: None if value is None else value.cuda() for name, value in inputs.items()}
    right = selective_scan_reference(**to(inputs, torch.float64))
    plain, found = (paths.implementation(path)(**inputs) for path in ("torch", "triton"))
    for ours, theirs, exact in zip(found, plain, right, strict=True):
        assert relative_error(ours, exact) <= 2 * relative_error(theirs, exact) + 1e-6
