"""The selective scan of Mamba-1, with a state that goes in and comes out; README.md has the maths and the figures."""

from __future__ import annotations

import torch
from torch import Tensor

from jrt.kernels.native import readable
from jrt.kernels.selective_scan.paths import Choice, Scan, Situation, choose, implementation

__all__ = ["Choice", "Scan", "Situation", "choose", "implementation", "selective_scan"]


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """h_t = exp(s_t A) h_{t-1} + s_t u_t B_t and y_t = (C_t h_t + D u_t) silu(z_t), s = softplus(delta + delta_bias).

    Mamba, 2312.00752, algorithm 2. A scan of T steps followed by a scan from its final state is the scan of both, so a
    sequence may be read in chunks of any size. Sums are float32 whatever the inputs are (float64 for float64). The
    fastest path that fits the call is taken; `choose` tells which, and why not another one.

    Args:
        u: input, (B, D, T), T >= 1; all tensors may be strided.
        delta: step sizes before the softplus, (B, D, T).
        A: decay rates, negative, (D, N).
        B: input weights, (B, N, T).
        C: output weights, (B, N, T).
        D: skip weights, (D,).
        z: gate before the SiLU, (B, D, T).
        delta_bias: added to `delta`, (D,).
        initial_state: the state h_0, (B, D, N); None means zero.
        mask: 0 or False where a step is padding, (B, T): it leaves the state as it is, and its output means nothing.

    Returns:
        y, (B, D, T) in the data type of `u`, and the final state, (B, D, N) in float32 (float64 for float64).

    Raises:
        ValueError: the shapes do not fit each other.

    Example:
        >>> y, state = selective_scan(u[..., :9], delta[..., :9], A, B[..., :9], C[..., :9])
        >>> rest, state = selective_scan(u[..., 9:], delta[..., 9:], A, B[..., 9:], C[..., 9:], initial_state=state)
    """
    tensors = dict(u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias, initial_state=initial_state)
    _check_shapes(tensors | {"mask": mask})
    gradients = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors.values())
    situation = Situation(
        device=u.device,
        dtype=u.dtype,
        states=A.shape[1],
        continued=initial_state is not None or mask is not None,
        gradients=gradients,
        readable=readable(*tensors.values(), mask),
    )
    scan = implementation(choose(situation).path)
    return scan(u, delta, A, B, C, D, z, delta_bias, initial_state, mask)


def _check_shapes(tensors: dict[str, Tensor | None]) -> None:
    """Raises a ValueError that names the tensor, its shape and the shape that it should have."""
    u, A = tensors["u"], tensors["A"]
    if u is None or A is None or u.dim() != 3 or A.dim() != 2 or u.shape[2] == 0:
        found = [None if tensor is None else tuple(tensor.shape) for tensor in (u, A)]
        raise ValueError(f"u has to be (B, D, T) with T >= 1 and A (D, N); they are {found[0]} and {found[1]}.")
    (rows, channels, steps), states = u.shape, A.shape[1]
    along_time, per_state = (rows, channels, steps), (rows, states, steps)
    expected = dict(
        delta=along_time,
        A=(channels, states),
        B=per_state,
        C=per_state,
        D=(channels,),
        z=along_time,
        delta_bias=(channels,),
        initial_state=(rows, channels, states),
        mask=(rows, steps),
    )
    for name, shape in expected.items():
        tensor = tensors[name]
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; with u {tuple(u.shape)} it has to be {shape}.")
