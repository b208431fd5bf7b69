"""Sliding-window attention against a dense masked softmax in float64, itself in chunks, and a count of its work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from jrt.kernels import sliding_window
from jrt.kernels.sliding_window import sliding_window_attention

SHAPES = [(1, 1), (5, 3), (7, 64), (64, 16), (65, 1), (197, 23), (300, 70), (333, 64), (640, 65), (1100, 200)]
"""Positions and windows: odd lengths, one position, windows of one, of a block, one more, wider than everything."""


def inputs(length: int, *, past: int = 0, groups: int = 1, value_width: int = 12, seed: int = 0) -> list[Tensor]:
    """Two rows of four query heads."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, length, 8), (4 // groups, past + length, 8), (4 // groups, past + length, value_width)]
    return [torch.randn(2, *shape, generator=generator, dtype=torch.float64) for shape in shapes]


def expected(q: Tensor, k: Tensor, v: Tensor, window: int, mask: Tensor | None = None) -> Tensor:
    """The formula: a softmax over what is visible, zeros where nothing is."""
    k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], 1) for tensor in (k, v))
    i = torch.arange(k.shape[2])[-q.shape[2] :, None]
    j = torch.arange(k.shape[2])
    visible = ((j <= i) & (i - j < window)).expand(k.shape[0], 1, -1, -1)
    if mask is not None:
        visible = visible & mask[:, None, None]
    weights = torch.where(visible, (q @ k.mT / q.shape[-1] ** 0.5).exp(), 0.0)
    return weights @ v / weights.sum(-1, keepdim=True).clamp_min(1e-300)


def left_padding(total: int) -> Tensor:
    """Row 0 is whole, a third of row 1 is padding."""
    return torch.arange(total)[None] >= torch.tensor([0, total // 3])[:, None]


@pytest.mark.parametrize(("length", "window"), SHAPES)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("padded", [False, True])
def test_equals_the_formula(length: int, window: int, groups: int, padded: bool) -> None:
    q, k, v = inputs(length, groups=groups)
    mask = left_padding(length) if padded else None
    found = sliding_window_attention(q, k, v, window, mask=mask)
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected(q, k, v, window, mask), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("length", "window"), [(1, 5), (9, 5), (300, 40), (301, 300)])
@pytest.mark.parametrize("past", [3, 39, 200])
def test_queries_are_the_last_positions(length: int, window: int, past: int) -> None:
    q, k, v = inputs(length, past=past)
    for mask in (None, left_padding(past + length)):
        found = sliding_window_attention(q, k, v, window, mask=mask)
        torch.testing.assert_close(found, expected(q, k, v, window, mask), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 37, 150])
def test_chunks_equal_the_whole(chunk: int) -> None:
    window = 33
    q, k, v = inputs(401, groups=2)
    mask = left_padding(401)
    whole = sliding_window_attention(q, k, v, window, mask=mask)
    parts = []
    for start in range(0, 401, chunk):
        stop, kept = min(start + chunk, 401), max(0, start - (window - 1))
        cached = slice(kept, stop)
        parts.append(
            sliding_window_attention(
                q[:, :, start:stop], k[:, :, cached], v[:, :, cached], window, mask=mask[:, cached]
            )
        )
    torch.testing.assert_close(torch.cat(parts, 2), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("length", "window"), [(50, 8), (333, 20), (300, 400)])
