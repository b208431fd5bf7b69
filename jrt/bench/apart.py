"""A measurement in a fresh process of its own, whose size is that of the measurement alone.

Why such a process failed stands in what it wrote: it may lack a device or memory, and the one that asked says so.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from jrt.errors import JRTError

_ERROR = re.compile(r"^[\w.]*(?:Error|Exception)\b.*", re.MULTILINE)


def measured_apart(module: str, case: dict[str, Any], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What `python -m module CASE` prints, both as JSON.

    Args:
        module: the module to run.
        case: what to measure.
        environment: variables beside those of this process.

    Raises:
        JRTError: the process failed; the message says why.
    """
    command = [sys.executable, "-m", module, json.dumps(case)]
    variables = os.environ | dict(environment or {})
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=variables)
    if done.returncode:
        raise JRTError(
            f"A measurement ended early: {_reason(done)}.",
            "Choose another --device, or less to hold at once, such as fewer --layers or a smaller --width.",
        )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """The error that the process ended with, in one line and without a full stop."""
    if done.returncode < 0:
        return f"the process died with {signal.Signals(-done.returncode).name}"
    errors = _ERROR.findall(done.stderr) or done.stderr.strip().splitlines()
    return errors[-1].strip().rstrip(".") if errors else f"the process ended with exit code {done.returncode}"
