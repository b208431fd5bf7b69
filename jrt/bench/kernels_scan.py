"""The group "scan": the selective scan of Mamba-1 by every path there is, over 96 channels a head and 16 states."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from jrt.bench import roofline
from jrt.bench.cells import Case, Inputs, Operation, Way
from jrt.bench.parts import visible
from jrt.bench.roofline import Work

CHANNELS_OF_A_HEAD, STATES = 96, 16
_LONGEST = 65536  # the formula keeps the decay of every state
_LONGEST_LOOP = 8192  # of plain torch on a GPU: several launches a position, of which the roofline knows nothing


def _inputs(case: Case) -> dict[str, Tensor]:
    """Channels stand where others have heads; time is the last dimension but one."""
    channels = case.heads * CHANNELS_OF_A_HEAD
    generator = torch.Generator(case.device).manual_seed(1000 * case.length + case.batch)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=case.device, dtype=case.dtype)

    decay = -torch.rand(channels, STATES, generator=generator, device=case.device) - 0.1
    return {
        "u": draw(case.batch, channels, case.length, 1),
        "delta": draw(case.batch, channels, case.length, 1),
        "A": decay.to(case.dtype).float(),  # exact in the timed type, so that the check is about the scan
        "B": draw(case.batch, STATES, case.length),
        "C": draw(case.batch, STATES, case.length),
    }


def _part(inputs: Inputs, row: int, head: int) -> dict[str, Tensor]:
    """One row and channel; B and C belong to a row."""
    kept = {name: inputs[name][row : row + 1, head : head + 1] for name in ("u", "delta") if name in inputs}
    kept |= {name: inputs[name][row : row + 1] for name in ("B", "C") if name in inputs}
    return kept | ({"A": inputs["A"][head : head + 1]} if "A" in inputs else {})


def _formula(case: Case, inputs: Inputs, positions: Tensor) -> Tensor:
    """y_t = sum_j C_t exp(A (S_t - S_j)) B_j s_j u_j with S the running sum of the steps s: no recurrence, one channel.

    Sums are float32 at least, as in every implementation.
    """
    dtype = inputs["u"].dtype
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    step = F.softplus(inputs["delta"][0, 0, :, 0].double())
    passed = step.cumsum(0)
    exponent = (passed[positions, None] - passed)[..., None] * inputs["A"][0].double()
    hidden = ~visible(positions, case.length)[..., None]
    decay = exponent.masked_fill(hidden, float("-inf")).to(compute).exp()
    written = inputs["B"][0].to(compute) * (step.to(compute) * inputs["u"][0, 0, :, 0].to(compute))
    state = torch.einsum("njs,sj->ns", decay, written)
    output = (state * inputs["C"][0].to(compute)[:, positions].mT).sum(-1)
    return output[None, None, :, None].to(dtype)


def _scan(path: str, inputs: Inputs) -> Tensor:
    from jrt.kernels.selective_scan import implementation

    u, delta = inputs["u"].squeeze(-1), inputs["delta"].squeeze(-1)
    output, _ = implementation(path)(u, delta, inputs["A"], inputs["B"], inputs["C"], None, None, None, None, None)
    return output.unsqueeze(-1)


def _work(case: Case) -> Work:
    forward = roofline.scan(case.batch, case.heads * CHANNELS_OF_A_HEAD, case.length, STATES, size=case.size)
    return forward if case.phase == "prefill" else Work(0, 2 * forward.bytes)


SCAN = Operation(
    name="selective scan",
    inputs=_inputs,
    roles={"u": "key", "delta": "key"},
    formula=_formula,
    work=_work,
    part=_part,
)


def _forward(path: str) -> Callable[[Case, Inputs], Tensor]:
    return lambda case, inputs: _scan(path, inputs)


def _obstacle(case: Case, *, path: str) -> str | None:
    from jrt.kernels.selective_scan import Situation, choose

    if case.length > _LONGEST:
        return f"checked up to {_LONGEST} positions"
    if path == "torch" and case.device.type == "cuda" and case.length > _LONGEST_LOOP:
        return f"launches several kernels a position; up to {_LONGEST_LOOP} positions"
    situation = Situation(case.device, case.dtype, STATES, gradients=case.phase == "backward")
    return dict(choose(situation).passed_over).get(path)


def _way(name: str, path: str, *devices: str, ours: bool = True) -> Way:
    return Way(
        name,
        "scan",
        SCAN,
        _forward(path),
        phases=("prefill", "backward"),
        devices=devices,
        ours=ours,
        obstacle=partial(_obstacle, path=path),
        temporary=lambda case: 32 * case.count * CHANNELS_OF_A_HEAD * case.length,
    )


WAYS = (
    _way("scan, Triton", "triton", "cuda"),
    _way("scan, compiled", "compiled", "cpu"),
    _way("scan, plain torch", "torch", "cpu", "cuda"),
    _way("mamba-ssm", "mamba_ssm", "cuda", ours=False),
)