@pytest.mark.parametrize("padded", [False, True])
def test_gradients_equal_those_of_the_formula(length: int, window: int, padded: bool) -> None:
    leaves = [tensor.requires_grad_() for tensor in inputs(length, past=17, groups=2)]
    mask = left_padding(length + 17) if padded else None
    weight = torch.randn(2, 4, length, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = torch.autograd.grad((sliding_window_attention(*leaves, window, mask=mask) * weight).sum(), leaves)
    right = torch.autograd.grad((expected(*leaves, window, mask) * weight).sum(), leaves)
    for name, ours, theirs in zip("qkv", found, right, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12, msg=lambda text, name=name: f"d{name}: {text}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_is_as_good_as_the_formula_in_it(dtype: torch.dtype) -> None:
    q, k, v = inputs(700, value_width=8)
    right = expected(q, k, v, 32)
    low = [tensor.to(dtype) for tensor in (q, k, v)]
    found = sliding_window_attention(*low, 32)
    assert found.dtype == dtype
    plain = (expected(*low, 32).double() - right).norm()
    assert (found.double() - right).norm() <= 2 * plain + 1e-6 * right.norm()


def test_padding_anywhere_is_never_seen() -> None:
    q, k, v = inputs(400)
    mask = torch.rand(2, 400, generator=torch.Generator().manual_seed(2)) > 0.6
    found = sliding_window_attention(q, k, v, 9, mask=mask)
    torch.testing.assert_close(found, expected(q, k, v, 9, mask), rtol=1e-12, atol=1e-12)
    hidden = ~mask[:, None, :, None]
    changed = sliding_window_attention(q, k.masked_fill(hidden, 50.0), v.masked_fill(hidden, 1e6), 9, mask=mask)
    torch.testing.assert_close(changed, found, rtol=1e-12, atol=1e-12)


def test_a_row_of_padding_gives_zeros_and_zero_gradients() -> None:
    leaves = [tensor.requires_grad_() for tensor in inputs(300)]
    mask = torch.tensor([[True], [False]]).expand(2, 300)
    output = sliding_window_attention(*leaves, 30, mask=mask)
    assert (output[1] == 0).all() and (output[0] != 0).any()
    for gradient in torch.autograd.grad(output.sum(), leaves):
        assert gradient.isfinite().all() and (gradient[1] == 0).all()


def test_the_scale_is_used() -> None:
    q, k, v = inputs(300)
    found = sliding_window_attention(q, k, v, 20, scale=0.7)
    torch.testing.assert_close(found, expected(q * 0.7 * 8**0.5, k, v, 20), rtol=1e-12, atol=1e-12)


class Work(TorchDispatchMode):
    """Numbers of all results of all operations: their sum, and the largest."""

    def __init__(self) -> None:
        super().__init__()
        self.total, self.largest = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            for tensor in result if isinstance(result, tuple | list) else (result,):
                if isinstance(tensor, Tensor):
                    self.total += tensor.numel()
                    self.largest = max(self.largest, tensor.numel())
        return result


@pytest.mark.parametrize("padded", [False, True])
def test_work_and_memory_are_linear_backward_too(padded: bool) -> None:
    """Four times the positions make at most four times as many numbers, and none of T x T."""

    def count(length: int) -> Work:
        leaves = [tensor.float().requires_grad_() for tensor in inputs(length, value_width=8)]
        mask = left_padding(length) if padded else None
        with Work() as work:
            torch.autograd.grad(sliding_window_attention(*leaves, 16, mask=mask).sum(), leaves)
        return work

    short, long = count(1024), count(4096)
    assert 3.5 < long.total / short.total < 4.1
    assert long.largest <= 4096 * 2 * 4 * 8 < 4096 * 4096


def test_everything_compiles_to_one_graph() -> None:
    q, k, v = (tensor.float() for tensor in inputs(300))
    compiled = torch.compile(sliding_window_attention, fullgraph=True, backend="eager")
    mask = left_padding(300)
    torch.testing.assert_close(compiled(q, k, v, 20, mask=mask), sliding_window_attention(q, k, v, 20, mask=mask))


@pytest.mark.parametrize(("length", "window"), [(1024, 128), (1000, 1), (999, 300), (300, 2000)])
@pytest.mark.parametrize("past", [0, 77, 500])
def test_flex_computes_the_blocks_of_the_window_only(length: int, window: int, past: int) -> None:
    """Blocks are computed where any pair is visible, and their pairs are looked at unless all of them are."""
    total = length + past
    blocks = sliding_window._block_mask(length, total, window, torch.device("cpu"))
    i, j = torch.arange(length)[:, None] + past, torch.arange(total)
    pairs = (j <= i) & (j > i - window)
    rows, columns = -(-length // 128), -(-total // 128)

    def grouped(value: bool) -> Tensor:
        padded = torch.full((128 * rows, 128 * columns), value)
        padded[:length, :total] = pairs
        return padded.unflatten(1, (-1, 128)).unflatten(0, (-1, 128)).transpose(1, 2).flatten(2)

    assert torch.equal(blocks.to_dense()[0, 0].bool(), grouped(False).any(-1))
    full = torch.zeros(rows, columns, dtype=torch.bool)
    for row in range(rows):
        full[row, blocks.full_kv_indices[0, 0, row, : blocks.full_kv_num_blocks[0, 0, row]].long()] = True
    assert torch.equal(full & grouped(True).all(-1), full)
    inner = grouped(False).all(-1)
    assert torch.equal(full & inner, inner)
    assert blocks.seq_lengths == (length, total)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("padded", [False, True])
def test_flex_without_its_compiler(padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward of the GPU's path on a CPU, where FlexAttention runs uncompiled and slowly."""
    from torch.nn.attention.flex_attention import flex_attention

    monkeypatch.setattr(sliding_window, "_compiled_flex", lambda: flex_attention)
    monkeypatch.setattr(sliding_window, "_flex_fits", lambda query, value: True)
    q, k, v = inputs(200, past=30, groups=2, value_width=8)
    mask = left_padding(230) if padded else None
    found = sliding_window_attention(q, k, v, 40, mask=mask)
    torch.testing.assert_close(found, expected(q, k, v, 40, mask), rtol=1e-10, atol=1e-10)


def test_a_mask_made_in_inference_mode_can_be_trained_with() -> None:
    """What is kept is made once, in whatever mode the first call is."""
    with torch.inference_mode():
        blocks = sliding_window._block_mask(700, 701, 31, torch.device("cpu"))
    assert not blocks.kv_indices.is_inference() and not blocks.q_indices.is_inference()
    weight = torch.ones(1, requires_grad=True)
    (weight * blocks.kv_indices).sum().backward()  # saves the indices


@pytest.mark.parametrize(("width", "value_width", "fits"), [(16, 64, True), (8, 64, False), (64, 8, False)])
def test_narrow_heads_do_not_go_to_flex(
    width: int, value_width: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with FakeTensorMode():
        query, value = (torch.empty(1, 1, 500, size, device="cuda") for size in (width, value_width))
        taken = sliding_window._path(query, query, value, 64, None)
    assert (taken is sliding_window._flex) == fits


@pytest.mark.parametrize("past", [0, 50])
def test_flex_masks_are_the_formula(past: int) -> None:
    """FlexAttention's two masks, evaluated everywhere, are what SDPA is given elsewhere."""
    length, window, total = 90, 17, 90 + past
    mask = left_padding(total)
    blind = sliding_window._sees_nothing(mask, length, window)
    i, j = torch.arange(length)[:, None], torch.arange(total)
    inside = (j <= i + past) & (j > i + past - window)
    plain = sliding_window._block_mask(length, total, window, torch.device("cpu")).mask_mod
    assert torch.equal(plain(0, 0, i, j), inside)
    padded = sliding_window._padded_block_mask(length, total, window, mask, blind).mask_mod
    for row in range(2):
        alone = (j == i + past) & ~(inside & mask[row]).any(1, keepdim=True)
        assert torch.equal(padded(row, 0, i, j), (inside & mask[row]) | alone)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("padded", [False, True])
def test_on_a_gpu(padded: bool) -> None:
    leaves = [tensor.cuda() for tensor in inputs(1000, past=70, groups=2, value_width=16)]
    leaves = [torch.nn.functional.pad(tensor, (0, 16 - tensor.shape[-1])) for tensor in leaves]
    mask = left_padding(1070).cuda() if padded else None
    right = sliding_window_attention(*leaves, 64, mask=mask)
    low = [tensor.float().requires_grad_() for tensor in leaves]
    assert sliding_window._path(*low, 64, mask) is sliding_window._flex
    found = sliding_window_attention(*low, 64, mask=mask)
    torch.testing.assert_close(found.double(), right, rtol=1e-2, atol=1e-2)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(found.sum(), low))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 0}, "window is 0"),
        ({"query": torch.zeros(2, 4, 12, 8)}, "as many keys or more"),
        ({"query": torch.zeros(2, 3, 5, 8)}, "cannot share"),
        ({"query": torch.zeros(2, 4, 5, 9)}, "do not fit"),
        ({"value": torch.zeros(2, 2, 9, 8)}, "do not fit"),
        ({"key": torch.zeros(2, 10, 8)}, r"have to be \(B, H, T, D\)"),
        ({"mask": torch.ones(2, 5)}, r"has to be \(2, 10\)"),
    ],
)
def test_what_does_not_fit_is_said(change: dict[str, Any], message: str) -> None:
    fitting: dict[str, Any] = {
        "query": torch.zeros(2, 4, 5, 8),
        "key": torch.zeros(2, 2, 10, 8),
        "value": torch.zeros(2, 2, 10, 8),
        "window": 3,
        "mask": None,
    }
    call = fitting | change
    with pytest.raises(ValueError, match=message):
        sliding_window_attention(call["query"], call["key"], call["value"], call["window"], mask=call["mask"])
