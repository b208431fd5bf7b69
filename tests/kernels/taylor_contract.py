"""What every implementation of Taylor attention must do, as cases that return errors against the formula in float64.

One list for the reference, the CPU's path, the Triton kernels in the interpreter and on a GPU: a case gets a `Subject`
and returns relative errors by name. Memory that an implementation allocates is filled with NaN meanwhile, so that a
kernel that forgets to write is seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from jrt.kernels import taylor
from jrt.kernels.taylor import TaylorState, reference, tuning

D = 16
Errors = dict[str, float]


@dataclass(frozen=True)
class Subject:
    """An implementation: the public functions or the reference's, and where and in which type they run."""

    device: str = "cpu"
    dtype: torch.dtype = torch.float64
    of_reference: bool = False

    def to(self, *tensors: Tensor | None) -> list[Any]:
        return [
            None if t is None else t.detach().to(self.device, self.dtype if t.is_floating_point() else t.dtype)
            for t in tensors
        ]

    def attention(self, q: Tensor, k: Tensor, v: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, TaylorState]:
        return (
            by_formula(q, k, v, *rest, **options)
            if self.of_reference
            else taylor.taylor_attention(q, k, v, *rest, **options)
        )

    def state(self, k: Tensor, v: Tensor, mask: Tensor | None = None) -> TaylorState:
        return (reference if self.of_reference else taylor).taylor_state(k, v, mask)

    def step(self, q: Tensor, k: Tensor, v: Tensor, state: TaylorState, mask: Tensor | None = None) -> Tensor:
        if not self.of_reference:
            return taylor.taylor_step(q, k, v, state, mask)
        o, after = by_formula(q, k, v, state, mask)
        for kept, new in zip(state, after, strict=True):
            kept.copy_(new)
        return o


