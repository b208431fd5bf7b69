"""Queries and keys without positions: the inverse of the rotation that the base model has applied.

The paper's memory is read and written without positions (2404.07143, 2.1); inside the attention function queries and
keys are rotated already. A rotation by the table (cos, sin) is undone by the one with -sin, over cos^2 + sin^2, which
is not 1 where the table is rounded or scaled (YaRN).
"""

from __future__ import annotations

import torch
from torch import Tensor


def unrotated(x: Tensor, cosines: Tensor, sines: Tensor, pairs: bool = False) -> Tensor:
    """`x` as it was before its rotation, in x's type.

    Args:
        x: rotated queries or keys, `(B, H, T, D)`; dimensions beyond R were not rotated.
        cosines: the base's table, `(B or 1, T, R)`.
        sines: the same.
        pairs: neighbouring dimensions were rotated together, not dimension i with i + R / 2.

    Returns:
        `(B, H, T, D)`.
    """
    cosines, sines = cosines.float()[:, None], sines.float()[:, None]
    width = cosines.shape[-1]
    rotated = x[..., :width].float()
    turned = _quarter_turn(rotated, pairs)
    plain = (rotated * cosines - turned * sines) / (cosines.square() + sines.square())
    plain = plain.to(x.dtype)
    return plain if width == x.shape[-1] else torch.cat([plain, x[..., width:]], -1)


def _quarter_turn(x: Tensor, pairs: bool) -> Tensor:
    """(a, b) to (-b, a) in every plane of rotation."""
    if pairs:
        return torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1)
