"""Causal softmax attention by torch's SDPA, every back end on its own: what most models run, so in several groups."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from jrt.bench import roofline
from jrt.bench.cells import Case, Inputs, Operation, Way
from jrt.bench.parts import head_part, normal, visible
from jrt.bench.roofline import Work

BACK_ENDS = {
    "SDPA flash": "FLASH_ATTENTION",
    "SDPA cuDNN": "CUDNN_ATTENTION",
    "SDPA efficient": "EFFICIENT_ATTENTION",
}
"""Those of a GPU, by the names in torch.nn.attention.SDPBackend. On a CPU there is one."""


def softmax(width: int, window: int | None = None) -> Operation:
    """Causal softmax attention over heads `width` wide, over everything or in a window."""
    return Operation(
        name="causal softmax attention" if window is None else "causal softmax attention in a window",
        inputs=partial(_inputs, width=width),
        roles={"q": "query", "k": "key", "v": "key"},
        formula=partial(_formula, width=width, window=window),
        work=partial(_work, width=width, window=window),
        part=head_part,
    )


def _inputs(case: Case, *, width: int) -> dict[str, Tensor]:
    return normal(case, {"q": (case.queries, width), "k": (case.length, width), "v": (case.length, width)})


def _formula(case: Case, inputs: Inputs, positions: Tensor, *, width: int, window: int | None) -> Tensor:
    q = inputs["q"][:, :, positions - (case.length - case.queries)]
    scores = (q @ inputs["k"].mT * width**-0.5).masked_fill(~visible(positions, case.length, window), float("-inf"))
    return scores.softmax(-1) @ inputs["v"]


def _work(case: Case, *, width: int, window: int | None) -> Work:
    if case.phase == "decode":
        seen = case.length if window is None else min(case.length, window)
        return roofline.attention_step(case.count, seen, width=width, size=case.size)
    form = roofline.attention if case.phase == "prefill" else roofline.attention_backward
    return form(case.count, case.length, width=width, size=case.size, window=window)


def sdpa_ways(group: str, width: int) -> list[Way]:
    """Causal SDPA over the whole history, as ways of a group: one on a CPU, every back end on a GPU."""
    operation = softmax(width)
    ways = [Way("causal SDPA", group, operation, _forward(None), _decode(None), devices=("cpu",))]
    for name, back_end in BACK_ENDS.items():
        ways.append(Way(name, group, operation, _forward(back_end), _decode(back_end), devices=("cuda",)))
    return ways


def _back_end(name: str | None) -> Any:
    from contextlib import nullcontext

    from torch.nn.attention import SDPBackend, sdpa_kernel

    return nullcontext() if name is None else sdpa_kernel([getattr(SDPBackend, name)])


def _forward(name: str | None) -> Callable[[Case, Inputs], Tensor]:
    def forward(case: Case, inputs: Inputs) -> Tensor:
        with _back_end(name):
            return F.scaled_dot_product_attention(inputs["q"], inputs["k"], inputs["v"], is_causal=True)

    return forward


def _decode(name: str | None) -> Callable[[Case, Inputs], Callable[[], Tensor]]:
    def decode(case: Case, inputs: Inputs) -> Callable[[], Tensor]:
        def step() -> Tensor:
            with _back_end(name):
                return F.scaled_dot_product_attention(inputs["q"], inputs["k"], inputs["v"])

        return step

    return decode


def masked(case: Case, inputs: Inputs, *, window: int) -> Tensor:
    """SDPA with the window as a mask: what a model does that has no window kernel."""
    positions = torch.arange(case.length, device=case.device)
    mask = visible(positions, case.length, window)
    return F.scaled_dot_product_attention(inputs["q"], inputs["k"], inputs["v"], attn_mask=mask)
