"""The causal convolution against its definition: strides, states, gradients, and the package when it is there."""

from __future__ import annotations

import sys
import types
from importlib.machinery import ModuleSpec
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import jrt.kernels.causal_conv1d as module
from jrt.kernels.causal_conv1d import causal_conv1d


def inputs(rows: int, channels: int, width: int, steps: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(rows, channels, steps), (channels, width), (channels,), (rows, channels, width - 1)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def by_definition(x: Tensor, weight: Tensor, bias: Tensor, state: Tensor) -> Tensor:
    seen, (_, width) = torch.cat([state, x], -1).double(), weight.shape
    columns = [
        bias.double() + sum(weight[:, k].double() * seen[..., t + k] for k in range(width)) for t in range(x.shape[-1])
    ]
    return F.silu(torch.stack(columns, -1))


@pytest.fixture(params=["auto", "torch"])
def switch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JRT_KERNELS", request.param)


@pytest.mark.usefixtures("switch")
@pytest.mark.parametrize("sizes", [(1, 1, 4, 1), (2, 21, 4, 2), (2, 16, 3, 63), (1, 40, 2, 64), (3, 33, 4, 200)])
def test_equals_the_definition(sizes: tuple[int, int, int, int]) -> None:
    x, weight, bias, state = inputs(*sizes)
    y, final = causal_conv1d(x, weight, bias, state)
    torch.testing.assert_close(y.double(), by_definition(x, weight, bias, state), rtol=1e-5, atol=1e-5)
    assert torch.equal(final, torch.cat([state, x], -1)[..., -(weight.shape[1] - 1) :])


@pytest.mark.usefixtures("switch")
def test_no_bias_no_state_no_activation() -> None:
    x, weight, _, _ = inputs(2, 21, 4, 30)
    y, _ = causal_conv1d(x, weight, silu=False)
    right = F.conv1d(F.pad(x, (3, 0)), weight[:, None], groups=21)
    torch.testing.assert_close(y, right, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("switch")
def test_strided_inputs_as_the_mixers_pass_them() -> None:
    x, weight, bias, state = inputs(2, 21, 4, 70)
    wide = torch.full((2, 70, 45), float("nan"))
    wide[..., 3:24] = x.transpose(1, 2)
    right, found = (
        causal_conv1d(x, weight, bias, state),
        causal_conv1d(wide[..., 3:24].mT, weight.t().clone().t(), bias, state),
    )
    for ours, theirs in zip(found, right, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("switch")
@settings(deadline=None, max_examples=20)
@given(cuts=st.sets(st.integers(1, 79), max_size=5))
def test_any_chunks_are_the_whole(cuts: set[int]) -> None:
    x, weight, bias, state = inputs(2, 21, 4, 80)
    whole, final = causal_conv1d(x, weight, bias, state)
    parts = []
    for first, last in pairwise([0, *sorted(cuts), 80]):
        part, state = causal_conv1d(x[..., first:last], weight, bias, state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, -1), whole, rtol=1e-5, atol=1e-5)
    assert torch.equal(state, final)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    x, weight, bias, state = inputs(2, 21, 4, 80, dtype)
    y, final = causal_conv1d(x, weight, bias, state)
    right = by_definition(x, weight, bias, state)
    assert y.dtype == final.dtype == dtype
    assert (y.double() - right).norm() / right.norm() < torch.finfo(dtype).eps


def test_gradients() -> None:
    tensors = [tensor.requires_grad_() for tensor in inputs(2, 3, 4, 6, torch.float64)]
    assert torch.autograd.gradcheck(causal_conv1d, tensors)


def test_shapes_are_checked() -> None:
    x, weight, bias, state = inputs(2, 5, 4, 6)
    with pytest.raises(ValueError, match=r"initial_state has shape \(2, 5, 2\); it has to be \(2, 5, 3\)"):
        causal_conv1d(x, weight, bias, state[..., 1:])
    with pytest.raises(ValueError, match=r"weight \(D, K\)"):
        causal_conv1d(x[:, 1:], weight)


class Called(Exception):  # noqa: N818
    """Raised by a stand-in to end a call on tensors that hold nothing."""


def test_the_package_is_taken_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for causal-conv1d is reached by fake CUDA tensors that fit it, and not by others."""

    def causal_conv1d_fn(*args: Any, **kwargs: Any) -> Tensor:
        raise Called

    install(monkeypatch, causal_conv1d_fn)
    with FakeTensorMode():
        x, weight = torch.empty(2, 5, 9, device="cuda"), torch.empty(5, 4, device="cuda")
        with pytest.raises(Called):
            causal_conv1d(x, weight)
        causal_conv1d(torch.empty(2, 5, 9), torch.empty(5, 4))
        monkeypatch.setenv("JRT_KERNELS", "torch")
        with pytest.raises(RuntimeError, match="not linked"):  # torch's own, as far as it gets without a GPU
            causal_conv1d(x, weight)


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_the_package_gets_what_it_takes(monkeypatch: pytest.MonkeyPatch, steps: int, with_state: bool) -> None:
    """A stand-in that computes what causal-conv1d does, which begins at zero, gives the right output and state."""

    def causal_conv1d_fn(x: Tensor, weight: Tensor, bias: Tensor, activation: str | None) -> Tensor:
        y = F.conv1d(F.pad(x, (3, 0)), weight[:, None], bias, groups=x.shape[1])
        return F.silu(y) if activation == "silu" else y

    x, weight, bias, state = inputs(2, 5, 4, steps)
    start = state if with_state else None
    install(monkeypatch, causal_conv1d_fn)
    found = module._by_package(module._package(), x, weight, bias, start, True)
    for ours, theirs in zip(found, causal_conv1d(x, weight, bias, start), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def install(monkeypatch: pytest.MonkeyPatch, function: Any) -> None:
    package = types.ModuleType("causal_conv1d")
    package.__spec__ = ModuleSpec("causal_conv1d", None)
    package.causal_conv1d_fn = function  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "causal_conv1d", package)
