"""Building compiled kernels: once, whole or not at all, and without them everything still works."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import torch

from jrt.kernels import native
from jrt.kernels.selective_scan import Situation, choose, compiled

pytestmark = pytest.mark.skipif(native._compiler() is None, reason="no C++ compiler")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for builds; it does not exist yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "jrt" / "kernels"


@pytest.fixture
def kernel(tmp_path: Path) -> native.Native:
    """A kernel that takes no time to build."""
    source = tmp_path / "seven.cpp"
    source.write_text('#include <cstdint>\nextern "C" int32_t seven() { return 7; }\n')

    def check(library: object) -> None:
        if library.seven() != 7:  # type: ignore[attr-defined]
            raise RuntimeError("not seven")

    return native.Native(source, check)


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def again(kernel: native.Native) -> native.Native:
    """The same kernel in a process that has not loaded it."""
    return native.Native(kernel._source, kernel._check)


def test_is_built_once_and_kept(
    folder: Path, kernel: native.Native, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("CXX", script(tmp_path / "cxx", f'echo run >> {log}\nexec {native._compiler()} "$@"'))
    assert kernel.library().seven() == 7 and kernel.unavailable() is None
    assert again(kernel).library().seven() == 7
    assert log.read_text() == "run\n"
    (built,) = folder.iterdir()  # nothing of the build is left beside it
    kernel._source.write_text(kernel._source.read_text().replace("7;", "3 + 4;"))
    assert again(kernel).library().seven() == 7
    assert log.read_text() == "run\nrun\n" and len(list(folder.iterdir())) == 2 and built.exists()


@pytest.mark.parametrize(
    "body", ["echo broken >&2; exit 1", 'for o in "$@"; do :; done; echo half > $o; kill -9 $$', "exit 0"]
)
def test_a_failed_or_killed_build_leaves_nothing(
    body: str, folder: Path, kernel: native.Native, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("CXX", script(tmp_path / "cxx", body))
        reason = kernel.unavailable()
        assert reason is not None and "failed" in reason
        with pytest.raises(RuntimeError, match=r"no compiled code for seven\.cpp"):
            kernel.library()
    assert list(folder.iterdir()) == []
    assert again(kernel).library().seven() == 7


def test_a_damaged_library_is_built_again(folder: Path, kernel: native.Native) -> None:
    folder.mkdir(parents=True)
    kernel._built().write_bytes(b"not a library")
    assert kernel.library().seven() == 7


def test_wrong_results_turn_it_off(folder: Path, kernel: native.Native) -> None:
    kernel._source.write_text(kernel._source.read_text().replace("7;", "8;"))
    assert kernel.unavailable() == "not seven"


def test_without_a_compiler_torch_runs_and_that_is_said_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(compiled, "NATIVE", again(compiled.NATIVE))
    with caplog.at_level(logging.WARNING):
        choices = [choose(Situation(torch.device("cpu"))) for _ in range(3)]
    assert {choice.path for choice in choices} == {"torch"}
    assert "no C++ compiler" in dict(choices[0].passed_over)["compiled"]
    assert len(caplog.records) == 1 and "install g++ or clang" in caplog.text


def test_a_folder_that_cannot_be_written_is_a_reason(
    tmp_path: Path, kernel: native.Native, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "file" in (kernel.unavailable() or "")
