"""The one switch over all kernels: the environment variable `JRT_KERNELS`.

`auto`, the default, takes the fastest path that fits a call. `torch` takes plain torch everywhere: no compiled code, no
Triton, no other packages; for debugging, and for machines where one of those misbehaves.
"""

from __future__ import annotations

import os

VARIABLE = "JRT_KERNELS"


def plain_torch_only() -> bool:
    """Whether the user asked for plain torch.

    Raises:
        ValueError: the variable holds something else than `auto` or `torch`.
    """
    value = os.environ.get(VARIABLE, "auto")
    if value not in {"auto", "torch"}:
        raise ValueError(f"{VARIABLE}={value!r} is not known. Set it to 'auto' or 'torch'.")
    return value == "torch"
