"""Infini-attention: the definition against closed forms, plain torch against the definition, and what must hold."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from infini_inputs import infini_inputs, leaves, reference, relative_error, to

from jrt.kernels.infini import InfiniState, infini_attention
from jrt.kernels.infini.reference import infini_attention_reference

torch.set_num_threads(1)
RULES = ["linear", "delta", "delta_corrected"]
KEY = torch.tensor([0.0, 2.0, 0.0, 0.0], dtype=torch.float64)  # one direction that ReLU leaves as it is
ONE, TWO = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)


def read_back(attention: Any, rule: str, segments: list[list[Tensor]]) -> Tensor:
    """What KEY reads, (2,), after segments of values that were all written under KEY; the gate is open.

    Segments that are shorter than the longest are padded.
    """
    size = max(len(segment) for segment in segments)
    values = [value for segment in segments for value in [*segment, *[ONE * 0] * (size - len(segment))]]
    mask = [index < len(segment) for segment in segments for index in range(size)]
    value = torch.stack([*values, ONE * 7])[None, None]
    key = KEY.expand(1, 1, value.shape[2], 4)
    found, _ = attention(
        key * 0, key * 0, value, key, key, torch.full((1,), 40.0, dtype=torch.float64), None, segment_length=size,
        rule=rule, feature_map="relu", mask=torch.tensor([[*mask, True]]), write_gate=None, scale=1.0, epsilon=1e-12,
    )  # fmt: skip
    return found[0, 0, -1]


@pytest.mark.parametrize("attention", [infini_attention_reference, infini_attention])
@pytest.mark.parametrize(
    ("rule", "segments", "one", "two"),
    [
        ("linear", [[ONE]], 1.0, 0.0),
        ("delta", [[ONE]], 1.0, 0.0),
        ("delta_corrected", [[ONE]], 1.0, 0.0),
        # the same pair again and again: the published delta rule halves it
        ("linear", [[ONE]] * 100, 1.0, 0.0),
        ("delta", [[ONE]] * 100, 0.5, 0.0),
        ("delta_corrected", [[ONE]] * 100, 1.0, 0.0),
        # five times one, then two
        ("linear", [[ONE]] * 5 + [[TWO]], 5 / 6, 1 / 6),
        ("delta", [[ONE]] * 5 + [[TWO]], 1 / 3, 1 / 6),
        ("delta_corrected", [[ONE]] * 5 + [[TWO]], 0.0, 1.0),
        # once one, then twenty copies of two in one segment: in the published delta rule every copy corrects
        ("linear", [[ONE], [TWO] * 20], 1 / 21, 20 / 21),
        ("delta", [[ONE], [TWO] * 20], -19 / 21, 20 / 21),
        ("delta_corrected", [[ONE], [TWO] * 20], 0.0, 1.0),
    ],
)
def test_reads_back_what_the_rule_says(
    attention: Any, rule: str, segments: list[list[Tensor]], one: float, two: float
) -> None:
    found = read_back(attention, rule, segments)
    torch.testing.assert_close(found, one * ONE + two * TWO, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("feature_map", ["elu", "relu"])
@pytest.mark.parametrize(
    "case",
    [
        dict(length=40),
        dict(length=37, state=True),
        dict(length=3, state=True, masked=True),
        dict(length=37, masked=True, write_gate=True, state=True),
        dict(length=16, heads=3, pairs=3, masked=True),
        dict(length=21, rows=1, heads=4, pairs=1, write_gate=True),
    ],
    ids=str,
)
def test_plain_torch_equals_the_definition(rule: str, feature_map: str, case: dict[str, Any]) -> None:
    tensors = infini_inputs(**case)
    real = tensors.get("mask", torch.ones(tensors["value"].shape[0], case["length"], dtype=torch.bool))
    options: dict[str, Any] = dict(segment_length=8, rule=rule, feature_map=feature_map, epsilon=1e-3)
    results = []
    for attention, dtype in ((reference, torch.float64), (infini_attention, torch.float64)):
        arguments = to(tensors, dtype)
        parameters = leaves(arguments)
        if attention is reference:
            output, state = reference(arguments, **options)
        else:
            output, state = infini_attention(**arguments, **options)
        seen = output.mT.masked_select(real[:, None, None]).sin()
        (seen.sum() + state.memory.cos().sum() + state.normaliser.sin().sum()).backward()
        gradients = {name: x.grad if x.grad is not None else torch.zeros_like(x) for name, x in parameters.items()}
        results.append(dict(output=seen, memory_after=state.memory, normaliser_after=state.normaliser) | gradients)
    right, found = results
    assert right.keys() == found.keys()
    for name in right:
        torch.testing.assert_close(found[name], right[name], atol=1e-9, rtol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("rule", RULES)
def test_float32_and_bfloat16(rule: str) -> None:
    tensors = infini_inputs(length=300, width=16, value_width=16, state=True, masked=True)
    right, right_state = reference(tensors, segment_length=32, rule=rule)
    found, state = infini_attention(**to(tensors, torch.float32), segment_length=32, rule=rule)
    assert relative_error(found, right) < 1e-5 and relative_error(state.memory, right_state.memory) < 1e-5
    half, state = infini_attention(**to(tensors, torch.bfloat16), segment_length=32, rule=rule)
    assert half.dtype == torch.bfloat16 and state.memory.dtype == state.normaliser.dtype == torch.float32
    assert 1e-4 < relative_error(half, right) < 0.03


@settings(deadline=None, max_examples=25)
@given(
    cuts=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    rest=st.integers(0, 6),
    rule=st.sampled_from(RULES),
    masked=st.booleans(),
)
def test_any_cut_at_borders_is_the_whole(cuts: list[int], rest: int, rule: Any, masked: bool) -> None:
    size = 7
    tensors = infini_inputs(length=sum(cuts) * size + rest, masked=masked, write_gate=True)
    right, right_state = infini_attention(**tensors, segment_length=size, rule=rule)
    state, start, outputs = None, 0, []
    for length in [*(cut * size for cut in cuts), rest]:
        part = {name: x[..., start : start + length] for name, x in tensors.items() if name in ("mask", "write_gate")}
        part |= {name: x[:, :, start : start + length] for name, x in tensors.items() if x.dim() == 4}
        if length:
            output, state = infini_attention(**part, gate=tensors["gate"], state=state, segment_length=size, rule=rule)
            outputs.append(output)
        start += length
    torch.testing.assert_close(torch.cat(outputs, 2), right, atol=1e-10, rtol=1e-10)
    assert state is not None
    torch.testing.assert_close(state.memory, right_state.memory, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("rule", RULES)
def test_is_causal(rule: Any) -> None:
    tensors = infini_inputs(length=30)
    right, _ = infini_attention(**tensors, segment_length=8, rule=rule)
    for position in (0, 7, 8, 20, 29):
        changed = {name: x.clone() for name, x in tensors.items()}
        for name in ("query", "key", "value", "memory_query", "memory_key"):
            changed[name][:, :, position] += 1
        found, _ = infini_attention(**changed, segment_length=8, rule=rule)
        assert torch.equal(found[:, :, :position], right[:, :, :position])
        assert not torch.isclose(found[:, :, position:], right[:, :, position:]).all(dim=-1).any()


def test_a_segment_reads_before_it_writes_and_every_later_token_reads() -> None:
    """A changed memory key at position 3 is first seen at position 8, the next segment's first, then everywhere."""
    tensors = infini_inputs(length=18)
    changed = tensors | {"memory_key": tensors["memory_key"].clone()}
    changed["memory_key"][:, :, 3] += 1
    right, found = (infini_attention(**x, segment_length=8)[0] for x in (tensors, changed))
    different = (right != found).any(-1).any(1).any(0)
    assert different.tolist() == [False] * 8 + [True] * 10


