"""Runs the Triton scan in the interpreter and prints its errors as JSON; a process of its own, started by the test.

Triton decides when a kernel is defined whether it is interpreted, so the variable has to be set before everything.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

import torch
from scan_inputs import relative_error, scan_inputs, to
from torch import Tensor

from jrt.kernels.selective_scan.reference import selective_scan_reference
from jrt.kernels.selective_scan.triton_scan import selective_scan_triton

torch.set_num_threads(1)


def poison(*shape: object, **options: object) -> Tensor:
    """Memory that was never written must not matter."""
    return original_empty(*shape, **options).fill_(float("nan"))  # type: ignore[operator]


original_empty = Tensor.new_empty
Tensor.new_empty = poison  # type: ignore[method-assign, assignment]
torch.empty_like = lambda tensor: torch.full_like(tensor, float("nan"))  # type: ignore[assignment]


def forward(steps: int, state: bool, masked: bool, rows: int, channels: int, states: int) -> dict[str, float]:
    inputs = scan_inputs(rows, channels, states, steps, state=state, masked=masked)
    right = selective_scan_reference(**inputs)
    with torch.no_grad():
        found = selective_scan_triton(**to(inputs, torch.float32))
    return {name: relative_error(a, b) for name, a, b in zip(("y", "state"), found, right, strict=True)}


def gradients(steps: int, masked: bool, rows: int) -> dict[str, float]:
    inputs, results = scan_inputs(rows, 9 if rows > 1 else 5, 3, steps, masked=masked), []
    names = [name for name, value in inputs.items() if isinstance(value, Tensor) and value.is_floating_point()]
    for scan, dtype in ((selective_scan_reference, torch.float64), (selective_scan_triton, torch.float32)):
        leaves = to(inputs, dtype)
        leaves |= {name: leaves[name].clone().requires_grad_() for name in names}
        y, state = scan(**leaves)
        (y.square().sum() + state.sin().sum()).backward()
        results.append([leaves[name].grad for name in names])
    return {name: relative_error(found, right) for name, right, found in zip(names, *results, strict=True)}


def expanded_gradient() -> dict[str, float]:
    """`sum().backward()` hands the kernel a gradient without memory of its own."""
    inputs, found = scan_inputs(1, 5, 4, 6), list[Tensor]()
    for scan, dtype in ((selective_scan_reference, torch.float64), (selective_scan_triton, torch.float32)):
        leaves = to(inputs, dtype) | dict(D=None, z=None)
        leaves["u"] = leaves["u"].clone().requires_grad_()
        scan(**leaves)[0].sum().backward()
        found.append(leaves["u"].grad)
    return {"u": relative_error(found[1], found[0])}


CASES = {
    "one step": lambda: forward(1, True, False, 2, 9, 3),
    "15 steps": lambda: forward(15, False, True, 2, 9, 3),
    "16 steps": lambda: forward(16, True, False, 1, 8, 16),
    "17 steps": lambda: forward(17, True, True, 2, 9, 3),
    "130 steps": lambda: forward(130, True, True, 1, 3, 5),
    "gradients of 3 steps": lambda: gradients(3, False, 2),
    "gradients of 64 steps": lambda: gradients(64, False, 1),
    "gradients of 70 steps, padded": lambda: gradients(70, True, 1),
    "expanded gradient": expanded_gradient,
}

if __name__ == "__main__":
    print(json.dumps({name: case() for name, case in CASES.items()}))
