"""A file is replaced in one step or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from jrt.files import give_usual_permissions, sha256, write_atomic, write_text


def test_a_reader_that_has_the_file_open_never_sees_half_of_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_text(path, "old" * 1000)
    with path.open() as file:
        head = file.read(3)
        write_text(path, "new")
        assert head + file.read() == "old" * 1000
    assert path.read_text() == "new"


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_text(path, "old")

    def fail(part: Path) -> None:
        part.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomic(path, fail)
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]
    assert path.read_text() == "old"


def test_a_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "result.json", "new")
    assert (tmp_path / "result.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_weights_have_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    """safetensors writes files that only their owner can read."""
    tensors = {"x": torch.zeros(2)}
    save_file(tensors, tmp_path / "private.safetensors")
    (tmp_path / "plain").write_text("")
    usual = (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "private.safetensors").stat().st_mode != usual
    write_atomic(tmp_path / "weights.safetensors", lambda part: save_file(tensors, part))
    give_usual_permissions([tmp_path / "private.safetensors"])
    assert {path.stat().st_mode for path in tmp_path.iterdir()} == {usual} and len(list(tmp_path.iterdir())) == 3


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
