"""Whether a way computes what its operation says, at the shape that is timed: no time is printed for a wrong result.

Outputs (and gradients) of the first and last head and row are compared with the formula in float64 at chosen positions.
They pass where their relative error is at most twice that of the formula in plain torch in the timed type, plus 1e-5,
or 1e-3 in 16 bits. The beginning and the end of a sequence are judged apart: an average over 32,768 values is a hundred
times smaller than the first, and next to it an end that is all wrong would be an error of three hundredths.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from jrt.bench.cells import Case, Inputs, Operation

_SLACK = {torch.float32: 1e-5, torch.float64: 1e-10}
_SLACK_16_BITS = 1e-3


@dataclass(frozen=True)
class Verdict:
    """How far a result is off.

    Attributes:
        error: the largest relative error, over what was compared.
        allowed: what the same place may be off.
        what: the tensor that is furthest off for what it may be: "output", or the name of an input for its gradient.
    """

    error: float
    allowed: float
    what: str

    @property
    def right(self) -> bool:
        return self.error <= self.allowed


def check_output(operation: Operation, case: Case, inputs: Inputs, output: Tensor) -> Verdict:
    """Compares an output, `(B, H, queries, Dv)`, with the formula."""
    verdicts = []
    for row, head in _corners(output):
        positions = _positions(operation, case)
        right, plain = (_formula(operation, case, inputs, row, head, positions, dtype) for dtype in _types(case))
        found = output[row, head][_rows(positions, case)]
        for block in _blocks(positions):
            verdicts.append(_compare("output", found[block], right[0, 0, block], plain[0, 0, block], case))
    return _worst(verdicts)


def check_gradients(
    operation: Operation, case: Case, inputs: Inputs, d_output: Tensor, gradients: dict[str, Tensor]
) -> Verdict:
    """Compares the gradients of sum(output * d_output) with the formula's, where they follow from few positions."""
    verdicts = []
    for row, head in _corners(d_output):
        positions = _positions(operation, case)
        both = [
            _formula_gradients(operation, case, inputs, d_output, row, head, positions, dtype) for dtype in _types(case)
        ]
        ours = operation.part(gradients, row, head)
        for name, role in operation.roles.items():
            for kept in _comparable(role, positions, case.length):
                right, plain = (gradient[name][..., kept, :] for gradient in both)
                verdicts.append(_compare(name, ours[name][..., kept, :], right, plain, case))
    return _worst(verdicts)


def _types(case: Case) -> tuple[torch.dtype, torch.dtype]:
    return torch.float64, case.dtype


def _corners(output: Tensor) -> list[tuple[int, int]]:
    """The first and the last row and head."""
    return list(dict.fromkeys([(0, 0), (output.shape[0] - 1, output.shape[1] - 1)]))


def _positions(operation: Operation, case: Case) -> Tensor:
    chosen = torch.tensor([case.length - 1]) if case.phase == "decode" else operation.positions(case.length)
    return chosen.to(case.device)


def _rows(positions: Tensor, case: Case) -> Tensor:
    """Where `positions` stand in an output of `case.queries` rows."""
    return positions - (case.length - case.queries)


def _blocks(positions: Tensor) -> list[slice]:
    """The stretches of `positions` without a gap, as places in it."""
    ends = [int(gap) + 1 for gap in (positions.diff() != 1).nonzero()]
    return [slice(start, end) for start, end in itertools.pairwise([0, *ends, len(positions)])]


def _comparable(role: str, positions: Tensor, length: int) -> list[Tensor | slice]:
    """Where a gradient follows from the outputs at `positions` alone, by stretches that are judged apart."""
    if len(positions) == length:
        return [slice(None)]
    blocks: list[Tensor | slice] = [positions[block] for block in _blocks(positions)]
    if role == "query":
        return blocks
    return [] if role == "all" or positions[-1] != length - 1 else blocks[-1:]


def _formula(
    operation: Operation, case: Case, inputs: Inputs, row: int, head: int, positions: Tensor, dtype: torch.dtype
) -> Tensor:
    part = {name: tensor.to(dtype) for name, tensor in operation.part(inputs, row, head).items()}
    with torch.no_grad():
        return operation.formula(case, part, positions)


def _formula_gradients(
    operation: Operation,
    case: Case,
    inputs: Inputs,
    d_output: Tensor,
    row: int,
    head: int,
    positions: Tensor,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    part = {name: tensor.detach().to(dtype) for name, tensor in operation.part(inputs, row, head).items()}
    leaves = [part[name].requires_grad_() for name in operation.roles]
    output = operation.formula(case, part, positions)
    d_part = d_output[row : row + 1, head : head + 1][:, :, positions].to(dtype)
    return dict(zip(operation.roles, torch.autograd.grad(output, leaves, d_part, materialize_grads=True), strict=True))


def _compare(what: str, found: Tensor, right: Tensor, plain: Tensor, case: Case) -> Verdict:
    size = float(right.norm()) or 1.0
    error, plain_error = (float((tensor.double() - right).norm()) / size for tensor in (found, plain))
    return Verdict(error, 2 * plain_error + _SLACK.get(case.dtype, _SLACK_16_BITS), what)


def _worst(verdicts: list[Verdict]) -> Verdict:
    """The one that is furthest off for what it may be; not-a-number is furthest of all."""
    return max(verdicts, key=lambda verdict: verdict.error / verdict.allowed if verdict.error >= 0 else float("inf"))
