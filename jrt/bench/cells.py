"""What the kernel benchmark is made of: operations with their formula, ways to compute them, and the cells of a run.

An `Operation` knows its inputs, its formula at chosen positions of one head, and its roofline. A `Way` computes it: one
of our kernels, or what a user would run otherwise. A `Cell` is a comparison: the ways of one group in one phase, at one
batch size and length. Adding a kernel means adding one `Way` to a list (`jrt.bench.kernels_registry`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log2
from typing import Literal

import torch
from torch import Tensor

from jrt.bench.roofline import Work

Phase = Literal["prefill", "backward", "decode"]
PHASES: tuple[Phase, ...] = ("prefill", "backward", "decode")
Inputs = Mapping[str, Tensor]
Role = Literal["query", "key", "all"]
"""Which of the checked positions a gradient can be compared at: "query": all of them; "key": those that no unchecked
position sees, the last block; "all": only when every position is checked."""

_HEADLINE = {"batch": 16, "length": 32768}
_ALL_POSITIONS = 1024  # up to this length the formula is evaluated at every position, beyond at both ends
_ENDS = 64


@dataclass(frozen=True)
class Case:
    """One cell's shape.

    Attributes:
        phase: "prefill" (forward), "backward" (the backward pass alone) or "decode" (one position after `length - 1`).
        batch: rows.
        heads: heads of a row.
        length: positions.
        device: where it runs.
        dtype: of the inputs.
    """

    phase: Phase
    batch: int
    heads: int
    length: int
    device: torch.device
    dtype: torch.dtype

    @property
    def count(self) -> int:
        """Heads times rows."""
        return self.batch * self.heads

    @property
    def queries(self) -> int:
        """Positions that are computed: one when decoding."""
        return 1 if self.phase == "decode" else self.length

    @property
    def size(self) -> int:
        """Bytes of a number."""
        return self.dtype.itemsize


def ends(length: int) -> Tensor:
    """Positions that are compared with the formula: all of a short sequence, the first and last 64 of a long one."""
    if length <= _ALL_POSITIONS:
        return torch.arange(length)
    return torch.cat([torch.arange(_ENDS), torch.arange(length - _ENDS, length)])


@dataclass(frozen=True)
class Operation:
    """What is computed.

    Attributes:
        name: unique.
        inputs: makes the tensors of a case, on its device.
        roles: the inputs that get gradients.
        formula: (case, inputs of one row and head, positions) -> the right outputs there, `(1, 1, n, Dv)`, in the type
            of the inputs; differentiable. Inputs keep their dimensions, with size 1 for the row and the head.
        part: (inputs, row, head) -> the inputs of that row and head.
        work: operations and bytes of a case.
        positions: which positions of a length are compared.
    """

    name: str
    inputs: Callable[[Case], dict[str, Tensor]]
    roles: Mapping[str, Role]
    formula: Callable[[Case, Inputs, Tensor], Tensor]
    work: Callable[[Case], Work]
    part: Callable[[Inputs, int, int], dict[str, Tensor]]
    positions: Callable[[int], Tensor] = ends


def nothing_in_the_way(case: Case) -> str | None:
    """Why a way cannot take a case: it can."""
    return None


@dataclass(frozen=True)
class Way:
    """One way to compute an operation.

    Attributes:
        name: as the table shows it; unique in its group.
        group: ways of a group are compared with each other.
        operation: what it computes.
        forward: (case, inputs) -> output `(B, H, T, Dv)`, differentiable if `backward` is among the phases.
        decode: (case, inputs) -> a call that computes the last position, after everything before it was read untimed.
        phases: what it can do.
        devices: where it runs; elsewhere it makes no row.
        ours: ratios of the group are taken to the first such way that has a time.
        obstacle: (case) -> why this way cannot take the case, or None.
        temporary: bytes that it needs beside inputs, output and gradients.
        cost: operations and bytes of this way where they are not the operation's own, to tell how long a call takes.
    """

    name: str
    group: str
    operation: Operation
    forward: Callable[[Case, Inputs], Tensor]
    decode: Callable[[Case, Inputs], Callable[[], Tensor]] | None = None
    phases: tuple[Phase, ...] = PHASES
    devices: tuple[str, ...] = ("cpu", "cuda")
    ours: bool = False
    obstacle: Callable[[Case], str | None] = nothing_in_the_way
    temporary: Callable[[Case], float] = lambda case: 0
    cost: Callable[[Case], Work] | None = None


@dataclass(frozen=True)
class Cell:
    """One comparison of a run."""

    group: str
    case: Case

    @property
    def label(self) -> str:
        """In words, for the list of what was left out."""
        return f"{self.group} {self.case.phase} batch {self.case.batch} positions {self.case.length}"


def by_priority(cells: Sequence[Cell], groups: Sequence[str]) -> list[Cell]:
    """The order in which cells are measured while there is time, most wanted first.

    A cell's rank is the sum of: octaves between its length and 32768, halved; 2 for 64 rows, 1 for one or two (16 is
    the published benchmark's); 1 for backward, 1 for decode; 0.75 for each group before its own in `groups`.
    """

    def rank(cell: Cell) -> tuple[float, int, int, int]:
        case = cell.case
        octaves = abs(log2(case.length / _HEADLINE["length"])) / 2
        rows = {_HEADLINE["batch"]: 0, 64: 2}.get(case.batch, 1)
        return (
            octaves + rows + (case.phase != "prefill") + 0.75 * groups.index(cell.group),
            PHASES.index(case.phase),
            case.length,
            case.batch,
        )

    return sorted(cells, key=rank)
