"""What the Triton kernels use on each kind of GPU, found without one; `resources.json` is the committed answer.

`python -m jrt.kernels.taylor.resources` prints the table anew; a test fails when a kernel of it gets worse.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from jrt.kernels.offline import compile_offline
from jrt.kernels.taylor.tuning import Arithmetic, Launch, default_launch

TABLE = Path(__file__).with_name("resources.json")
ARCHITECTURES = (80, 90)
KERNELS = ("state", "state of queries", "forward", "forward, masked", "queries", "keys", "keys of a prefix", "step")
_LEFT_OUT = {
    "state": ("mask", "coefficient"),
    "state of queries": ("mask",),
    "forward, masked": (),
    "keys of a prefix": ("mask", "q", "of_numerator", "of_denominator", "d_values", "d_normalizer"),
}
_IN_TYPE = {"q", "k", "v", "o", "x", "y", "d_q", "d_k", "d_v", "of_numerator"}
_POINTERS = {"mask": "i1", "selections": "", "table": "i32"}
_FLOATS = ("scale", "epsilon")
_INTEGERS = ("T", "H", "segment", "final_row", "final_part")
_STRIDE = re.compile(r"[qkvxy]_[bht]")


def resources(kernel: str, architecture: int, arithmetic: Arithmetic = "bf16", width: int = 64) -> dict[str, Any]:
    """Registers, spills, shared memory and loop length of one of `KERNELS` with its default launch."""
    launch = _launch(kernel, arithmetic, width)
    function = _function(kernel)
    names = [parameter.name for parameter in function.params]
    constants = _constants(kernel, arithmetic, width)
    none = dict.fromkeys(_LEFT_OUT.get(kernel, ("mask",)))
    scalars = dict.fromkeys(_FLOATS, "fp32") | dict.fromkeys(_INTEGERS, "i32")
    strides = [name for name in names if _STRIDE.fullmatch(name)]
    scalars |= dict.fromkeys(strides, "i32")
    known = none | constants | scalars
    report = compile_offline(
        function,
        {name: _element(name, arithmetic) for name in names if name not in known},
        {name: kind for name, kind in scalars.items() if name in names},
        {name: value for name, value in (none | constants).items() if name in names},
        architecture=architecture,
        num_warps=launch.num_warps,
        num_stages=launch.stages,
        multiples_of_16=strides,
    )
    per_position = report.loop_instructions * launch.num_warps / launch.block_t
    return {
        "kernel": kernel,
        "arithmetic": arithmetic,
        "width": width,
        **report.to_dict(),
        "warp_instructions_per_position": round(per_position, 1),
    }


def _launch(kernel: str, arithmetic: Arithmetic, width: int) -> Launch:
    launch = default_launch(arithmetic, width)
    return replace(launch, stages=1) if kernel == "keys of a prefix" else launch


def _function(kernel: str) -> Any:
    from jrt.kernels.taylor import triton_backward, triton_forward, triton_step

    return {
        "state": triton_forward.state_kernel,
        "forward": triton_forward.forward_kernel,
        "queries": triton_backward.queries_kernel,
        "keys": triton_backward.keys_kernel,
        "step": triton_step.step_kernel,
    }[re.split(r"[ ,]", kernel)[0]]


def _constants(kernel: str, arithmetic: Arithmetic, width: int) -> dict[str, Any]:
    import triton.language as tl

    launch = _launch(kernel, arithmetic, width)
    return dict(
        WIDTH=width,
        BLOCK_T=launch.block_t,
        BLOCK_V=64 if kernel == "step" else launch.block_v,
        BLOCK_E=32,
        STAGES=launch.stages,
        DOT=tl.bfloat16 if arithmetic == "bf16" else tl.float32,
        PRECISION="tf32" if arithmetic == "tf32" else "ieee",
        OF_QUERIES=kernel == "state of queries",
    )


def _element(name: str, arithmetic: Arithmetic) -> str:
    """The element type of a tensor argument."""
    in_type = {"bf16": "bf16", "tf32": "fp16", "fp32": "fp32"}[arithmetic]
    if name == "selections" or (name == "of_numerator" and arithmetic == "tf32"):
        return "bf16" if arithmetic == "bf16" else "fp32"
    return _POINTERS.get(name, in_type if name in _IN_TYPE else "fp32")


def table() -> list[dict[str, Any]]:
    """Every kernel in bfloat16 and the three passes in the other types, on every architecture."""
    rows = [resources(kernel, arch) for kernel in KERNELS for arch in ARCHITECTURES]
    rows += [resources(kernel, arch, width=112) for kernel in ("forward", "queries", "keys") for arch in ARCHITECTURES]
    others: tuple[Arithmetic, ...] = ("tf32", "fp32")
    passes = ("state", "forward", "queries", "keys")
    return rows + [resources(kernel, arch, kind) for kind in others for kernel in passes for arch in ARCHITECTURES]


if __name__ == "__main__":
    print("[\n" + ",\n".join("  " + json.dumps(row) for row in table()) + "\n]")
