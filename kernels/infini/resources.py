"""What the Triton kernels use on each kind of GPU, found without one; `resources.json` is the committed answer.

`python -m jrt.kernels.infini.resources` prints the table anew; a test fails when a kernel spills more than it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from jrt.kernels.offline import compile_offline

TABLE = Path(__file__).with_name("resources.json")
ARCHITECTURES = (80, 90)
WIDTHS = (64, 128)
KERNELS = ("sums", "backward_sums", "forward", "backward_query", "backward_key", "backward_memory")
TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_IN_TYPE = {"q", "k", "v", "mq", "o", "d_o", "d_q", "d_k", "d_v", "d_mq", "keys", "values", "d_keys", "d_values"}
_SCALARS = dict(scale="fp32", epsilon="fp32", T="i32", n="i32", H="i32", G="i32", S="i32")


def resources(kernel: str, architecture: int, width: int, kind: str = "bf16") -> dict[str, Any]:
    """Registers, spills and shared memory of one kernel, D = Dv = `width`, masked or weighted, with ELU + 1."""
    from jrt.kernels.infini import ops, sums, triton_kernels, triton_sums

    of_sums, dtype = kernel.endswith("sums"), TYPES[kind]
    function = getattr(triton_sums if of_sums else triton_kernels, f"{kernel}_kernel")
    names = [parameter.name for parameter in function.params]
    size = sums.block_size(dtype) if of_sums else ops.block_size(width, width, 2048, dtype)
    constants: dict[str, Any] = dict(D=width, DV=width, BM=size, BN=size, BV=min(width, 64), RELU=False, MASKED=True)
    constants["PRECISION"] = ops.precision(dtype)
    constants = {name: value for name, value in constants.items() if name in names}
    scalars = {name: kind for name, kind in _SCALARS.items() if name in names}
    types = {name: kind if name in _IN_TYPE else "u8" if name == "real" else "fp32" for name in names}
    pointers = {name: kind for name, kind in types.items() if name not in constants and name not in scalars}
    num_warps = sums.WARPS if of_sums else ops.warps(kernel, dtype)
    report = compile_offline(function, pointers, scalars, constants, architecture=architecture, num_warps=num_warps)
    return {"kernel": kernel, "arithmetic": kind, "width": width, **report.to_dict()}


def table() -> list[dict[str, Any]]:
    """Every kernel in both types on every architecture."""
    return [
        resources(kernel, arch, width, kind)
        for kind in TYPES
        for kernel in KERNELS
        for arch in ARCHITECTURES
        for width in WIDTHS
    ]


if __name__ == "__main__":
    print("[\n" + ",\n".join("  " + json.dumps(row) for row in table()) + "\n]")
