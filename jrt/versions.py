"""Which versions a report, a record or a saved model was made with."""

from __future__ import annotations

import platform
from importlib.metadata import version

import jrt


def versions(*names: str) -> dict[str, str]:
    """The versions of jrt and of these distributions; `python` is the interpreter's."""
    found = {name: platform.python_version() if name == "python" else version(name) for name in names}
    return {"jrt": jrt.__version__} | found
