"""The group "infini": Infini-attention against attention to the whole history, heads 128 wide, segments of 2048."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jrt.bench import roofline
from jrt.bench.cells import Case, Inputs, Operation, Phase, Way
from jrt.bench.kernels_attention import sdpa_ways
from jrt.bench.parts import head_part, normal
from jrt.bench.roofline import Work

if TYPE_CHECKING:
    from jrt.kernels.infini import Rule

WIDTH, SEGMENT = 128, 2048
_CHECKED = 4 * SEGMENT  # positions compared with the formula, from the beginning
_NAMES = ("q", "k", "v", "mq", "mk")
_OPTIONS: dict[str, Any] = {
    "segment_length": SEGMENT,
    "feature_map": "elu",
    "mask": None,
    "write_gate": None,
    "scale": WIDTH**-0.5,
    "epsilon": 1e-6,
}
"""What infini_attention passes on by default."""


def _inputs(case: Case) -> dict[str, Tensor]:
    """Queries and keys with and without positions, values, and gates between a quarter and three quarters."""
    inputs = normal(case, dict.fromkeys(_NAMES, (case.length, WIDTH)))
    return inputs | {"gate": torch.linspace(-1, 1, case.heads, device=case.device, dtype=case.dtype)}


def _formula(case: Case, inputs: Inputs, positions: Tensor, *, rule: Rule) -> Tensor:
    from jrt.kernels.infini.reference import infini_attention_reference

    seen = int(positions[-1]) + 1
    q, k, v, mq, mk = (inputs[name][:, :, :seen] for name in _NAMES)
    output, _ = infini_attention_reference(q, k, v, mq, mk, inputs["gate"], None, rule=rule, **_OPTIONS)
    return output[:, :, positions]


def _work(case: Case) -> Work:
    forward = roofline.infini(case.count, case.length, SEGMENT, width=WIDTH, size=case.size)
    return forward if case.phase == "prefill" else Work(2.5 * forward.flops, 2 * forward.bytes)


def _operation(rule: Rule) -> Operation:
    return Operation(
        name=f"Infini-attention, {rule}",
        inputs=_inputs,
        roles={"q": "query", "mq": "query", "k": "key", "v": "key", "mk": "key"},
        formula=partial(_formula, rule=rule),
        work=_work,
        part=head_part,
        positions=lambda length: torch.arange(min(length, _CHECKED)),
    )


def _fused(case: Case, inputs: Inputs, *, rule: Rule) -> Tensor:
    from jrt.kernels.infini import infini_attention

    q, k, v, mq, mk = (inputs[name] for name in _NAMES)
    return infini_attention(q, k, v, mq, mk, inputs["gate"], segment_length=SEGMENT, rule=rule)[0]


def _unfused(case: Case, inputs: Inputs) -> Tensor:
    from jrt.kernels.infini import implementation

    tensors = [inputs[name] for name in _NAMES]
    return implementation("torch")(*tensors, inputs["gate"], None, rule="linear", **_OPTIONS)[0]


def _same_path(case: Case) -> str | None:
    from jrt.kernels.infini import choose

    path = choose(case.device, case.dtype, WIDTH, WIDTH).path
    return "it is the path that the row above took" if path == "torch" else None


_BOTH: tuple[Phase, ...] = ("prefill", "backward")
_LINEAR, _DELTA = _operation("linear"), _operation("delta")
WAYS = (
    Way("Infini-attention", "infini", _LINEAR, partial(_fused, rule="linear"), phases=_BOTH, ours=True),
    Way("Infini-attention, delta", "infini", _DELTA, partial(_fused, rule="delta"), phases=_BOTH),
    Way(
        "Infini-attention, unfused",
        "infini",
        _LINEAR,
        _unfused,
        phases=_BOTH,
        devices=("cuda",),
        obstacle=_same_path,
    ),
    *sdpa_ways("infini", WIDTH),
)
