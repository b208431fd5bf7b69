"""Compiles a Triton kernel for a GPU that is not there, and reads what the compiler made of it.

A kernel that spills registers is slow, and that is known at compile time: Triton ships ptxas and cuobjdump, so that a
test on any Linux machine can hold a kernel to its budget of registers, spilled bytes and shared memory.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,6}\*/\s+(?:@!?U?P\d+ )?([A-Z][A-Z0-9_]*)", re.MULTILINE)
_ADDRESS = re.compile(r"^\s+/\*([0-9a-f]{4,6})\*/\s+\S", re.MULTILINE)
_BRANCH = re.compile(r"^\s+/\*([0-9a-f]{4,6})\*/\s+(?:@!?U?P\w+ )?BRA[^;]*0x([0-9a-f]+)", re.MULTILINE)
_RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


@dataclass(frozen=True)
class KernelReport:
    """What one compiled kernel uses.

    Attributes:
        architecture: compute capability, 80 for A100, 90 for H100 and H200.
        num_warps: warps of one program.
        registers: 32-bit registers of one thread; 255 is the limit.
        spilled_bytes: bytes of one thread's stack; anything above 0 goes through memory.
        shared_bytes: shared memory of one program, in bytes.
        loop_instructions: machine instructions of the longest loop, which is where a kernel spends its time.
        instructions: how often each machine instruction stands in the code, e.g. `HGMMA`, `MUFU`, `LDL`.
    """

    architecture: int
    num_warps: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    loop_instructions: int
    instructions: Mapping[str, int] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The figures without the single instructions, for a table; `instructions` becomes their number."""
        return asdict(self) | {"instructions": sum(self.instructions.values())}


def compile_offline(
    kernel: Any,
    pointers: Mapping[str, str],
    scalars: Mapping[str, str] | None = None,
    constants: Mapping[str, Any] | None = None,
    *,
    architecture: int = 90,
    num_warps: int = 4,
    num_stages: int = 3,
    aligned: bool = True,
    multiples_of_16: Collection[str] = (),
) -> KernelReport:
    """Compiles `kernel` to machine code for `architecture`; needs no GPU, takes 1 to 7 seconds when not cached.

    Args:
        kernel: a function decorated with `triton.jit`; of one with heuristics or autotuning pass its `.fn`.
        pointers: element type of each tensor argument, e.g. `{"q": "bf16", "state": "fp32"}`.
        scalars: type of each number that is known at run time only, e.g. `{"length": "i32"}`.
        constants: values of the `tl.constexpr` arguments, and None for tensors that are left out. Arguments that are
            not named anywhere take their default.
        architecture: compute capability without the dot.
        num_warps: warps of one program.
        num_stages: depth of the software pipeline.
        aligned: tensors start at multiples of 16 bytes, as torch's do.
        multiples_of_16: integers known to be divisible by 16, as strides often are; vector loads need to know.

    Raises:
        ImportError: triton is not installed.
        RuntimeError: the kernel was decorated while TRITON_INTERPRET was set, or the tools gave no answer.
        TypeError: an argument of the kernel was given no type and has no default.

    Example:
        >>> compile_offline(add, {"x": "fp32", "y": "fp32"}, {"size": "i32"}, {"BLOCK": 128}).spilled_bytes
        0
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if not isinstance(kernel, triton.runtime.jit.JITFunction):
        raise RuntimeError(
            f"{kernel!r} is not a compiled kernel. Unset TRITON_INTERPRET before the kernel's module is imported, "
            "and pass `.fn` of an autotuned kernel."
        )
    signature, values, attributes = _arguments(kernel, pointers, scalars or {}, constants or {}, aligned)
    for position, parameter in enumerate(kernel.params):
        if parameter.name in multiples_of_16:
            attributes[(position,)] = [["tt.divisibility", 16]]
    compiled = triton.compile(
        ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=attributes),
        target=GPUTarget("cuda", architecture, 32),
        options={"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": True},
    )
    usage, listing = _inspect(compiled.asm["cubin"], Path(triton.__file__).parent)
    return KernelReport(
        architecture=architecture,
        num_warps=num_warps,
        registers=usage[0],
        spilled_bytes=usage[1],
        shared_bytes=compiled.metadata.shared,
        loop_instructions=_longest_loop(listing),
        instructions=dict(Counter(_INSTRUCTION.findall(listing))),
    )


def _longest_loop(listing: str) -> int:
    """Instructions between the farthest branch backwards and its target."""
    addresses = [int(address, 16) for address in _ADDRESS.findall(listing)]
    jumps = [(int(target, 16), int(source, 16)) for source, target in _BRANCH.findall(listing)]
    return max((sum(begin <= at <= end for at in addresses) for begin, end in jumps if begin < end), default=0)


def _arguments(
    kernel: Any, pointers: Mapping[str, str], scalars: Mapping[str, str], constants: Mapping[str, Any], aligned: bool
) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int], list[list[Any]]]]:
    """Triton's own description of the arguments: types, values of the constants, alignments."""
    signature: dict[str, str] = {}
    values: dict[str, Any] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for position, parameter in enumerate(kernel.params):
        name = parameter.name
        if name in pointers:
            signature[name] = "*" + pointers[name]
            if aligned:
                attributes[(position,)] = [["tt.divisibility", 16]]
        elif name in scalars:
            signature[name] = scalars[name]
        elif name in constants or parameter.has_default:
            signature[name] = "constexpr"
            values[name] = constants.get(name, parameter.default)
        else:
            raise TypeError(f"The kernel's argument {name!r} was given neither a type nor a value.")
    unknown = (set(pointers) | set(scalars) | set(constants)) - set(signature)
    if unknown:
        raise TypeError(f"The kernel has no argument {min(unknown)!r}; it has {list(signature)}.")
    return signature, values, attributes


def _inspect(binary: bytes, triton_folder: Path) -> tuple[tuple[int, int], str]:
    """((registers, stack bytes), listing of the machine code), read with the cuobjdump that Triton ships."""
    tool = triton_folder / "backends" / "nvidia" / "bin" / "cuobjdump"
    handle, name = tempfile.mkstemp(suffix=".cubin")
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(binary)
        outputs = [
            subprocess.run([tool, option, path], capture_output=True, text=True, check=True).stdout
            for option in ("--dump-resource-usage", "--dump-sass")
        ]
    finally:
        path.unlink()
    match = _RESOURCES.search(outputs[0])
    if match is None:
        raise RuntimeError(f"cuobjdump reported no resources: {outputs[0][:500]!r}")
    return (int(match[1]), int(match[2])), outputs[1]
