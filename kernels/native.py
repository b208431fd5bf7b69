"""Builds a C++ kernel once with the system's compiler, keeps it, and loads it through ctypes.

The sources need no torch headers, no ninja and no OpenMP, so a build takes about two seconds with any GCC or Clang, the
result fits every torch, and ctypes calls it without holding the interpreter's lock. It lies in
`$XDG_CACHE_HOME/jrt/kernels` (`~/.cache/jrt/kernels`), named after its sources, its flags and the machine's processor,
and is put there complete or not at all: a build that fails or is killed leaves nothing that a later run could trip
over. Without a compiler the plain torch path runs, and that is said once.
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
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

_LOGGER = logging.getLogger(__name__)
_HEADER = Path(__file__).with_name("vector.h")
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-pthread")


class Native:
    """One C++ file and the library made of it, built and loaded at first use.

    Args:
        source: the file; it may include `vector.h`.
        check: called once with the loaded library; raises a RuntimeError when it computes something wrong.
    """

    def __init__(self, source: Path, check: Callable[[ctypes.CDLL], None]) -> None:
        self._source, self._check = source, check
        self._lock = threading.Lock()
        self._answer: tuple[ctypes.CDLL | None, str | None] | None = None

    def library(self) -> ctypes.CDLL:
        """The loaded library.

        Raises:
            RuntimeError: there is none; the message says why.
        """
        library, reason = self._loaded()
        if library is None:
            raise RuntimeError(f"There is no compiled code for {self._source.name}: {reason}.")
        return library

    def unavailable(self) -> str | None:
        """Why there is no library on this machine; None when there is."""
        return self._loaded()[1]

    def _loaded(self) -> tuple[ctypes.CDLL | None, str | None]:
        """(library, None) or (None, reason); the same answer for the whole process."""
        with self._lock:
            if self._answer is None:
                self._answer = self._load()
            return self._answer

    def _load(self) -> tuple[ctypes.CDLL | None, str | None]:
        try:
            path = self._built()
            try:
                library = ctypes.CDLL(str(path))
            except OSError:  # damaged, by a full disk or by hand
                path.unlink()
                library = ctypes.CDLL(str(self._built()))
            self._check(library)
        except (OSError, RuntimeError, AttributeError) as error:
            reason = str(error)
            _LOGGER.warning("%s is not used, plain torch is several times slower: %s.", self._source.name, reason)
            return None, reason
        return library, None

    def _built(self) -> Path:
        """The shared library for these sources and this processor, built if it is not there."""
        parts = [self._source.read_bytes(), _HEADER.read_bytes(), " ".join(_FLAGS).encode(), _processor().encode()]
        key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
        target = build_folder() / f"{self._source.stem}-{key}.so"
        if not target.exists():
            compiler = _compiler()
            if compiler is None:
                raise RuntimeError("no C++ compiler was found (install g++ or clang, or set CXX)")
            _build(compiler, self._source, target)
        return target


def build_folder() -> Path:
    """Where builds are kept."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "jrt" / "kernels"


class Sequence(ctypes.Structure):
    """A (rows, channels or states, steps) tensor of float32 as vector.h has it; strides in elements."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("row", ctypes.c_int64),
        ("channel", ctypes.c_int64),
        ("step", ctypes.c_int64),
    ]

    @classmethod
    def of(cls, tensor: Tensor | None) -> Sequence:
        return cls() if tensor is None else cls(tensor.data_ptr(), *tensor.stride())


def readable(*tensors: Tensor | None) -> bool:
    """Whether all are ordinary tensors; fake and other wrapping ones have no memory that C++ could read."""
    return all(tensor is None or type(tensor) in {Tensor, torch.nn.Parameter} for tensor in tensors)


def contiguous(tensor: Tensor | None) -> Tensor | None:
    """The tensor as a dense float32 array; keep it until the call is over."""
    return None if tensor is None else tensor.detach().float().contiguous()


def address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def threads_for(operations: int) -> int:
    """torch's number of threads, or one where a second costs more than it brings."""
    return torch.get_num_threads() if operations > 1 << 19 else 1


def _build(compiler: str, source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=target.parent) as folder:
        output = Path(folder) / target.name
        command = [compiler, *_FLAGS, f"-I{_HEADER.parent}", str(source), "-o", str(output)]
        try:
            run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{compiler} did not finish within 300 seconds") from None
        if run.returncode != 0 or not output.exists():
            raise RuntimeError(f"{compiler} failed: {(run.stderr or run.stdout).strip()[:500]}")
        output.replace(target)  # at once: another process sees the whole file or none


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
