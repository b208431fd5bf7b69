"""The selective scan of the mamba-ssm package, for the calls that it can serve."""

from __future__ import annotations

from torch import Tensor

from jrt.kernels.selective_scan.paths import mamba_ssm_scan


def selective_scan_mamba_ssm(
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
    """`selective_scan` from zero, without a mask, by mamba-ssm.

    Raises:
        RuntimeError: mamba-ssm cannot be used, or the call has a state or a mask.
    """
    scan = mamba_ssm_scan()
    if isinstance(scan, str):
        raise RuntimeError(f"{scan[0].upper()}{scan[1:]}.")
    if initial_state is not None or mask is not None:
        raise RuntimeError("mamba-ssm's scan starts from zero and knows no mask.")
    y, state = scan(
        u,
        delta.to(u.dtype),
        A.float(),
        B.to(u.dtype),
        C.to(u.dtype),
        D=None if D is None else D.float(),
        z=None if z is None else z.to(u.dtype),
        delta_bias=None if delta_bias is None else delta_bias.float(),
        delta_softplus=True,
        return_last_state=True,
    )
    return y, state
