"""`import jrt` and `jrt --help` answer at once: neither loads torch, transformers or another heavy package."""

from __future__ import annotations

import json
import statistics

import pytest

HEAVY = ("torch", "transformers", "datasets", "pandas", "numpy", "matplotlib", "triton", "huggingface_hub")

# What a run reports on stderr when it ends, so that what it prints stays as it is: heavy modules and CPU seconds.
REPORT = f"""
import atexit, json, sys, time
atexit.register(lambda: sys.stderr.write("\\n" + json.dumps(
    {{"heavy": [name for name in {HEAVY!r} if name in sys.modules], "seconds": time.process_time()}})))
"""


def measure(run_python, code: str) -> dict[str, object]:
    """Run `code` in a fresh interpreter; its heavy modules, and its CPU seconds (user and system) from start to end."""
    return json.loads(run_python("-c", REPORT + code).stderr.splitlines()[-1])


HELP = "import sys, runpy; sys.argv = ['jrt', '--help']; runpy.run_module('jrt', run_name='__main__')"


@pytest.mark.parametrize(
    "code",
    [
        "import jrt; jrt.JRTPrompt(); dir(jrt)",
        "import jrt.errors, jrt.methods, jrt.prompts",
        HELP,
        HELP.replace("'--help'", "'eval', '--help'"),
        HELP.replace("'--help'", "'--version'"),
        HELP.replace("'--help'", "'ls', 'models'"),
    ],
)
def test_nothing_heavy_is_loaded(run_python, code: str) -> None:
    assert measure(run_python, code)["heavy"] == []


def test_the_report_would_show_a_heavy_module(run_python) -> None:
    assert measure(run_python, "import numpy")["heavy"] == ["numpy"]


@pytest.mark.parametrize(("code", "limit"), [("import jrt", 0.3), (HELP, 0.5)])
def test_cpu_time(run_python, code: str, limit: float) -> None:
    """The interpreter's own start is counted: that is what a user waits for."""
    seconds = statistics.median(float(measure(run_python, code)["seconds"]) for _ in range(3))
    assert seconds < limit


def test_help_shows_the_commands(run_python) -> None:
    text = run_python("-m", "jrt", "--help").stdout
    assert all(command in text for command in ("ask", "read", "eval", "doctor", "ls"))
