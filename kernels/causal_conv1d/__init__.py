"""The short causal convolution in front of Mamba's scan, with a state that goes in and comes out.

y_t = f(bias + sum_k weight_k x_{t - K + 1 + k}) for each channel by itself, k = 0 .. K - 1, f the identity or SiLU; x
before the sequence is the state, its last K - 1 inputs. Reading a sequence in parts, each from the state that the part
before returned, gives what reading it at once gives.

The causal-conv1d package runs where it is installed and fits (CUDA, K from 2 to 4), compiled code on a CPU without
gradients, torch's own convolution everywhere else.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch
from torch import Tensor

from jrt.kernels.causal_conv1d import compiled
from jrt.kernels.causal_conv1d.reference import causal_conv1d_torch
from jrt.kernels.native import readable
from jrt.kernels.switch import plain_torch_only

__all__ = ["causal_conv1d"]


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    silu: bool = True,
) -> tuple[Tensor, Tensor]:
    """The convolution of `x` and the state that the next part of the sequence starts from.

    Args:
        x: inputs, (B, D, T), T >= 1; may be strided.
        weight: (D, K), the last weight for the newest input.
        bias: (D,).
        initial_state: the K - 1 inputs before `x`, (B, D, K - 1); None means zeros.
        silu: whether SiLU is applied.

    Returns:
        y, (B, D, T), and the last K - 1 inputs, (B, D, K - 1), both in the data type of `x`.

    Raises:
        ValueError: the shapes do not fit each other.

    Example:
        >>> y, state = causal_conv1d(x[..., :9], weight)
        >>> rest, state = causal_conv1d(x[..., 9:], weight, initial_state=state)
    """
    _check_shapes(x, weight, bias, initial_state)
    tensors = [tensor for tensor in (x, weight, bias, initial_state) if tensor is not None]
    gradients = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    if not plain_torch_only() and not torch.compiler.is_compiling():
        if x.is_cuda and 2 <= weight.shape[1] <= 4 and (package := _package()) is not None:
            return _by_package(package, x, weight, bias, initial_state, silu)
        fits = x.device.type == "cpu" and not gradients and x.dtype != torch.float64
        if fits and readable(*tensors) and compiled.NATIVE.unavailable() is None:
            return compiled.causal_conv1d_compiled(x, weight, bias, initial_state, silu)
    return causal_conv1d_torch(x, weight, bias, initial_state, silu)


def _by_package(
    function: Any, x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor]:
    """By the causal-conv1d package; the state goes in front of `x`, which every layout and version allows."""
    past = weight.shape[1] - 1
    state = x.new_zeros(*x.shape[:2], past) if initial_state is None else initial_state.to(x.dtype)
    seen = x if initial_state is None else torch.cat([state, x], dim=2)
    y = function(
        seen,
        weight.to(x.dtype),
        None if bias is None else bias.to(x.dtype),
        activation="silu" if silu else None,
    )
    return y[:, :, -x.shape[2] :], torch.cat([state, x[:, :, -past:]], dim=2)[:, :, -past:]


def _package() -> Any:
    """The package's function; None when it is not installed or does not import."""
    if importlib.util.find_spec("causal_conv1d") is None:
        return None
    try:
        return importlib.import_module("causal_conv1d").causal_conv1d_fn
    except Exception:  # a build that does not fit raises whatever it likes
        return None


def _check_shapes(x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None) -> None:
    if x.dim() != 3 or weight.dim() != 2 or len(weight) != x.shape[1] or x.shape[2] == 0 or weight.shape[1] == 0:
        raise ValueError(f"x has to be (B, D, T) and weight (D, K); they are {tuple(x.shape)}, {tuple(weight.shape)}.")
    for name, tensor, shape in (
        ("bias", bias, x.shape[1:2]),
        ("initial_state", initial_state, (*x.shape[:2], weight.shape[1] - 1)),
    ):
        if tensor is not None and tuple(tensor.shape) != tuple(shape):
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it has to be {tuple(shape)}.")
