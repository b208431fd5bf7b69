"""The command line: `jrt ask`, `read`, `eval`, `doctor`, `ls` and `bench`.

Nothing here computes anything: a command turns its arguments into one call of the library and prints what comes back.
Neither torch nor transformers is loaded before a command needs it, so `jrt --help` answers at once.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """The `jrt` command. What it silences is silenced in this process only; the library itself silences nothing."""
    if "--debug" not in sys.argv and not os.environ.get("JRT_DEBUG"):
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from jrt.cli.app import app

    app()
