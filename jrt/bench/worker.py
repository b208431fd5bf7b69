"""Runs functions in a process of its own, so that one that crashes, hangs or breaks the GPU costs itself and no other.

A kernel may end its process (the compiler aborts, an address is illegal) or never come back. The process that asked
then starts another one and goes on; what is written in the end is written by the one that asked.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

_SECONDS_TO_START = 120.0  # importing torch and waking a GPU


class LostError(Exception):
    """A function gave no answer; the message says why, without a full stop."""


class Worker:
    """Another process, begun at the first question and again after it was lost.

    Args:
        start: called once in every new process; what it returns is the first argument of every function. A function of
            a module, as are those that are asked.

    Example:
        >>> with Worker(open_device) as worker:
        ...     row = worker.ask(measure, "taylor", seconds=60)  # measure(open_device(), "taylor")
    """

    def __init__(self, start: Callable[[], Any]) -> None:
        self._start = start
        self._process: Any = None
        self._connection: Connection | None = None

    def ask(self, function: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
        """`function(what start returned, *arguments)`, computed in the process.

        Raises:
            LostError: the process died, or there was no answer in that many seconds. The process is gone then.
        """
        connection = self._connection if self._connection is not None else self._begin()
        self._deliver(connection, (function, arguments))
        return self._answer(connection, seconds)

    def close(self) -> None:
        """Ends the process; the next question begins another."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = self._connection = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._start), daemon=True)
        self._process.start()
        theirs.close()
        self._connection = connection
        self._answer(connection, _SECONDS_TO_START)
        return connection

    def _deliver(self, connection: Connection, task: Any) -> None:
        try:
            connection.send(task)
        except OSError:  # it died between two questions
            raise LostError(self._buried()) from None

    def _answer(self, connection: Connection, seconds: float) -> Any:
        try:
            if connection.poll(seconds):
                return connection.recv()
        except (EOFError, OSError):
            raise LostError(self._buried()) from None
        self.close()
        raise LostError(f"no answer within {seconds:.0f} s")

    def _buried(self) -> str:
        """How the process ended."""
        self._process.join(5)
        code = self._process.exitcode
        self.close()
        if code is not None and code < 0:
            return f"the process died ({signal.Signals(-code).name})"
        return f"the process died (exit code {code})"


def _serve(connection: Connection, start: Callable[[], Any]) -> None:
    """The other process: answers until nobody asks any more. An exception ends it."""
    subject = start()
    connection.send("ready")
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        connection.send(function(subject, *arguments))
