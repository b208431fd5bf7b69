"""The Triton path of Infini-attention: right in the interpreter, no spills when compiled for GPUs that are not there,
and its dispatch."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from jrt.kernels.devices import Limits
from jrt.kernels.infini import choose
from jrt.kernels.infini.paths import SHARED_MEMORY

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
CUDA = torch.device("cuda")
KERNELS = ("sums", "backward_sums", "forward", "backward_query", "backward_key", "backward_memory")


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
        "delta_corrected",
        "written to the end",
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
def test_the_operation_is_registered_as_torch_wants_it(interpreted: dict[str, Any]) -> None:
    for checked in interpreted["opcheck"]:
        assert len(checked) == 4 and set(checked.values()) == {"SUCCESS"}


@needs_triton
@pytest.mark.parametrize(
    ("kernel", "architecture", "kind"),
    [(kernel, 90, "bf16") for kernel in KERNELS]
    + [("forward", 80, "bf16"), ("backward_key", 80, "bf16"), ("forward", 90, "fp32")],
)
def test_does_not_spill_more_than_the_committed_table(kernel: str, architecture: int, kind: str) -> None:
    from jrt.kernels.infini.resources import TABLE, resources

    (committed,) = [
        row
        for row in json.loads(TABLE.read_text())
        if (row["kernel"], row["architecture"], row["width"], row["arithmetic"]) == (kernel, architecture, 64, kind)
    ]
    found = resources(kernel, architecture, 64, kind)
    assert found["spilled_bytes"] <= committed["spilled_bytes"]
    assert found["shared_bytes"] <= committed["shared_bytes"] or not version("triton").startswith("3.9.")


@needs_triton
def test_every_kernel_fits_into_the_shared_memory_that_a_gpu_must_have() -> None:
    from jrt.kernels.infini.resources import ARCHITECTURES, TABLE, TYPES, WIDTHS

    rows = json.loads(TABLE.read_text())
    assert len(rows) == len(KERNELS) * len(ARCHITECTURES) * len(TYPES) * len(WIDTHS)
    assert all(row["shared_bytes"] <= SHARED_MEMORY[row["width"]] for row in rows)


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
    for old in (Limits((7, 5), 65_536), Limits((8, 6), 101_376)):
        reason = "Ampere" if old.capability < (8, 0) else "140000 bytes of shared memory"
        assert reason in reasons(CUDA, torch.bfloat16, 128, 128, old)
    if importlib.util.find_spec("triton") is not None:
        assert choose(CUDA, torch.bfloat16, 64, 64, Limits((8, 6), 101_376)).path == "triton"
    monkeypatch.setenv("JRT_KERNELS", "torch")
    assert "JRT_KERNELS" in reasons(CUDA, torch.bfloat16, 64, 64)
