"""Every way that `jrt bench kernels` can time. A kernel is added by one `Way` in its group's module."""

from __future__ import annotations

from jrt.bench import kernels_infini, kernels_scan, kernels_taylor, kernels_window
from jrt.bench.cells import Way

WAYS: tuple[Way, ...] = (*kernels_taylor.WAYS, *kernels_window.WAYS, *kernels_infini.WAYS, *kernels_scan.WAYS)
GROUPS: tuple[str, ...] = tuple(dict.fromkeys(way.group for way in WAYS))
"""In the order of their priority."""
