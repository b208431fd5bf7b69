"""What the Triton kernels use on each kind of GPU, found without one; `resources.json` is the committed answer.

`python -m jrt.kernels.infini.resources` prints the table anew; a test fails when a kernel spills more than it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jrt.kernels.offline import compile_offline

TABLE = Path(__file__).with_name("resources.json")
ARCHITECTURES = (80, 90)
WIDTHS = (64, 128)
KERNELS = ("forward", "backward_query", "backward_key", "backward_memory")
_HALF = {"q", "k", "v", "mq", "o", "d_o", "d_q", "d_k", "d_v", "d_mq"}
_SCALARS = dict(scale="fp32", epsilon="fp32", T="i32", n="i32", H="i32", G="i32", S="i32")


def resources(kernel: str, architecture: int, width: int) -> dict[str, Any]:
    """Registers, spills and shared memory of one kernel in bfloat16, D = Dv = `width`, masked, with ELU + 1."""
    from jrt.kernels.infini import triton_kernels
    from jrt.kernels.infini.ops import WARPS, block_size

    function = getattr(triton_kernels, f"{kernel}_kernel")
    names = [parameter.name for parameter in function.params]
    size = block_size(width, width, 2048)
    constants = dict(D=width, DV=width, BM=size, BN=size, RELU=False, MASKED=True, PRECISION="tf32")
    constants = {name: value for name, value in constants.items() if name in names}
    scalars = {name: kind for name, kind in _SCALARS.items() if name in names}
    types = {name: "bf16" if name in _HALF else "u8" if name == "real" else "fp32" for name in names}
    pointers = {name: kind for name, kind in types.items() if name not in constants and name not in scalars}
    report = compile_offline(function, pointers, scalars, constants, architecture=architecture, num_warps=WARPS[kernel])
    return {"kernel": kernel, "width": width, **report.to_dict()}


def table() -> list[dict[str, Any]]:
    """Every kernel on every architecture."""
    return [resources(kernel, arch, width) for kernel in KERNELS for arch in ARCHITECTURES for width in WIDTHS]


if __name__ == "__main__":
    print("[\n" + ",\n".join("  " + json.dumps(row) for row in table()) + "\n]")
