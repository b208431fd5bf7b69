"""The causal convolution on a CPU as machine code: reads strided inputs where they lie and applies SiLU on the way."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from jrt.kernels.causal_conv1d.reference import causal_conv1d_torch
from jrt.kernels.native import Native, Sequence, address, contiguous, threads_for


class _Arguments(ctypes.Structure):
    """The same order as in conv.cpp."""

    _fields_ = [
        ("x", Sequence),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "initial_state", "y", "state")),
        *((name, ctypes.c_int64) for name in ("rows", "channels", "width", "steps", "silu", "threads")),
    ]


def causal_conv1d_compiled(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor]:
    """`causal_conv1d` for CPU tensors without gradients, in float32.

    Raises:
        RuntimeError: there is no compiled code; `NATIVE.unavailable()` says why.
    """
    return _call(NATIVE.library(), x, weight, bias, initial_state, silu)


def _call(
    library: ctypes.CDLL, x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor]:
    (rows, channels, steps), width = x.shape, weight.shape[1]
    values = x.detach().float()
    given = dict(weight=weight, bias=bias, initial_state=initial_state)
    arrays = {name: contiguous(tensor) for name, tensor in given.items()}
    y = x.new_empty(rows, steps, channels, dtype=torch.float32)
    state = x.new_empty(rows, channels, width - 1, dtype=torch.float32)
    arguments = _Arguments(
        x=Sequence.of(values),
        **{name: address(tensor) for name, tensor in arrays.items()},
        y=y.data_ptr(),
        state=state.data_ptr(),
        rows=rows,
        channels=channels,
        width=width,
        steps=steps,
        silu=silu,
        threads=threads_for(rows * channels * width * steps),
    )
    library.jrt_causal_conv1d(ctypes.byref(arguments))
    return y.transpose(1, 2).to(x.dtype), state.to(x.dtype)


def _check(library: ctypes.CDLL) -> None:
    """Compares a small convolution with torch's, so that a miscompiled library is never used."""
    library.jrt_causal_conv1d.argtypes = [ctypes.POINTER(_Arguments)]
    library.jrt_causal_conv1d.restype = None
    generator = torch.Generator().manual_seed(0)
    x, weight, bias, state = (
        torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)
        for shape in [(2, 18, 70), (18, 4), (18,), (2, 18, 3)]
    )
    pairs = zip(
        _call(library, x, weight, bias, state, True), causal_conv1d_torch(x, weight, bias, state, True), strict=True
    )
    if not all(torch.allclose(ours, right, rtol=1e-4, atol=1e-4) for ours, right in pairs):
        raise RuntimeError("the compiled convolution gave wrong results")


NATIVE = Native(Path(__file__).with_name("conv.cpp"), _check)
