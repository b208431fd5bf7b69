"""A process that is asked: it keeps what it has, and is replaced when it dies, fails or does not answer."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import worker_subject as subject

from jrt.bench.worker import LostError, Worker


def test_a_lost_process_is_replaced() -> None:
    with Worker(subject.start) as worker:
        first = worker.ask(subject.add, "one", seconds=60)
        assert worker.ask(subject.add, "two", seconds=60) == [*first, "two"]
        with pytest.raises(LostError, match="SIGABRT"):
            worker.ask(subject.abort, seconds=60)
        assert worker.ask(subject.add, "three", seconds=60)[1:] == ["three"]
        process, started = worker._process, time.monotonic()
        with pytest.raises(LostError, match="no answer within 0 s"):
            worker.ask(subject.sleep, seconds=0.2)
        assert time.monotonic() - started < 30 and not process.is_alive()
        assert worker.ask(subject.add, "four", seconds=60)[0] != first[0]
        process = worker._process
    assert not process.is_alive()


def test_a_process_that_cannot_start_is_lost() -> None:
    with Worker(subject.start_badly) as worker, pytest.raises(LostError, match="exit code 1"):
        worker.ask(subject.add, "one", seconds=60)
