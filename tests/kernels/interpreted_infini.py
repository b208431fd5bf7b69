"""Runs the Triton path of Infini-attention in the interpreter and prints its errors as JSON; a process of its own,
started by the test: Triton decides when a kernel is defined whether it is interpreted."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

import torch
from infini_inputs import infini_inputs, leaves, reference, relative_error, to
from torch import Tensor

from jrt.kernels.infini import ops, sums
from jrt.kernels.infini.triton_path import infini_attention_triton

torch.set_num_threads(1)


def poison(*shape: object, **options: object) -> Tensor:
    """Memory that was never written must not matter."""
    made = original_empty(*shape, **options)  # type: ignore[operator]
    return made.fill_(float("nan")) if made.is_floating_point() else made


original_empty = Tensor.new_empty
Tensor.new_empty = poison  # type: ignore[method-assign, assignment]
torch.empty_like = lambda tensor: torch.full_like(tensor, float("nan"))  # type: ignore[assignment]

DEFAULTS: dict[str, Any] = dict(rule="linear", feature_map="elu", epsilon=1e-3, scale=0.3)


def errors(inputs: dict[str, Any], **options: Any) -> dict[str, float]:
    """Relative errors of output, state and every gradient against the definition in float64."""
    tensors, settings, results = infini_inputs(**inputs), DEFAULTS | options, []
    real = tensors.get("mask", torch.ones(tensors["value"].shape[0], inputs["length"], dtype=torch.bool))
    for dtype in (torch.float64, torch.float32):
        arguments = to(tensors, dtype)
        parameters = leaves(arguments)
        if dtype == torch.float64:
            output, state = reference(arguments, **settings)
        else:
            empty = dict(state=None, mask=None, write_gate=None)
            output, state = infini_attention_triton(**(empty | arguments), **settings)
        seen = output.mT.masked_select(real[:, None, None])
        (seen.sin().sum() + state.memory.cos().sum() + state.normaliser.sin().sum()).backward()
        gradients = {name: torch.zeros_like(x) if x.grad is None else x.grad for name, x in parameters.items()}
        results.append(dict(output=seen, memory_after=state.memory, normaliser_after=state.normaliser) | gradients)
    right, found = results
    return {name: relative_error(found[name], right[name]) for name in right}


def expanded_gradient() -> dict[str, float]:
    """`sum().backward()` hands the kernels a gradient without memory of its own."""
    tensors, found = infini_inputs(rows=1, heads=2, pairs=1, length=40, width=16, value_width=16), list[Tensor]()
    for dtype in (torch.float64, torch.float32):
        arguments = to(tensors, dtype)
        value = leaves(arguments)["value"]
        if dtype == torch.float64:
            output, _ = reference(arguments, segment_length=16, **DEFAULTS)
        else:
            empty = dict(state=None, mask=None, write_gate=None)
            output, _ = infini_attention_triton(**(empty | arguments), segment_length=16, **DEFAULTS)
        output.sum().backward()
        assert value.grad is not None
        found.append(value.grad)
    return {"value": relative_error(found[1], found[0])}


def opcheck() -> list[dict[str, str]]:
    """torch's own check of the registered operations: schema, fake tensors, autograd, compiled gradients."""
    Tensor.new_empty = original_empty  # type: ignore[method-assign]
    tensors = to(infini_inputs(length=24, width=16, value_width=16, masked=True), torch.float32)
    source = torch.Generator().manual_seed(1)
    states = (torch.randn(2, 2, 2, 16, 16, generator=source), torch.rand(2, 2, 2, 16, generator=source))
    given = [tensors[name].requires_grad_() for name in ("query", "key", "value", "memory_query")]
    given += [part.requires_grad_() for part in states]
    arguments = (*given, tensors["gate"].requires_grad_(), tensors["mask"], 16, True, 0.25, 1e-3)
    keys, values = tensors["key"].detach().requires_grad_(), tensors["value"].detach().requires_grad_()
    weight = torch.rand(2, 2, 24, generator=source).requires_grad_()
    return [
        torch.library.opcheck(ops.infini_read, arguments),
        torch.library.opcheck(sums.infini_sums, (keys, values, weight, 16, True)),
        torch.library.opcheck(sums.infini_sums, (keys, values, None, 16, False)),
    ]


if __name__ == "__main__":
    WIDE: dict[str, Any] = dict(width=16, value_width=32)
    results: dict[str, Any] = {
        "a part of a segment": errors(
            dict(rows=1, length=41, heads=3, pairs=3, state=True, **WIDE), segment_length=16, feature_map="relu"
        ),
        "less than a segment": errors(dict(rows=1, length=5, state=True, **WIDE), segment_length=16),
        "a segment of 20": errors(dict(rows=1, heads=2, pairs=2, length=50, **WIDE), segment_length=20),
        "two blocks a segment": errors(
            dict(rows=1, heads=2, pairs=1, length=70, width=16, value_width=16), segment_length=70
        ),
        "masked": errors(dict(length=41, masked=True, state=True, write_gate=True, **WIDE), segment_length=16),
        "delta": errors(dict(rows=1, heads=2, pairs=1, length=41, **WIDE), segment_length=16, rule="delta"),
        "delta_corrected": errors(
            dict(rows=1, heads=1, pairs=1, length=37, state=True, masked=True, **WIDE),
            segment_length=16,
            rule="delta_corrected",
            feature_map="relu",
        ),
        "written to the end": errors(
            dict(rows=2, heads=2, pairs=2, length=40, width=32, value_width=16, write_gate=True), segment_length=20
        ),
        "expanded gradient": expanded_gradient(),
    }
    results["opcheck"] = opcheck()
    print(json.dumps(results))
