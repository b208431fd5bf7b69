"""The Triton path of Infini-attention: right in the interpreter, no spills when compiled for GPUs that are not there,
and its dispatch."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from jrt.kernels.infini import choose

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
CUDA = torch.device("cuda")


@pytest.fixture(scope="module")
def interpreted() -> dict[str, dict[str, Any]]:
    """The errors of every case of interpreted_infini.py."""
    script = Path(__file__).with_name("interpreted_infini.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, script], check=False, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    found: dict[str, dict[str, Any]] = json.loads(run.stdout)
    return found


@needs_triton
@pytest.mark.parametrize(
    "case",
    [
        "a part of a segment",
        "less than a segment",
        "a segment of 20",
        "two blocks a segment",
        "masked",
        "delta",
    ],
)
def test_output_state_and_all_gradients_equal_the_definition(interpreted: dict[str, dict[str, Any]], case: str) -> None:
    errors = interpreted[case]
    assert {"output", "memory_after", "query", "key", "value", "memory_query", "memory_key", "gate"} <= set(errors)
    assert all(error < 1e-5 for error in errors.values()), errors


@needs_triton
def test_gradients_without_memory_of_their_own(interpreted: dict[str, dict[str, Any]]) -> None:
    assert interpreted["expanded gradient"]["value"] < 1e-5


@needs_triton
def test_the_operation_is_registered_as_torch_wants_it(interpreted: dict[str, dict[str, Any]]) -> None:
    assert len(interpreted["opcheck"]) == 4 and set(interpreted["opcheck"].values()) == {"SUCCESS"}


@needs_triton
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("kernel", ["forward", "backward_query", "backward_key", "backward_memory"])
def test_does_not_spill_more_than_the_committed_table(kernel: str, architecture: int) -> None:
    from jrt.kernels.infini.resources import TABLE, resources

    rows = json.loads(TABLE.read_text())
    (committed,) = [
        row for row in rows if (row["kernel"], row["architecture"], row["width"]) == (kernel, architecture, 64)
    ]
    found = resources(kernel, architecture, 64)
    assert found["spilled_bytes"] <= committed["spilled_bytes"]
    assert found["shared_bytes"] <= 227 * 1024 if architecture == 90 else 163 * 1024


def test_the_fastest_path_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    def reasons(*situation: Any) -> str:
        choice = choose(*situation)
        assert choice.path == "torch"
        return choice.passed_over[0][1]

    if importlib.util.find_spec("triton") is not None:
        assert choose(CUDA, torch.bfloat16, 64, 128).path == "triton"
    assert "CUDA" in reasons(torch.device("cpu"), torch.float32, 64, 64)
    assert "float32" in reasons(CUDA, torch.float64, 64, 64)
    assert "128 wide" in reasons(CUDA, torch.bfloat16, 80, 80)
    monkeypatch.setenv("JRT_KERNELS", "torch")
    assert "JRT_KERNELS" in reasons(CUDA, torch.bfloat16, 64, 64)
