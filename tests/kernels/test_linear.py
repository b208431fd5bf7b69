"""The linear layer is torch's, whichever library computes it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from jrt.kernels import linear as module
from jrt.kernels.linear import linear

ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()


@pytest.mark.skipif(not ONEDNN, reason="this torch has no oneDNN")
@pytest.mark.parametrize("shape", [(16,), (2, 31), (1, 3, 40), (5,)])
@pytest.mark.parametrize("bias", [False, True])
def test_equals_torch(shape: tuple[int, ...], bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "onednn_is_faster", lambda: True)
    generator = torch.Generator().manual_seed(0)
    x, weight, b = (torch.randn(s, generator=generator) for s in [(*shape, 48), (33, 48), (33,)])
    assert module._by_onednn(x, weight, b) == (x.numel() >= 16 * 48)
    for given in (x, x.transpose(0, 0).flip(0), x.clone().mT.contiguous().mT if x.dim() > 1 else x):
        found = linear(given, weight, b if bias else None)
        torch.testing.assert_close(found, F.linear(given, weight, b if bias else None), rtol=1e-5, atol=1e-5)


def test_takes_torch_where_onednn_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "onednn_is_faster", lambda: True)
    x, weight = torch.randn(20, 8), torch.randn(4, 8)
    assert module._by_onednn(x, weight, None)
    assert not module._by_onednn(x.bfloat16(), weight.bfloat16(), None)
    assert not module._by_onednn(x.double(), weight.double(), None)
    assert not module._by_onednn(x.requires_grad_(), weight, None)
    with torch.no_grad():
        assert module._by_onednn(x, weight, None)
        with torch.autocast("cpu"):
            assert not module._by_onednn(x, weight, None)
        monkeypatch.setenv("JRT_KERNELS", "torch")
        assert not module._by_onednn(x, weight, None)


def test_gradients_reach_input_and_weight() -> None:
    x, weight = torch.randn(20, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    linear(x, weight).sum().backward()
    assert x.grad is not None and weight.grad is not None
    torch.testing.assert_close(x.grad, weight.sum(0).expand(20, 8))
