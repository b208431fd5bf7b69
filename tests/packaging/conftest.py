"""Where the source tree is, and a fresh interpreter to look at it from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RunPython = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the source tree."""
    return ROOT


@pytest.fixture(scope="session")
def pyproject(root: Path) -> dict[str, Any]:
    """What pyproject.toml says."""
    return tomllib.loads((root / "pyproject.toml").read_text())


@pytest.fixture(scope="session")
def folders(root: Path, pyproject: dict[str, Any]) -> dict[str, Path]:
    """From the name of a mapped package to its folder: `jrt.kernels` is `kernels/`."""
    return {name: root / folder for name, folder in pyproject["tool"]["setuptools"]["package-dir"].items()}


@pytest.fixture(scope="session")
def run_python(tmp_path_factory: pytest.TempPathFactory) -> RunPython:
    """`run_python(*arguments, cwd=..., path=...)` runs a fresh interpreter, with `path` as PYTHONPATH; it must succeed.

    `-I` is not used, since the editable installation that the tests run on must stay visible.
    """
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def run(*arguments: str, cwd: Path = elsewhere, path: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYTEST"))}
        environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        if path is not None:
            environment["PYTHONPATH"] = str(path)
        result = subprocess.run(
            [sys.executable, *arguments],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.returncode == 0, f"{arguments}\n{result.stdout}\n{result.stderr}"
        return result

    return run