@pytest.mark.parametrize("rule", RULES)
def test_what_padding_holds_never_matters(rule: Any) -> None:
    tensors = infini_inputs(masked=True)
    noisy = {name: x.clone() for name, x in tensors.items()}
    hidden = ~tensors["mask"]
    for name in ("query", "key", "value", "memory_query", "memory_key"):
        noisy[name].transpose(1, 2)[hidden] = 1e3
    right, right_state = infini_attention(**tensors, segment_length=8, rule=rule)
    found, state = infini_attention(**noisy, segment_length=8, rule=rule)
    assert torch.equal(found.transpose(1, 2)[~hidden], right.transpose(1, 2)[~hidden])
    assert torch.equal(state.memory, right_state.memory) and torch.equal(state.normaliser, right_state.normaliser)
    assert found.isfinite().all()


def test_nothing_written_is_local_attention_alone() -> None:
    """A gate that is wide open loses nothing in the first segment, nor where every write was exactly nothing."""
    tensors = infini_inputs(length=24) | {"gate": torch.full((4,), 3.0, dtype=torch.float64)}
    shut = tensors | {"gate": torch.full((4,), -1e4, dtype=torch.float64)}
    local, _ = infini_attention(**shut, segment_length=8)
    found, _ = infini_attention(**tensors, segment_length=8)
    assert torch.equal(found[:, :, :8], local[:, :, :8]) and not torch.isclose(found[:, :, 8:], local[:, :, 8:]).any()
    silent = tensors | {"memory_key": -tensors["memory_key"].abs()}
    found, state = infini_attention(**silent, segment_length=8, feature_map="relu")
    torch.testing.assert_close(found, local)
    assert not state.normaliser.any()


