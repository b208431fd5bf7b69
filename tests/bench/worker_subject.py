"""What test_worker.py lets another process do; without torch, so that it starts at once."""

from __future__ import annotations

import os
import time


def start() -> list[str]:
    return [str(os.getpid())]


def start_badly() -> None:
    raise RuntimeError("no device")


def add(subject: list[str], word: str) -> list[str]:
    subject.append(word)
    return subject


def abort(subject: list[str]) -> None:
    os.abort()


def sleep(subject: list[str]) -> None:
    time.sleep(60)
