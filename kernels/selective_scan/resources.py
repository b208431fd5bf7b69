"""What the Triton kernels use on each kind of GPU, found without one; `resources.json` is the committed answer.

`python -m jrt.kernels.selective_scan.resources` prints the table anew; a test fails when a kernel spills more than it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jrt.kernels.offline import compile_offline

TABLE = Path(__file__).with_name("resources.json")
ARCHITECTURES = (80, 90)
BLOCKS = (8, 16, 32)
_SCALARS = dict(T="i32", D="i32", chunks="i32")


def resources(kernel: str, architecture: int, block_channels: int) -> dict[str, Any]:
    """Registers, spills and shared memory of one kernel, `forward`, `forward_training` or `backward`, at 16 states."""
    from jrt.kernels.selective_scan import triton_kernels
    from jrt.kernels.selective_scan.triton_scan import CHUNK

    function = triton_kernels.backward_kernel if kernel == "backward" else triton_kernels.forward_kernel
    constants: dict[str, Any] = dict(N=16, BLOCK_N=16, BLOCK_D=block_channels, CHUNK=CHUNK)
    if kernel != "backward":
        constants["SAVE"] = kernel == "forward_training"
    names = [parameter.name for parameter in function.params]
    pointers = {name: "fp32" for name in names if name not in constants and name not in _SCALARS}
    report = compile_offline(function, pointers, _SCALARS, constants, architecture=architecture, num_warps=1)
    return {"kernel": kernel, "block_channels": block_channels, **report.to_dict()}


def table() -> list[dict[str, Any]]:
    """Every kernel on every architecture."""
    kernels = ("forward", "forward_training", "backward")
    return [resources(kernel, arch, size) for kernel in kernels for arch in ARCHITECTURES for size in BLOCKS]


if __name__ == "__main__":
    print("[\n" + ",\n".join("  " + json.dumps(row) for row in table()) + "\n]")
