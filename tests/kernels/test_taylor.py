"""Taylor attention against closed forms, the quadratic formula in float64, and itself in pieces."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from jrt.kernels import native
from jrt.kernels.taylor import TaylorState, num_features, reference, taylor_attention, taylor_state, taylor_step

D = 16


def inputs(
    length: int, *, batch: int = 2, heads: int = 3, width: int = 20, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return normal(batch, heads, length, D), normal(batch, heads, length, D), normal(batch, heads, length, width)


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def padding_mask(batch: int, length: int) -> Tensor:
    """Row b has b * 3 positions of padding on the left."""
    return torch.arange(length)[None] >= 3 * torch.arange(batch)[:, None]


# Closed forms, exact in float64.


def test_zero_queries_average_the_values() -> None:
    q, k, v = inputs(37)
    o, _ = taylor_attention(torch.zeros_like(q), k, v)
    count = torch.arange(1, 38, dtype=torch.float64)[:, None]
    assert error(o, v.cumsum(2) / count) < 1e-12


def test_zero_queries_average_the_prefix_too() -> None:
    q, k, v = inputs(37)
    _, k_encoder, v_encoder = inputs(11, seed=1)
    o, _ = taylor_attention(torch.zeros_like(q), k, v, taylor_state(k_encoder, v_encoder))
    count = torch.arange(1, 38, dtype=torch.float64)[:, None]
    assert error(o, (v.cumsum(2) + v_encoder.sum(2, keepdim=True)) / (count + 11)) < 1e-12


def test_equal_values_come_back_whatever_is_asked() -> None:
    q, k, v = inputs(70)
    constant = v[:, :, :1].expand_as(v)
    o, _ = taylor_attention(5 * q, 5 * k, constant)
    assert error(o, constant) < 1e-12


def test_features_are_the_series_of_the_exponential() -> None:
    from jrt.kernels.taylor.features import feature_weight, packed_features

    q, k, _ = inputs(9)
    s = (q * k).sum(-1) / D**0.5
    found = (packed_features(q / D**0.5) * feature_weight(D, q) * packed_features(k)).sum(-1)
    assert error(found, 1 + s + s * s / 2) < 1e-13
    assert num_features(D) == 160


def test_the_order_of_the_prefix_does_not_matter_and_that_of_the_rest_does() -> None:
    q, k, v = inputs(20)
    _, k_encoder, v_encoder = inputs(11, seed=1)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    o, _ = taylor_attention(q, k, v, taylor_state(k_encoder, v_encoder))
    shuffled, _ = taylor_attention(q, k, v, taylor_state(k_encoder[:, :, order], v_encoder[:, :, order]))
    assert error(shuffled, o) < 1e-12
    assert error(taylor_attention(q, k.flip(2), v.flip(2))[0], taylor_attention(q, k, v)[0]) > 1e-2


def test_nothing_is_read_before_its_time() -> None:
    q, k, v = inputs(100)
    o, _ = taylor_attention(q, k, v)
    k[:, :, 70], v[:, :, 70] = 9, 9
    changed, _ = taylor_attention(q, k, v)
    assert torch.equal(changed[:, :, :70], o[:, :, :70])
    assert not torch.equal(changed[:, :, 70], o[:, :, 70])


# Against the formula.

CASES = list(itertools.product([1, 63, 64, 65, 200], [False, True], [False, True]))


@pytest.mark.parametrize(("length", "continued", "padded"), CASES)
@pytest.mark.parametrize("width", [32, 64, 112, 128])
def test_equals_the_formula(length: int, continued: bool, padded: bool, width: int) -> None:
    q, k, v = inputs(length, width=width)
    start = taylor_state(*inputs(30, width=width, seed=1)[1:]) if continued else None
    mask = padding_mask(2, length) if padded else None
    expected, expected_state = reference.taylor_attention(q, k, v, start, mask)
    single = None if start is None else TaylorState(*(part.float() for part in start))
    o, state = taylor_attention(q.float(), k.float(), v.float(), single, mask)
    real = slice(None) if mask is None else slice(3, None)  # where every row is real
    if length > 3:
        assert error(o[:, :, real], expected[:, :, real]) < 1e-5
    assert error(state.values, expected_state.values) < 1e-5
    assert error(state.normalizer, expected_state.normalizer) < 1e-5
    assert error(taylor_attention(q, k, v, start, mask)[1].values, expected_state.values) < 1e-12


def test_one_head_one_row_and_another_feature_dimension() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, 50, width, generator=generator, dtype=torch.float64) for width in (4, 4, 8))
    o, state = taylor_attention(q, k, v, scale=0.3)
    expected, expected_state = reference.taylor_attention(q, k, v, scale=0.3)
    assert error(o, expected) < 1e-12
    assert error(state.values, expected_state.values) < 1e-12


def test_the_state_keeps_its_precision_in_bfloat16() -> None:
    q, k, v = inputs(500, dtype=torch.bfloat16)
    o, state = taylor_attention(q, k, v)
    expected, expected_state = reference.taylor_attention(q.double(), k.double(), v.double())
    assert (o.dtype, state.values.dtype) == (torch.bfloat16, torch.float32)
    assert error(state.values, expected_state.values) < 1e-5
    assert error(o, expected) < 5e-3


# In pieces.


@pytest.mark.parametrize("cuts", [[1, 2, 3], [64], [63, 65, 100], list(range(1, 150, 7))])
def test_any_chunking_is_the_whole(cuts: list[int]) -> None:
    q, k, v = inputs(150)
    whole, final = taylor_attention(q, k, v)
    state, pieces = None, []
    for start, stop in itertools.pairwise([0, *cuts, 150]):
        part = (..., slice(start, stop), slice(None))
        piece, state = taylor_attention(q[part], k[part], v[part], state)
        pieces.append(piece)
    assert state is not None
    assert error(torch.cat(pieces, 2), whole) < 1e-12
    assert error(state.values, final.values) < 1e-12


def test_steps_after_a_prefill_are_a_longer_prefill() -> None:
    q, k, v = inputs(90)
    whole, final = taylor_attention(q, k, v)
    _, state = taylor_attention(q[:, :, :70], k[:, :, :70], v[:, :, :70])
    for index in range(70, 90):
        part = (..., slice(index, index + 1), slice(None))
        o = taylor_step(q[part], k[part], v[part], state)
        assert error(o, whole[part]) < 1e-12
    assert error(state.values, final.values) < 1e-12


def test_a_masked_row_of_a_step_keeps_its_state() -> None:
    q, k, v = inputs(5)
    _, state = taylor_attention(q, k, v)
    before = state.values.clone()
    taylor_step(q[:, :, :1], k[:, :, :1], v[:, :, :1], state, torch.tensor([[True], [False]]))
    assert torch.equal(state.values[1], before[1])
    assert not torch.equal(state.values[0], before[0])


def test_padding_left_out_is_padding_that_was_never_there() -> None:
    q, k, v = inputs(40)
    o, state = taylor_attention(q, k, v, mask=padding_mask(2, 40))
    alone, alone_state = taylor_attention(q[1:, :, 3:], k[1:, :, 3:], v[1:, :, 3:])
    assert error(o[1:, :, 3:], alone) < 1e-12
    assert error(state.values[1:], alone_state.values) < 1e-12


def test_the_published_models_count_padding() -> None:
    """16 real and 16 padded positions: the constant feature counts 32, as in the released code."""
    _, k, v = inputs(32)
    mask = torch.arange(32)[None].expand(2, -1) >= 16
    legacy, strict = (taylor_state(k, v, mask, padding=padding) for padding in ("legacy", "strict"))
    constant = D * (D + 1) // 2 + D
    assert torch.equal(legacy.normalizer[..., constant], torch.full((2, 3), 32.0, dtype=torch.float64))
    assert torch.equal(strict.normalizer[..., constant], torch.full((2, 3), 16.0, dtype=torch.float64))


# Gradients and torch's machinery.


def test_gradients_are_those_of_the_formula() -> None:
    def leaves(seed: int = 0) -> list[Tensor]:
        start = taylor_state(*inputs(9, seed=1)[1:])
        return [tensor.detach().clone().requires_grad_() for tensor in (*inputs(130, seed=seed), *start)]

    mask = padding_mask(2, 130)
    weights = [tensor.detach() for tensor in inputs(130, seed=5)]
    gradients = []
    for function in (taylor_attention, reference.taylor_attention):
        tensors = leaves()
        o, state = function(*tensors[:3], TaylorState(*tensors[3:]), mask)
        loss = (o * mask[:, None, :, None] * weights[2]).sum() + state.values.sin().sum() + state.normalizer.cos().sum()
        gradients.append(torch.autograd.grad(loss, tensors))
    for ours, expected in zip(*gradients, strict=True):
        assert error(ours, expected) < 1e-10


def test_gradcheck() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, 2, 5, width, generator=generator, dtype=torch.float64, requires_grad=True) for width in (3, 3, 4)
    )
    assert torch.autograd.gradcheck(lambda *t: taylor_attention(*t)[0], (q, k, v))
    assert torch.autograd.gradcheck(lambda k, v: tuple(taylor_state(k, v)), (k, v))


def test_gradients_that_are_expanded() -> None:
    q, k, v = (tensor.requires_grad_() for tensor in inputs(70))
    o, _ = taylor_attention(q, k, v)
    (expanded,) = torch.autograd.grad(o.sum(), q, retain_graph=True)
    (dense,) = torch.autograd.grad(o, q, torch.ones_like(o))
    assert torch.equal(expanded, dense)


def test_the_registered_operations_keep_torchs_rules() -> None:
    q, k, v = (tensor.requires_grad_() for tensor in inputs(10, dtype=torch.float32))
    values, normalizer = (tensor.detach().requires_grad_() for tensor in taylor_state(k, v))
    torch.library.opcheck(torch.ops.jrt.taylor_state, (k, v, None))
    torch.library.opcheck(torch.ops.jrt.taylor_attention, (q, k, v, values, normalizer, None, 0.25, 1e-12))
    torch.library.opcheck(torch.ops.jrt.taylor_attention, (q, k, v, None, None, padding_mask(2, 10), 0.25, 1e-12))


def test_the_operations_without_gradients_keep_them_too() -> None:
    mask, (q, k, v) = padding_mask(2, 10), inputs(10, dtype=torch.float32)
    values, normalizer = taylor_state(k, v)
    o, denominator, *_ = torch.ops.jrt.taylor_attention(q, k, v, values, normalizer, mask, 0.25, 1e-12)
    saved = (q, k, v, values, normalizer, mask, o, denominator, 0.25)
    torch.library.opcheck(torch.ops.jrt.taylor_state_gradient, (values, normalizer, k, v, mask))
    torch.library.opcheck(torch.ops.jrt.taylor_attention_gradient, (o, values, normalizer, *saved))
    one = [tensor[:, :, :1].contiguous() for tensor in (q, k, v)]
    for real in (None, mask[:, 9:]):
        state = (values.clone(), normalizer.clone())
        torch.library.opcheck(torch.ops.jrt.taylor_step, (*one, *state, real, 0.25, 1e-12))


def test_outputs_lie_as_torch_was_told_whatever_the_inputs_do() -> None:
    """A compiled model relies on the strides that the fake operation promised."""
    q, k, v = (tensor.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for tensor in inputs(10, batch=1))
    o, state = taylor_attention(q, k, v)
    assert not q.is_contiguous() and o.is_contiguous()
    d_q, d_k, d_v = torch.ops.jrt.taylor_attention_gradient(
        o, *state, q, k, v, None, None, None, o, torch.ones(1, 3, 10, dtype=torch.float64), 0.25
    )[:3]
    assert d_q.is_contiguous() and d_k.is_contiguous() and d_v.is_contiguous()
    assert all(gradient.is_contiguous() for gradient in torch.ops.jrt.taylor_state_gradient(*state, k, v, None))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_without_a_graph_break(backend: str) -> None:
    if backend == "inductor" and native._compiler() is None:
        pytest.skip("no C++ compiler")
    q, k, v = (tensor.requires_grad_() for tensor in inputs(70, dtype=torch.float32))

    def model(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return taylor_attention(q * 1.0, k, v, taylor_state(k, v))[0].sin()

    compiled = torch.compile(model, fullgraph=True, backend=backend)
    ours, expected = compiled(q, k, v), model(q, k, v)
    assert torch.allclose(ours, expected, atol=1e-6)
    gradients = (torch.autograd.grad(output.sum(), (q, k, v)) for output in (ours, expected))
    for found, wanted in zip(*gradients, strict=True):
        assert torch.allclose(found, wanted, atol=1e-5)


def test_a_compiled_step_updates_the_state_in_place() -> None:
    q, k, v = inputs(1, dtype=torch.float32)
    states = [taylor_state(k, v) for _ in range(2)]

    def model(q: Tensor, k: Tensor, v: Tensor, values: Tensor, normalizer: Tensor) -> Tensor:
        return taylor_step(q, k, v, TaylorState(values, normalizer)) + 1

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(q, k, v, *states[0]), model(q, k, v, *states[1]))
    assert torch.equal(states[0].values, states[1].values)
    assert torch.equal(states[0].normalizer, 2 * taylor_state(k, v).normalizer)


def test_autocast_does_not_reach_the_sums() -> None:
    q, k, v = inputs(100, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        o, _ = taylor_attention(q, k, v)
    assert torch.equal(o, taylor_attention(q, k, v)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, k, v: dict(k=k[:, :, :-1]), "do not fit together"),
        (lambda q, k, v: dict(v=v.float()), "share a floating type"),
        (lambda q, k, v: dict(mask=torch.ones(2, 9, dtype=torch.bool)), "it must be bool"),
        (lambda q, k, v: dict(mask=torch.ones(2, 10)), "it must be bool"),
        (lambda q, k, v: dict(padding="left"), "padding='left' is not known"),
        (lambda q, k, v: dict(initial_state=taylor_state(k, v[..., :8])), "do not fit"),
        (lambda q, k, v: dict(initial_state=TaylorState(*(t.float() for t in taylor_state(k, v)))), "must be torch"),
    ],
)
def test_what_does_not_fit_is_said(change: Any, message: str) -> None:
    q, k, v = inputs(10)
    arguments = {"q": q, "k": k, "v": v} | change(q, k, v)
    with pytest.raises(ValueError, match=message):
        taylor_attention(**arguments)
