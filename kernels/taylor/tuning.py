"""How the Triton kernels are launched: tile sizes, warps, pipeline depth, and into how many segments a sequence is cut.

`tuned.json` holds what was measured, by device; a device that is not in it gets the heuristic below. Nothing is tuned
while a user waits: `tune` is called by the benchmark, on request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch

TABLE = Path(__file__).with_name("tuned.json")
Pass = Literal["state", "forward", "backward"]
PASSES: tuple[Pass, ...] = ("state", "forward", "backward")
Arithmetic = Literal["bf16", "tf32", "fp32"]
"""Operands of the products: bfloat16 for itself, tf32 for float16 (the same precision, but the state cannot overflow),
float32 for float32, which no tensor core computes and is slow."""
PROGRAMS_PER_PROCESSOR = 2
"""What 255 registers a thread and 128 threads a program leave room for."""


@dataclass(frozen=True)
class Launch:
    """How one pass runs.

    Attributes:
        block_t: positions of a chunk.
        block_v: value columns of a program.
        num_warps: warps of a program.
        stages: depth of the software pipeline.
        fill: programs that run on a multiprocessor at the same time.
        shortest: chunks of the shortest segment worth a program of its own.
    """

    block_t: int = 64
    block_v: int = 64
    num_warps: int = 4
    stages: int = 2
    fill: int = PROGRAMS_PER_PROCESSOR
    shortest: int = 8

    def segments(self, rows: int, length: int, width: int, processors: int) -> int:
        """Into how many segments `length` positions of `rows` heads are cut: as many as still run at the same time,
        because a second one already costs another pass over keys and values."""
        programs = max(1, rows * -(-width // self.block_v))
        return max(1, min(self.fill * processors // programs, length // (self.shortest * self.block_t)))


def arithmetic(dtype: torch.dtype) -> Arithmetic:
    """How inputs of `dtype` are multiplied."""
    return "bf16" if dtype == torch.bfloat16 else "tf32" if dtype == torch.float16 else "fp32"


def shape_class(pass_: Pass, kind: Arithmetic, width: int) -> str:
    """What a launch depends on: the pass, the arithmetic and the columns, as a key of the table."""
    return f"{pass_}/{kind}/{32 if width <= 32 else 64 if width <= 64 else 128}"


def default_launch(kind: Arithmetic, width: int) -> Launch:
    """The launch of a device nobody has measured: few instructions and spills when compiled offline (README.md)."""
    if kind == "fp32":
        return Launch(block_t=16, block_v=16, stages=1)
    if kind == "tf32":
        return Launch(block_t=32, block_v=16 if width <= 16 else 32, stages=1)
    return Launch(block_v=16 if width <= 16 else 32 if width <= 32 else 64)


def launch(device: str, pass_: Pass, kind: Arithmetic, width: int) -> Launch:
    """The measured launch of a device, or the default; `device` as `torch.cuda.get_device_name` says it."""
    row = tuned(TABLE).get(device, {}).get(shape_class(pass_, kind, width))
    return default_launch(kind, width) if row is None else Launch(**row)


@lru_cache(maxsize=4)
def tuned(table: Path) -> Mapping[str, Mapping[str, Mapping[str, int]]]:
    """Device -> shape class -> fields of a `Launch`; empty when nothing was measured."""
    if not table.exists():
        return {}
    found: dict[str, dict[str, dict[str, int]]] = json.loads(table.read_text())
    return found