def test_heads_of_a_group_read_their_own_memory() -> None:
    """With grouped queries the result is that of keys and values repeated side by side (not tiled)."""
    tensors = infini_inputs(heads=6, pairs=2, state=True)
    repeated = {
        name: x.repeat_interleave(3, 1) if name in ("key", "value", "memory_key") else x for name, x in tensors.items()
    }
    repeated["state"] = InfiniState(*(part.repeat_interleave(3, 1) for part in tensors["state"]))
    right, _ = infini_attention(**repeated, segment_length=8)
    found, _ = infini_attention(**tensors, segment_length=8)
    torch.testing.assert_close(found, right, atol=1e-12, rtol=1e-12)


def test_gradients_reach_through_every_segment() -> None:
    tensors = infini_inputs(length=40)
    tensors["value"].requires_grad_()
    output, _ = infini_attention(**tensors, segment_length=8)
    output[:, :, -1].sum().backward()
    assert (tensors["value"].grad[:, :, :8].abs().sum((0, 1, 3)) > 0).all()


def test_the_normaliser_of_a_million_tokens() -> None:
    """512 segments of 2048 keys, one call a segment: below 1e-6 of the sum in float64."""
    source = torch.Generator().manual_seed(0)
    state, right = None, torch.zeros(8, dtype=torch.float64)
    for _ in range(512):
        key = torch.randn(1, 1, 2048, 8, generator=source)
        none = torch.zeros(1, 1, 2048, 8)
        _, state = infini_attention(none, none, none, none, key, torch.zeros(1), state, segment_length=2048)
        right += (torch.nn.functional.elu(key.double()) + 1).sum((0, 1, 2))
    assert state is not None and relative_error(state.normaliser[0, 0], right) < 1e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(memory_key=torch.zeros(2, 4, 37, 6)), r"memory_key is \(2, 4, 37, 6\).*\(2, 2, 37, 6\)"),
        (dict(gate=torch.zeros(2)), r"gate is \(2,\).*\(4,\)"),
        (dict(mask=torch.ones(2, 37)), "bool"),
        (dict(segment_length=0), "at least 1"),
        (dict(rule="other"), "rule='other'"),
        (dict(key=torch.zeros(2, 3, 37, 6)), "multiple of Hkv"),
        (dict(value=torch.zeros(2, 2, 37, 5)), "share one floating type"),
    ],
)
def test_says_what_does_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        infini_attention(**(dict(segment_length=8) | infini_inputs() | changes))
