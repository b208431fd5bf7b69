"""The selective scan on a CPU as machine code: `scan.cpp`, built once with the system's compiler.

float32 inside; bfloat16 and float16 inputs are converted. There is no backward pass: training uses cpu.py.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from jrt.kernels.native import Native, Sequence, address, contiguous, threads_for
from jrt.kernels.selective_scan.reference import selective_scan_reference


def selective_scan_compiled(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`selective_scan` for CPU tensors without gradients.

    Raises:
        RuntimeError: there is no compiled code; `NATIVE.unavailable()` says why.
    """
    return _call(NATIVE.library(), u, delta, A, B, C, D, z, delta_bias, initial_state, mask)


class _Arguments(ctypes.Structure):
    """The same order as in scan.cpp."""

    _fields_ = [
        *((name, Sequence) for name in ("u", "delta", "B", "C", "z")),
        *((name, ctypes.c_void_p) for name in ("A", "D", "delta_bias", "initial_state", "mask", "y", "state")),
        *((name, ctypes.c_int64) for name in ("rows", "channels", "states", "steps", "threads")),
    ]


def _call(
    library: ctypes.CDLL,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    (rows, channels, steps), states = u.shape, A.shape[1]
    sequences = {
        name: None if tensor is None else tensor.detach().float()
        for name, tensor in dict(u=u, delta=delta, B=B, C=C, z=z).items()
    }
    given = dict(A=A, D=D, delta_bias=delta_bias, initial_state=initial_state, mask=mask)
    arrays = {name: contiguous(tensor) for name, tensor in given.items()}
    y = u.new_empty(rows, steps, channels, dtype=torch.float32)
    state = u.new_empty(rows, channels, states, dtype=torch.float32)
    arguments = _Arguments(
        **{name: Sequence.of(tensor) for name, tensor in sequences.items()},
        **{name: address(tensor) for name, tensor in arrays.items()},
        y=y.data_ptr(),
        state=state.data_ptr(),
        rows=rows,
        channels=channels,
        states=states,
        steps=steps,
        threads=threads_for(rows * channels * states * steps),
    )
    library.jrt_selective_scan(ctypes.byref(arguments))
    return y.transpose(1, 2).to(u.dtype), state


def _check(library: ctypes.CDLL) -> None:
    """Compares a small scan with the reference, so that a miscompiled library is never used."""
    library.jrt_selective_scan.argtypes = [ctypes.POINTER(_Arguments)]
    library.jrt_selective_scan.restype = None
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, 20, 5), (1, 20, 5), (20, 18), (1, 18, 5), (1, 18, 5), (20,), (1, 20, 5), (20,), (1, 20, 18)]
    u, delta, A, B, C, D, z, bias, state = (
        torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32) for shape in shapes
    )
    arguments = (u, delta, -A.exp(), B, C, D, z, bias, state, None)
    for ours, right in zip(_call(library, *arguments), selective_scan_reference(*arguments), strict=True):
        if not torch.allclose(ours, right, rtol=1e-4, atol=1e-4):
            raise RuntimeError("the compiled scan gave wrong results")


NATIVE = Native(Path(__file__).with_name("scan.cpp"), _check)
