"""Two processes (gloo) train what one process trains: the same rows in each step, the same weights at the end."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from train_child import child

from jrt.errors import InvalidOptionError
from jrt.evals.training_rows import TaskRows
from jrt.training.kinds import kind_class
from jrt.training.run import train


def pair(spec: dict[str, Any], weights: list[Path]) -> list[tuple[int, str]]:
    """Two processes that know of each other, as torchrun starts them; exit code and output of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = [
        child(
            {**spec, "weights": weights[rank]},
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            LOCAL_WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in started]
    finally:
        for process in started:
            process.kill()  # one that waits for the other for ever
    return [(process.returncode, output) for process, output in zip(started, outputs, strict=True)]


def test_two_processes_train_what_one_trains(options: dict[str, Any], tmp_path: Path) -> None:
    weights = [tmp_path / "first.safetensors", tmp_path / "second.safetensors"]
    ended = pair({"kind": "jrt-rnn", "settings": options, "out": tmp_path / "two"}, weights)
    assert [code for code, _ in ended] == [0, 0], ended
    first, second = (load_file(path) for path in weights)
    settings = kind_class("jrt-rnn").settings_class(**options)
    one = load_file(train("jrt-rnn", settings, tmp_path / "one").folder / "model.safetensors")
    saved = load_file(tmp_path / "two" / "model" / "model.safetensors")
    for name, tensor in one.items():
        assert torch.equal(first[name], second[name]) and torch.equal(first[name], saved[name]), name
        torch.testing.assert_close(saved[name], tensor, rtol=0, atol=1e-5)


def test_two_processes_log_what_only_one_of_them_has_measured(adapted: dict[str, Any], tmp_path: Path) -> None:
    """The rows of the first fill no segment (17 tokens), those of the second do (26), so it alone writes a memory."""
    options = adapted["infini"] | {
        "task": "mqar:num_pairs=4,vocab_size=32",
        "methods": "once,context_twice",
        "method": "num_memory_tokens=2,segment_length=20,update=gated",
        "curriculum": False,
        "batch_size": 2,
        "evaluation_rows": 2,
        "steps": 3,
    }
    weights = [tmp_path / "first.safetensors", tmp_path / "second.safetensors"]
    ended = pair({"kind": "rmt", "settings": options, "out": tmp_path / "two"}, weights)
    assert [code for code, _ in ended] == [0, 0], ended
    settings = kind_class("rmt").settings_class(**options)
    rows = TaskRows(settings.task, settings.methods, settings.seed).with_tokenizer
    one = train("rmt", settings, tmp_path / "one", task_rows=rows).log["2-segments"]
    two = json.loads((tmp_path / "two" / "training.json").read_text())["log"]["2-segments"]
    for name, count in (("mean_write", 3), ("eval_mean_write", 1), ("eval_accuracy", 1)):
        expected = [entry[name] for entry in one if name in entry]
        assert len(expected) == count
        assert [entry[name] for entry in two if name in entry] == pytest.approx(expected, abs=1e-4), name
    first, second = (load_file(path) for path in weights)
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())


def test_an_error_of_the_first_process_ends_both(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "letter.txt").write_text("mine")
    spec = {"kind": "based", "settings": options, "out": tmp_path / "used"}
    for code, output in pair(spec, [tmp_path / "a", tmp_path / "b"]):
        assert code == 1 and "it holds letter.txt" in output, output


def test_accumulated_gradients_are_those_of_one_batch(options: dict[str, Any], tmp_path: Path) -> None:
    results = []
    for name, micro in (("whole", None), ("parts", 2)):
        settings = kind_class("based").settings_class(**options, micro_batch_size=micro)
        results.append(load_file(train("based", settings, tmp_path / name).folder / "model.safetensors"))
    for name, tensor in results[0].items():
        torch.testing.assert_close(results[1][name], tensor, rtol=0, atol=1e-5)
    settings = kind_class("based").settings_class(**options, micro_batch_size=3)
    with pytest.raises(InvalidOptionError, match="cannot be shared by 1 processes that read 3 at once"):
        train("based", settings, tmp_path / "thirds")
