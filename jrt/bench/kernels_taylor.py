"""The group "taylor": Taylor linear attention and its prefix form, and what is run in their place.

Feature dimension 16 and values 64 wide, as in the published models. Causal softmax attention has queries and keys 64
wide, as the softmax model of the same size has; Based's kernels of the package fla compute the same formula as ours.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from jrt.bench import roofline
from jrt.bench.cells import Case, Inputs, Operation, Phase, Role, Way
from jrt.bench.kernels_attention import sdpa_ways
from jrt.bench.parts import head_part, normal, visible
from jrt.bench.roofline import Work

FEATURE_DIM, WIDTH = 16, 64
_QUADRATIC = 4096  # the quadratic form keeps all weights: 16 heads of 4096 x 4096 are 1 GiB


def _inputs(case: Case) -> dict[str, Tensor]:
    return normal(
        case,
        {
            "q": (case.queries, FEATURE_DIM),
            "k": (case.length, FEATURE_DIM),
            "v": (case.length, WIDTH),
        },
    )


def _prefix_inputs(case: Case) -> dict[str, Tensor]:
    """The encoder reads half as many positions, as in the paper's benchmark."""
    encoder = normal(case, {"ek": (_encoder(case), FEATURE_DIM), "ev": (_encoder(case), WIDTH)}, seed=1)
    return _inputs(case) | encoder


def _encoder(case: Case) -> int:
    return max(case.length // 2, 1)


def _series(scores: Tensor) -> Tensor:
    return 1 + scores + scores * scores / 2


def _formula(case: Case, inputs: Inputs, positions: Tensor) -> Tensor:
    """The quadratic form of o_i = sum_j w_ij v_j / sum_j w_ij; an encoder's positions are seen by all."""
    q = inputs["q"][:, :, positions - (case.length - case.queries)] * FEATURE_DIM**-0.5
    weights, v = _series(q @ inputs["k"].mT) * visible(positions, case.length).to(q.dtype), inputs["v"]
    if "ek" in inputs:
        weights = torch.cat([_series(q @ inputs["ek"].mT), weights], -1)
        v = torch.cat([inputs["ev"], v], 2)
    return weights @ v / weights.sum(-1, keepdim=True)


def _work(case: Case) -> Work:
    return _prefixed_work(case, 0)


def _prefixed_work(case: Case, encoder: int) -> Work:
    count = case.count * case.length
    if case.phase == "decode":
        return roofline.taylor_step(case.count)
    form = roofline.taylor if case.phase == "prefill" else roofline.taylor_backward
    return form(count, encoder=case.count * encoder, size=case.size)


TAYLOR = Operation(
    name="Taylor attention",
    inputs=_inputs,
    roles={"q": "query", "k": "key", "v": "key"},
    formula=_formula,
    work=_work,
    part=head_part,
)
_ENCODER_ROLES: dict[str, Role] = {"ek": "all", "ev": "all"}
PREFIX = replace(
    TAYLOR,
    name="prefix linear attention",
    inputs=_prefix_inputs,
    roles=dict(TAYLOR.roles) | _ENCODER_ROLES,
    work=lambda case: _prefixed_work(case, _encoder(case)),
)


def _taylor(case: Case, inputs: Inputs) -> Tensor:
    from jrt.kernels.taylor import taylor_attention

    return taylor_attention(inputs["q"], inputs["k"], inputs["v"])[0]


def _taylor_decode(case: Case, inputs: Inputs) -> Callable[[], Tensor]:
    from jrt.kernels.taylor import taylor_state, taylor_step

    state = taylor_state(inputs["k"][:, :, :-1], inputs["v"][:, :, :-1])
    q, k, v = inputs["q"], inputs["k"][:, :, -1:].contiguous(), inputs["v"][:, :, -1:].contiguous()
    return lambda: taylor_step(q, k, v, state)


def _prefix(case: Case, inputs: Inputs) -> Tensor:
    from jrt.kernels.taylor import taylor_attention, taylor_state

    return taylor_attention(inputs["q"], inputs["k"], inputs["v"], taylor_state(inputs["ek"], inputs["ev"]))[0]


def _quadratic(case: Case, inputs: Inputs) -> Tensor:
    from jrt.kernels.taylor.reference import taylor_attention

    return taylor_attention(inputs["q"], inputs["k"], inputs["v"])[0]


def _scores(case: Case) -> float:
    return case.count * float(case.length) ** 2


def _fla(name: str) -> Callable[[Case, Inputs], Tensor]:
    """A kernel of fla 0.6. It takes (B, T, H, D) and wants a dense (B, H, T, D) of it, so that a view is not copied."""

    def forward(case: Case, inputs: Inputs) -> Tensor:
        based = importlib.import_module("fla.ops.based")
        output = getattr(based, name)(*(inputs[which].transpose(1, 2) for which in "qkv"), use_norm=True)
        tensor: Tensor = output.transpose(1, 2)
        return tensor

    return forward


def _no_fla(case: Case) -> str | None:
    found = importlib.util.find_spec("fla") is not None
    return None if found else "fla is not installed (pip install flash-linear-attention)"


_BOTH: tuple[Phase, ...] = ("prefill", "backward")
WAYS = (
    Way("taylor", "taylor", TAYLOR, _taylor, _taylor_decode, ours=True),
    Way("taylor with prefix (PLA)", "taylor", PREFIX, _prefix, phases=_BOTH),
    *sdpa_ways("taylor", WIDTH),
    Way(
        "fla fused_chunk_based",
        "taylor",
        TAYLOR,
        _fla("fused_chunk_based"),
        phases=_BOTH,
        devices=("cuda",),
        obstacle=_no_fla,
    ),
    Way(
        "fla parallel_based",
        "taylor",
        TAYLOR,
        _fla("parallel_based"),
        phases=_BOTH,
        devices=("cuda",),
        obstacle=_no_fla,
        cost=lambda case: Work(_scores(case) * (FEATURE_DIM + WIDTH), 0),
    ),
    Way(
        "quadratic form",
        "taylor",
        TAYLOR,
        _quadratic,
        phases=_BOTH,
        obstacle=lambda case: f"keeps all weights; up to {_QUADRATIC} positions" if case.length > _QUADRATIC else None,
        temporary=lambda case: 4 * 4 * _scores(case),
    ),
)
