"""A run that is killed with SIGKILL and resumed ends with the weights of a run that was not, to the last bit."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from train_child import child

import jrt
from jrt.errors import InvalidOptionError, JRTError, StateMismatchError
from jrt.training.kinds import kind_class
from jrt.training.run import train

torch.set_num_threads(1)


def run(kind: str, options: dict[str, Any], out: Path, **arguments: Any) -> dict[str, torch.Tensor]:
    """The weights of a run in this process."""
    trained = train(kind, kind_class(kind).settings_class(**options), out, **arguments)
    return load_file(trained.folder / "model.safetensors")


@pytest.fixture(scope="module")
def unbroken(options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    run("jrt-rnn", options, out)
    return out


@pytest.mark.parametrize(
    ("death", "kept"),
    [({"kill_after": 7}, "checkpoint-4"), ({"kill_in_save": 2}, "checkpoint-4"), ({"kill_after": 2}, None)],
)
def test_killed_and_resumed_is_unbroken(
    death: dict[str, int], kept: str | None, options: dict[str, Any], unbroken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    killed = child({"kind": "jrt-rnn", "settings": options, "out": out, **death})
    said, _ = killed.communicate(timeout=600)
    assert killed.returncode == -signal.SIGKILL, said
    left = sorted(path.name for path in out.glob("checkpoints/all/checkpoint-*"))
    assert left == ([kept] if kept else []) and not (out / "model").exists()
    assert bool(list(out.glob("checkpoints/all/.unfinished/*"))) == ("kill_in_save" in death)
    if kept:
        jrt.load(str(out / "checkpoints" / "all" / kept), device="cpu")
    if kept:
        with pytest.raises(InvalidOptionError, match=r"is not empty.*--resume"):
            run("jrt-rnn", options, out)
    steps: list[float] = []
    resumed = run("jrt-rnn", options, out, resume=True, report=lambda _, logged: steps.append(logged["step"]))
    assert min(steps) == (5 if kept else 1) and max(steps) == 12
    for name, tensor in load_file(unbroken / "model" / "model.safetensors").items():
        assert torch.equal(resumed[name], tensor), name
    records = [json.loads((folder / "training.json").read_text())["log"]["all"] for folder in (out, unbroken)]
    losses = [[entry["loss"] for entry in log if "loss" in entry] for log in records]
    assert losses[0] == losses[1] and len(losses[0]) == 12
    assert not list(out.glob("**/.unfinished"))


def test_a_finished_run_stays_as_it_is(options: dict[str, Any], unbroken: Path) -> None:
    before = load_file(unbroken / "model" / "model.safetensors")
    after = run("jrt-rnn", options, unbroken, resume=True, report=lambda *_: pytest.fail("it trained again"))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_run_that_trained_nothing_does_not_hold_its_folder(options: dict[str, Any], tmp_path: Path) -> None:
    out, other = tmp_path / "run", tmp_path / "other.txt"
    other.write_text("w1 w2 " * 100)
    refused = [({"tokenizer": "/nowhere"}, "no tokenizer"), ({"block_size": 5000}, "The text has 6001 tokens")]
    for resume in (False, True):
        for changes, message in refused:
            with pytest.raises(JRTError, match=message):
                run("based", options | changes, out, resume=resume)
    assert (out / "tokens.bin").stat().st_size == 6001 * 4
    (out / "notes.txt").touch()
    with pytest.raises(InvalidOptionError, match=r"is not empty: it holds notes\.txt"):
        run("based", options, out)
    (out / "notes.txt").unlink()
    run("based", options | {"text": [str(other)], "steps": 1}, out)
    assert (out / "tokens.bin").stat().st_size == 201 * 4
    assert json.loads((out / "settings.json").read_text())["text"] == [str(other)]
    with pytest.raises(InvalidOptionError, match=r"is not empty.*--resume"):
        run("based", options, out)


def test_another_run_cannot_be_resumed(options: dict[str, Any], unbroken: Path) -> None:
    with pytest.raises(StateMismatchError, match=r"has seed 0; now it is 1"):
        run("jrt-rnn", options | {"seed": 1}, unbroken, resume=True)
    with pytest.raises(StateMismatchError, match="has kind 'jrt-rnn'; now it is 'based'"):
        run("based", options, unbroken, resume=True)
