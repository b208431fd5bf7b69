"""What is installed and what the machine has: the first thing to ask when something is slow or wrong."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = {
    "just-read-twice": "",
    "torch": "",
    "transformers": "",
    "triton": "GPU kernels",
    "mamba-ssm": "the fastest Mamba scans on CUDA",
    "causal-conv1d": "the fastest Mamba convolution on CUDA",
    "gguf": ".gguf models",
    "datasets": "evaluation data of the Hub",
    "matplotlib": "jrt eval --plot",
}
"""Distribution to what it is for; those with a purpose are optional."""

COMPILERS = ("c++", "g++", "clang++")


def environment() -> dict[str, Any]:
    """Versions, compiler and devices, as JSON data."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "compiler": os.environ.get("CXX") or next((found for name in COMPILERS if (found := shutil.which(name))), None),
        "cpu_threads": torch.get_num_threads(),
        "cuda": gpus,
        "mps": torch.backends.mps.is_available(),
        "device": "cuda" if gpus else "mps" if torch.backends.mps.is_available() else "cpu",
    }


def rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The same as lines of a table."""
    lines = [("python", f"{found['python']} on {found['platform']}")]
    for name, installed in found["packages"].items():
        purpose = f" (optional: {PACKAGES[name]})" if PACKAGES[name] else ""
        lines.append((name, installed or f"not installed{purpose}"))
    lines.append(("C++ compiler", found["compiler"] or "none (optional: compiled scans on the CPU)"))
    lines.append(("CUDA devices", ", ".join(found["cuda"]) or "none"))
    lines.append(("runs on", f"{found['device']} (--device auto), {found['cpu_threads']} CPU threads"))
    return lines


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
