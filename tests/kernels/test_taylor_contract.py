"""One contract for every implementation of Taylor attention: the cases of taylor_contract.py."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from taylor_contract import CASES, Errors, Subject

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def interpreter_fails() -> bool:
    """Triton before 3.9 makes ints of arrays with one element, which numpy 2.4 forbids."""
    parts = [tuple(map(int, version(name).split(".")[:2])) for name in ("triton", "numpy")]
    return parts[0] < (3, 9) and parts[1] >= (2, 4)


@pytest.fixture(scope="module")
def interpreted() -> dict[str, Errors]:
    """The errors of every case, with the Triton kernels in the interpreter."""
    if interpreter_fails():
        pytest.skip("this Triton's interpreter does not run with this numpy")
    script = Path(__file__).with_name("interpreted_taylor.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, script], check=False, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    found: dict[str, Errors] = json.loads(run.stdout)
    return found


def holds(errors: Errors, tolerance: float) -> None:
    assert errors and all(error < tolerance for error in errors.values()), errors


@pytest.mark.parametrize("case", CASES)
def test_reference(case: str) -> None:
    holds(CASES[case](Subject(of_reference=True)), 1e-12)


@pytest.mark.parametrize("case", CASES)
def test_torch_in_double(case: str) -> None:
    holds(CASES[case](Subject()), 1e-11)


@pytest.mark.parametrize("case", CASES)
def test_torch(case: str) -> None:
    holds(CASES[case](Subject(dtype=torch.float32)), 1e-5)


@needs_triton
@pytest.mark.parametrize("case", CASES)
def test_triton_interpreted(interpreted: dict[str, Errors], case: str) -> None:
    holds(interpreted[case], 1e-5)


@needs_triton
def test_tuning_from_launch_to_file(interpreted: dict[str, Errors]) -> None:
    assert set(interpreted["tuned"].values()) == {0.0}, interpreted["tuned"]


@pytest.mark.gpu
@needs_cuda
@needs_triton
@pytest.mark.parametrize("case", CASES)
def test_triton(case: str) -> None:
    holds(CASES[case](Subject("cuda", torch.float32)), 1e-5)
