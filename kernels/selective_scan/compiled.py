"""The selective scan on a CPU as machine code: `scan.cpp`, built once with the system's compiler and kept.

The source needs no torch headers, no ninja and no OpenMP, so a build takes about two seconds with any GCC or Clang, the
result fits every torch, and ctypes calls it without holding the interpreter's lock. It lies in
`$XDG_CACHE_HOME/jrt/kernels` (`~/.cache/jrt/kernels`), named after its source, its flags and the machine's processor,
and is put there complete or not at all: a build that fails or is killed leaves nothing that a later run could trip
over. Without a compiler the plain torch path runs, and that is said once.

float32 inside; bfloat16 and float16 inputs are converted. There is no backward pass: training uses cpu.py.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

_LOGGER = logging.getLogger(__name__)
_SOURCE = Path(__file__).with_name("scan.cpp")
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-pthread")
_SMALL = 1 << 19  # multiply-adds below which a second thread costs more than it brings
_LOCK = threading.Lock()


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
        RuntimeError: there is no compiled code; `unavailable()` says why.
    """
    library, reason = _library()
    if library is None:
        raise RuntimeError(f"There is no compiled scan: {reason}.")
    return _call(library, u, delta, A, B, C, D, z, delta_bias, initial_state, mask)


def unavailable() -> str | None:
    """Why there is no compiled code on this machine; None when there is. Builds it at the first call."""
    return _library()[1]


class _Sequence(ctypes.Structure):
    """A (rows, channels or states, steps) tensor; strides in elements."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("row", ctypes.c_int64),
        ("channel", ctypes.c_int64),
        ("step", ctypes.c_int64),
    ]

    @classmethod
    def of(cls, tensor: Tensor | None) -> _Sequence:
        return cls() if tensor is None else cls(tensor.data_ptr(), *tensor.stride())


class _Arguments(ctypes.Structure):
    """The same order as in scan.cpp."""

    _fields_ = [
        *((name, _Sequence) for name in ("u", "delta", "B", "C", "z")),
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
    rows, channels, steps = u.shape
    sequences = {
        name: None if tensor is None else tensor.detach().float()
        for name, tensor in dict(u=u, delta=delta, B=B, C=C, z=z).items()
    }
    arrays = {
        name: None if tensor is None else tensor.detach().float().contiguous()
        for name, tensor in dict(A=A, D=D, delta_bias=delta_bias, initial_state=initial_state, mask=mask).items()
    }
    y = u.new_empty(rows, steps, channels, dtype=torch.float32)
    state = u.new_empty(rows, channels, A.shape[1], dtype=torch.float32)
    arguments = _Arguments(
        **{name: _Sequence.of(tensor) for name, tensor in sequences.items()},
        **{name: None if tensor is None else tensor.data_ptr() for name, tensor in arrays.items()},
        y=y.data_ptr(),
        state=state.data_ptr(),
        rows=rows,
        channels=channels,
        states=A.shape[1],
        steps=steps,
        threads=torch.get_num_threads() if y.numel() * A.shape[1] > _SMALL else 1,
    )
    library.jrt_selective_scan(ctypes.byref(arguments))
    return y.transpose(1, 2).to(u.dtype), state


def _library() -> tuple[ctypes.CDLL | None, str | None]:
    """(the compiled code, None) or (None, why there is none); the same answer for the whole process."""
    with _LOCK:
        return _load()


@lru_cache(maxsize=1)
def _load() -> tuple[ctypes.CDLL | None, str | None]:
    try:
        library = ctypes.CDLL(str(_built()))
        library.jrt_selective_scan.argtypes = [ctypes.POINTER(_Arguments)]
        library.jrt_selective_scan.restype = None
        _check(library)
    except (OSError, RuntimeError, AttributeError) as error:
        reason = str(error)
        _LOGGER.warning("The CPU scan of Mamba models runs in plain torch, several times slower: %s.", reason)
        return None, reason
    return library, None


def _built() -> Path:
    """The shared library for this source and this processor, built if it is not there."""
    key = hashlib.sha256(b"\0".join([_SOURCE.read_bytes(), " ".join(_FLAGS).encode(), _processor().encode()]))
    target = _folder() / f"selective_scan-{key.hexdigest()[:16]}.so"
    if target.exists():
        return target
    compiler = _compiler()
    if compiler is None:
        raise RuntimeError("no C++ compiler was found (install g++ or clang, or set CXX)")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=target.parent) as folder:
        output = Path(folder) / target.name
        try:
            command = [compiler, *_FLAGS, str(_SOURCE), "-o", str(output)]
            run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{compiler} did not finish within 300 seconds") from None
        if run.returncode != 0 or not output.exists():
            raise RuntimeError(f"{compiler} failed: {(run.stderr or run.stdout).strip()[:500]}")
        output.replace(target)  # at once: another process sees the whole file or none
    return target


def _folder() -> Path:
    """Where builds are kept."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "jrt" / "kernels"


def _compiler() -> str | None:
    """The C++ compiler: `CXX`, or the first of the usual names."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    return next((path for name in names if (path := shutil.which(name))), None)


def _processor() -> str:
    """What the machine's processor can do, because code built for one may not run on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.system()} {platform.machine()} {features}"


def _check(library: ctypes.CDLL) -> None:
    """Compares a small scan with the reference, so that a miscompiled library is never used."""
    from jrt.kernels.selective_scan.reference import selective_scan_reference

    generator = torch.Generator().manual_seed(0)
    shapes = [(1, 20, 5), (1, 20, 5), (20, 18), (1, 18, 5), (1, 18, 5), (20,), (1, 20, 5), (20,), (1, 20, 18)]
    u, delta, A, B, C, D, z, bias, state = (
        torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32) for shape in shapes
    )
    arguments = (u, delta, -A.exp(), B, C, D, z, bias, state, None)
    for ours, right in zip(_call(library, *arguments), selective_scan_reference(*arguments), strict=True):
        if not torch.allclose(ours, right, rtol=1e-4, atol=1e-4):
            raise RuntimeError("the compiled code gave wrong results; delete it and build again")