def by_formula(
    q: Tensor, k: Tensor, v: Tensor, initial: TaylorState | None = None, mask: Tensor | None = None,
    *, padding: str = "strict", scale: float | None = None,
) -> tuple[Tensor, TaylorState]:  # fmt: skip
    """The reference; legacy padding is a key of zero that counts."""
    if padding == "legacy" and mask is not None:
        k, mask = k * mask[:, None, :, None], None
    return reference.taylor_attention(q, k, v, initial, mask, scale=scale)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def inputs(batch: int, heads: int, length: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    return normal(batch, heads, length, D), normal(batch, heads, length, D, seed=1), normal(batch, heads, length, width)


def some_state(batch: int, heads: int, width: int) -> TaylorState:
    return reference.taylor_state(*inputs(batch, heads, 9, width)[1:])


def left_padding(batch: int, length: int) -> Tensor:
    """Row b begins with 3 b positions of padding, and position 7 is padding in the middle of all."""
    positions = torch.arange(length)[None]
    return (positions >= 3 * torch.arange(batch)[:, None]) & (positions != 7)


def error(found: Tensor, expected: Tensor) -> float:
    difference = (found.detach().cpu().double() - expected.detach().double()).norm()
    return float(difference / expected.detach().double().norm().clamp(min=1e-30))


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Every `empty` tensor of floating type is NaN."""

    def nan(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def allocated(*arguments: Any, **options: Any) -> Tensor:
            tensor = allocate(*arguments, **options)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        return allocated

    with (
        mock.patch.object(torch, "empty", nan(torch.empty)),
        mock.patch.object(torch, "empty_like", nan(torch.empty_like)),
        mock.patch.object(Tensor, "new_empty", nan(Tensor.new_empty)),
    ):
        yield


@contextlib.contextmanager
def launched(**fields: int) -> Iterator[None]:
    """All Triton kernels are launched like this in the interpreter.

    A GPU keeps the tiles of its default launch: tiles of any size run in the interpreter, while in float32 these would
    take minutes to compile and more shared memory than there is.
    """

    def launch(device: str, pass_: tuning.Pass, kind: tuning.Arithmetic, width: int) -> tuning.Launch:
        if device == "interpreter":
            return tuning.Launch(**{"block_t": 32, "block_v": 64} | fields)
        split = {name: value for name, value in fields.items() if name in ("fill", "shortest")}
        return replace(tuning.default_launch(kind, width), **split)

    with mock.patch.object(tuning, "launch", launch):
        yield


def compared(
    subject: Subject,
    tensors: tuple[Tensor, ...],
    initial: TaylorState | None = None,
    mask: Tensor | None = None,
    *,
    gradients: bool = True,
    **options: Any,
) -> Errors:
    """Outputs, states and all gradients of `attention`, against the formula and its autograd."""
    results = []
    for place in (Subject(of_reference=True), subject):
        leaves = [leaf.requires_grad_(gradients) for leaf in place.to(*tensors, *(initial or ()))]
        start, (real,) = None if initial is None else TaylorState(*leaves[3:]), place.to(mask)
        with poisoned():
            o, state = place.attention(*leaves[:3], start, real, **options)
            if real is not None:
                o = torch.where(real[:, None, :, None], o, 0)  # outputs at padding mean nothing
            outputs = [o, *state]
            above = place.to(*(normal(*output.shape, seed=5) for output in outputs))
            found = torch.autograd.grad(outputs, leaves, above) if gradients else ()
        results.append([*outputs, *found])
    names = ["o", "values", "normalizer", "dq", "dk", "dv", "d_values", "d_normalizer"]
    return {name: error(b, a) for name, a, b in zip(names, *results, strict=False)}


def lengths(subject: Subject) -> Errors:
    """One head, odd lengths, no state to start from."""
    with launched():
        return {
            f"{name} of {length}": value
            for length in (1, 31, 65)
            for name, value in compared(subject, inputs(1, 1, length, 32), gradients=False, scale=0.4).items()
        }


def nothing(subject: Subject) -> Errors:
    """No position: the state stays, and its gradient passes."""
    with launched():
        return compared(subject, inputs(1, 2, 0, 32), some_state(1, 2, 32))


def width(columns: int) -> Callable[[Subject], Errors]:
    def case(subject: Subject) -> Errors:
        with launched():
            return compared(subject, inputs(1, 2, 35, columns), some_state(1, 2, columns))

    return case


def padding(kind: str) -> Callable[[Subject], Errors]:
    def case(subject: Subject) -> Errors:
        with launched():
            return compared(subject, inputs(2, 1, 40, 32), None, left_padding(2, 40), padding=kind)

    return case


def pieces(subject: Subject) -> Errors:
    """A whole prefill, the same in chunks, and a prefill followed by steps."""
    q, k, v = subject.to(*inputs(1, 2, 50, 112))
    with launched(), poisoned(), torch.no_grad():
        whole, final = subject.attention(q, k, v)
        state, parts = None, []
        for part in (slice(0, 17), slice(17, 48)):
            o, state = subject.attention(q[:, :, part], k[:, :, part], v[:, :, part], state)
            parts.append(o)
        for at in (48, 49):
            part = slice(at, at + 1)
            parts.append(subject.step(q[:, :, part], k[:, :, part], v[:, :, part], state))
    exact, right = by_formula(*inputs(1, 2, 50, 112))
    found = {"o": torch.cat(parts, 2), "values": state.values, "normalizer": state.normalizer}
    expected = {"o": whole, "values": final.values, "normalizer": final.normalizer}
    errors = {name: error(found[name], expected[name].cpu()) for name in found}
    return errors | {"whole": error(whole, exact), "final": error(final.values, right.values)}


def step(subject: Subject) -> Errors:
    """A masked row keeps its state; values as wide as three powers of two."""
    q, k, v = inputs(2, 2, 1, 112)
    mask, start = torch.tensor([[True], [False]]), some_state(2, 2, 112)
    expected, after = by_formula(q, k, v, start, mask)
    state = TaylorState(*(tensor.clone() for tensor in subject.to(*start)))
    with poisoned():
        o = subject.step(*subject.to(q, k, v), state, *subject.to(mask))
    unchanged = error(state.values[1], subject.to(start.values)[0][1].cpu())
    return {"o": error(o, expected), "values": error(state.values, after.values), "unchanged": unchanged} | {
        "normalizer": error(state.normalizer, after.normalizer)
    }


def prefix(subject: Subject, **launch: int) -> Errors:
    """Prefix linear attention, whose gradients reach the encoder's keys and values."""
    tensors, encoder = inputs(2, 1, 20, 64), inputs(2, 1, 41, 64)[1:]
    mask = left_padding(2, 41)
    results = []
    for place in (Subject(of_reference=True), subject):
        leaves = [leaf.requires_grad_() for leaf in place.to(*tensors, *encoder)]
        with launched(**launch), poisoned():
            o, _ = place.attention(*leaves[:3], place.state(*leaves[3:], *place.to(mask)))
            results.append([o, *torch.autograd.grad(o, leaves, place.to(normal(*o.shape))[0])])
    return {name: error(b, a) for name, a, b in zip(("o", "dq", "dk", "dv", "dk_e", "dv_e"), *results, strict=True)}


def expanded(subject: Subject) -> Errors:
    """Gradients without memory of their own, as `sum` makes them."""
    gradients = []
    for place in (Subject(of_reference=True), subject):
        leaves = [leaf.requires_grad_() for leaf in place.to(*inputs(1, 1, 33, 32))]
        with launched(), poisoned():
            o, state = place.attention(*leaves)
            total = o.sum() + state.values.sum() + place.state(*leaves[1:]).normalizer.sum()
            gradients.append(torch.autograd.grad(total, leaves))
    return {name: error(b, a) for name, a, b in zip(("dq", "dk", "dv"), *gradients, strict=True)}


def strided(subject: Subject) -> Errors:
    """Time before heads in memory, as projections lay them; values even with their columns before time."""
    q, k, v = inputs(1, 3, 20, 32)
    tensors = (*(tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in (q, k)), v.mT.contiguous().mT)
    assert not any(tensor.is_contiguous() for tensor in tensors)
    with launched():
        return compared(subject, tensors)


def segments(subject: Subject) -> Errors:
    """Cut into segments that are computed at the same time: masked, from a state, the last one short."""
    with launched(**_SPLIT):
        return compared(subject, inputs(2, 1, 70, 32), some_state(2, 1, 32), left_padding(2, 70))


def segments_of_a_prefix(subject: Subject) -> Errors:
    return prefix(subject, **_SPLIT)


def one_head_in_segments(subject: Subject) -> Errors:
    with launched(**_SPLIT | dict(block_v=32)):
        return compared(subject, inputs(1, 1, 49, 64))


_SPLIT = dict(block_t=16, shortest=1, fill=6)


CASES: dict[str, Callable[[Subject], Errors]] = {
    "lengths": lengths,
    "no positions": nothing,
    "width 32": width(32),
    "width 64": width(64),
    "width 112": width(112),
    "width 128": width(128),
    "strict padding": padding("strict"),
    "legacy padding": padding("legacy"),
    "pieces": pieces,
    "step": step,
    "prefix": prefix,
    "expanded gradients": expanded,
    "strided": strided,
    "segments": segments,
    "segments of a prefix": segments_of_a_prefix,
    "one head in segments": one_head_in_segments,
}
