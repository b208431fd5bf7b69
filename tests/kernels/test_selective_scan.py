"""The selective scan on a CPU against its float64 definition: values, states, gradients, chunks, padding, strides."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

sys.path.insert(0, str(Path(__file__).parent))
from scan_inputs import relative_error, scan_inputs, to

from jrt.kernels.selective_scan import Situation, choose, compiled, selective_scan
from jrt.kernels.selective_scan.cpu import selective_scan_torch
from jrt.kernels.selective_scan.reference import selective_scan_reference

Scan = Callable[..., tuple[Tensor, Tensor]]
PATHS: list[Any] = [pytest.param(selective_scan_torch, id="torch")]
if compiled.NATIVE.unavailable() is None:
    PATHS.append(pytest.param(compiled.selective_scan_compiled, id="compiled"))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("steps", [1, 15, 16, 17, 33, 130, 1000])
@pytest.mark.parametrize("scan", PATHS)
def test_equals_the_definition_in_float64(scan: Scan, steps: int, state: bool, masked: bool) -> None:
    inputs = scan_inputs(steps=steps, state=state, masked=masked and steps > 2)
    right = selective_scan_reference(**inputs)
    found = scan(**to(inputs, torch.float32))
    for ours, theirs in zip(found, right, strict=True):
        assert ours.dtype == torch.float32 and ours.shape == theirs.shape
        assert relative_error(ours, theirs) < 1e-5


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 16, 16), (1, 40, 8), (2, 33, 37)])
@pytest.mark.parametrize("scan", PATHS)
def test_any_number_of_rows_channels_and_states(scan: Scan, sizes: tuple[int, int, int]) -> None:
    inputs = scan_inputs(*sizes, steps=70)
    for ours, theirs in zip(scan(**to(inputs, torch.float32)), selective_scan_reference(**inputs), strict=True):
        assert relative_error(ours, theirs) < 1e-5


@pytest.mark.parametrize("left_out", [("D",), ("z",), ("delta_bias",), ("D", "z", "delta_bias", "initial_state")])
@pytest.mark.parametrize("scan", PATHS)
def test_optional_arguments(scan: Scan, left_out: tuple[str, ...]) -> None:
    inputs = scan_inputs() | dict.fromkeys(left_out)
    for ours, theirs in zip(scan(**to(inputs, torch.float32)), selective_scan_reference(**inputs), strict=True):
        assert relative_error(ours, theirs) < 1e-5


@pytest.mark.parametrize("scan", PATHS)
def test_strided_inputs_as_the_mixers_pass_them(scan: Scan) -> None:
    inputs = to(scan_inputs(steps=70), torch.float32)
    right = scan(**inputs)
    strided = dict(inputs)
    for name in ("u", "z", "B", "C"):  # (B, T, K) in memory, cut out of something wider
        wide = torch.full((*inputs[name].shape[:1], 70, inputs[name].shape[1] + 3), float("nan"))
        wide[..., 1:-2] = inputs[name].transpose(1, 2)
        strided[name] = wide[..., 1:-2].transpose(1, 2)
    strided["delta"] = torch.stack([inputs["delta"]] * 2, dim=-1)[..., 0]
    strided["initial_state"] = inputs["initial_state"].transpose(1, 2).contiguous().transpose(1, 2)
    strided["A"] = inputs["A"].t().contiguous().t()
    for ours, theirs in zip(scan(**strided), right, strict=True):
        assert relative_error(ours, theirs) < 1e-6


@settings(deadline=None, max_examples=25)
@given(steps=st.integers(2, 80), cuts=st.sets(st.integers(1, 79), max_size=4), seed=st.integers(0, 99))
@pytest.mark.parametrize("scan", PATHS)
def test_any_chunks_are_the_whole(scan: Scan, steps: int, cuts: set[int], seed: int) -> None:
    inputs = to(scan_inputs(steps=steps, seed=seed), torch.float32)
    whole, final = scan(**inputs)
    state, parts = inputs["initial_state"], []
    borders = [0, *sorted(cut for cut in cuts if cut < steps), steps]
    for first, last in pairwise(borders):
        along_time = {name: inputs[name][..., first:last] for name in ("u", "delta", "B", "C", "z")}
        part, state = scan(**(inputs | along_time | dict(initial_state=state)))
        parts.append(part)
    assert relative_error(torch.cat(parts, -1), whole) < 1e-5
    assert relative_error(state, final) < 1e-5


@pytest.mark.parametrize("scan", PATHS)
def test_padding_leaves_no_trace(scan: Scan) -> None:
    """Padding at the beginning, inside and at the end of a row gives what the row without it gives."""
    inputs = to(scan_inputs(rows=1, steps=30), torch.float32)
    mask = torch.ones(1, 30, dtype=torch.bool)
    mask[0, [0, 1, 12, 13, 14, 29]] = False
    kept = {name: inputs[name][..., mask[0]] for name in ("u", "delta", "B", "C", "z")}
    right, final = scan(**(inputs | kept))
    found, state = scan(**(inputs | dict(mask=mask)))
    assert relative_error(found[..., mask[0]], right) < 1e-6
    assert relative_error(state, final) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scan", PATHS)
def test_sums_stay_in_float32_for_half_precision_inputs(scan: Scan, dtype: torch.dtype) -> None:
    inputs = to(scan_inputs(steps=300), dtype)
    y, state = scan(**inputs)
    right, final = selective_scan_reference(**to(inputs, torch.float64))
    assert y.dtype == dtype and state.dtype == torch.float32
    assert relative_error(state, final) < 1e-5  # the inputs are the same numbers; only the output is rounded
    assert relative_error(y, right) < torch.finfo(dtype).eps


@pytest.mark.parametrize("scan", PATHS)
def test_large_steps_and_growing_states_stay_right(scan: Scan) -> None:
    inputs = scan_inputs(steps=20)
    inputs["delta"] *= 60  # softplus from 1e-26 to 180: decays of exp(-1000) are zero, and nothing overflows
    inputs["A"][0] = 0.01  # a state that grows
    for ours, theirs in zip(scan(**to(inputs, torch.float32)), selective_scan_reference(**inputs), strict=True):
        assert relative_error(ours, theirs) < 1e-5


@pytest.mark.parametrize("scan", PATHS)
def test_what_is_not_a_number_stays_visible(scan: Scan) -> None:
    inputs = to(scan_inputs(rows=1, steps=5), torch.float32)
    inputs["u"][0, 3, 2] = float("nan")
    y, state = scan(**inputs)
    assert y[0, 3, 2:].isnan().all() and state[0, 3].isnan().all()
    assert y[0, :3].isfinite().all() and y[0, 3, :2].isfinite().all()


def test_compiled_shares_the_work_among_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    if compiled.NATIVE.unavailable() is not None:
        pytest.skip("no compiler")
    inputs = to(scan_inputs(rows=2, channels=700, states=16, steps=50), torch.float32)
    one = compiled.selective_scan_compiled(**inputs)
    for threads in (2, 3, 64):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        for ours, theirs in zip(compiled.selective_scan_compiled(**inputs), one, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("scan", [selective_scan_reference, selective_scan_torch])
def test_gradients(scan: Scan) -> None:
    """All nine gradients of output and final state, over a border between two blocks."""
    inputs = scan_inputs(rows=2, channels=3, states=2, steps=35)
    names = [name for name, value in inputs.items() if isinstance(value, Tensor)]
    for name in names:
        inputs[name].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *values: scan(**dict(zip(names, values, strict=True))), [inputs[name] for name in names], fast_mode=True
    )


def test_gradients_with_padding_are_those_of_the_definition() -> None:
    inputs = scan_inputs(steps=40, masked=True)
    names = [name for name, value in inputs.items() if isinstance(value, Tensor) and value.is_floating_point()]
    found = []
    for scan in (selective_scan_reference, selective_scan_torch):
        leaves = inputs | {name: inputs[name].clone().requires_grad_() for name in names}
        y, state = scan(**leaves)
        (y.square().sum() + state.sin().sum()).backward()
        found.append([leaves[name].grad for name in names])
    for name, right, ours in zip(names, *found, strict=True):
        assert relative_error(ours, right) < 1e-10, name


def test_backward_runs_in_float32_through_the_public_function() -> None:
    inputs = to(scan_inputs(steps=40), torch.float32)
    inputs["u"].requires_grad_()
    selective_scan(**inputs)[0].sum().backward()
    assert inputs["u"].grad.isfinite().all() and inputs["u"].grad.abs().sum() > 0


def test_shapes_are_checked() -> None:
    inputs = scan_inputs()
    with pytest.raises(ValueError, match=r"B has shape \(2, 5, 17\).*\(2, 6, 17\)"):
        selective_scan(**(inputs | dict(B=inputs["B"][:, :5])))
    with pytest.raises(ValueError, match="T >= 1"):
        selective_scan(**(inputs | dict(u=inputs["u"][..., :0])))


def test_torch_is_taken_where_the_compiled_path_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    reasons = {
        Situation(cpu, gradients=True): "no backward pass",
        Situation(cpu, dtype=torch.float64): "float32",
        Situation(torch.device("meta")): "the CPU only",
        Situation(cpu, readable=False): "no memory to read",
    }
    for situation, reason in reasons.items():
        choice = choose(situation)
        assert choice.path == "torch" and reason in dict(choice.passed_over)["compiled"]
    monkeypatch.setenv("JRT_KERNELS", "torch")
    choice = choose(Situation(cpu))
    assert choice.path == "torch" and "JRT_KERNELS" in dict(choice.passed_over)["compiled"]
    monkeypatch.setenv("JRT_KERNELS", "fast")
    with pytest.raises(ValueError, match="'auto' or 'torch'"):
        choose(Situation(cpu))


def test_fake_tensors_are_not_handed_to_compiled_code() -> None:
    """They have no memory: reading it would end the process."""
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        fake = {name: None if value is None else mode.from_tensor(value) for name, value in scan_inputs().items()}
        y, state = selective_scan(**to(fake, torch.float32))
    assert y.shape == fake["u"].shape and state.shape == fake["initial_state"].shape
