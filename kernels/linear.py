"""x W^T + b in float32 on a CPU, by the faster of the two libraries that torch carries.

torch hands float32 products to MKL, which keeps to 256-bit instructions on processors that are not Intel's. oneDNN,
which torch carries for convolutions and half precision, uses what the processor has: on an AMD processor with AVX-512
it was about twice as fast from 16 rows on (selective_scan/README.md). On such processors this takes oneDNN, everywhere
else it is torch's own `linear`.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from jrt.kernels.native import readable
from jrt.kernels.switch import plain_torch_only

_ROWS = 16  # below, there is nothing to gain


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`: x (..., K), weight (M, K), bias (M,) -> (..., M), differentiable."""
    if _by_onednn(x, weight, bias):
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
        return y
    return F.linear(x, weight, bias)


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether oneDNN fits the call and is the faster one on this machine."""
    if x.numel() < _ROWS * x.shape[-1] or x.device.type != "cpu" or not onednn_is_faster() or plain_torch_only():
        return False
    tensors = [tensor for tensor in (x, weight, bias) if tensor is not None]
    plain = readable(*tensors) and all(tensor.dtype == torch.float32 for tensor in tensors)
    gradients = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return plain and not gradients and not torch.is_autocast_enabled("cpu")


@lru_cache(maxsize=1)
def onednn_is_faster() -> bool:
    """Whether this processor is one of those on which oneDNN beats MKL: AMD with AVX-512."""
    try:
        processor = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return (
        "AuthenticAMD" in processor
        and "avx512f" in processor
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
