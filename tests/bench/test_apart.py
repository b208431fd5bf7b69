"""A measurement in a process of its own gives what it prints, or says in one line why it could not."""

from __future__ import annotations

from pathlib import Path

import pytest

from jrt.bench import infini, rmt
from jrt.bench.apart import measured_apart
from jrt.errors import JRTError

SUBJECT = "import json, os, signal, sys\ncase = json.loads(sys.argv[1])\n"


@pytest.fixture
def subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module for a process to run, empty so far."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "measured_subject.py"


def test_gives_what_is_printed(subject: Path) -> None:
    subject.write_text(SUBJECT + 'print(json.dumps(case | {"told": os.environ["TOLD"], "pid": os.getpid()}))')
    found = [measured_apart(subject.stem, {"read": 3}, {"TOLD": "so"}) for _ in range(2)]
    assert [(one["read"], one["told"]) for one in found] == [(3, "so")] * 2
    assert found[0]["pid"] != found[1]["pid"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ('raise ValueError("no such width.")', "ended early: ValueError: no such width."),
        ('raise RuntimeError("CUDA error: invalid device\\nCompile with `MORE`.")', "CUDA error: invalid device."),
        ("os.kill(os.getpid(), signal.SIGKILL)", "the process died with SIGKILL."),  # for too much memory: no last line
        ('sys.exit("nothing to read")', "ended early: nothing to read."),
        ("sys.exit(3)", "the process ended with exit code 3."),
    ],
)
def test_why_a_process_failed(subject: Path, code: str, said: str) -> None:
    subject.write_text(SUBJECT + code)
    with pytest.raises(JRTError) as caught:
        measured_apart(subject.stem, {})
    assert caught.value.message.endswith(said) and "\n" not in caught.value.message
    assert "--device" in caught.value.hint


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(JRTError, match=r"RuntimeError: .*device.*nonsense"):
        rmt._measured({"threads": 1, "device": "nonsense"})
    with pytest.raises(JRTError, match=r"RuntimeError: .*device.*nonsense"):
        infini._measured({"read": 10, "call": 10, "threads": 1, "device": "nonsense"})
