"""`jrt doctor`, `jrt ls` and `jrt bench` print what was found and measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jrt.cli import doctor


def test_shows_both_ways_of_running_a_model(jrt: Callable[..., Any], mamba: Path) -> None:
    found = jrt("doctor", mamba, "--json").json
    assert found["model"]["stock"]["continuation"] == "step"
    assert found["model"]["jrt"]["continuation"] == "chunk"
    assert found["model"]["errors"]["stock"] > 0.1
    assert found["model"]["errors"]["largest"] < 1e-4
    assert found["environment"]["packages"]["torch"]
    (scan,) = found["model"]["scan"]
    assert scan["count"] == 3
    assert dict(scan["passed_over"])["mamba_ssm"] == "it needs a CUDA device"
    text = " ".join(jrt("doctor", mamba).out.split())
    assert "one token at a time several tokens at once" in text
    assert "3 x MambaMixer not mamba_ssm it needs a CUDA device" in text
    assert "mamba-ssm not installed" in text or "mamba-ssm 2" in text


def test_says_when_a_model_has_a_limit(jrt: Callable[..., Any], llama: Path) -> None:
    found = jrt("doctor", llama, "--json").json
    assert found["model"]["jrt"]["max_length"] == 256
    assert found["model"]["scan"] == []


def test_the_table_of_architectures(jrt: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from jrt.state import architectures

    few = {name: architectures.ARCHITECTURES[name] for name in ("llama", "rwkv4", "recurrent_gemma")}
    monkeypatch.setattr(architectures, "ARCHITECTURES", few)
    rows = jrt("doctor", "--architectures", "--json").json
    assert [row["architecture"] for row in rows] == list(few)
    assert max(row["errors"]["largest"] for row in rows) < 1e-4
    page = jrt("doctor", "--architectures", "--markdown").out
    committed = (Path(doctor.__file__).parents[1] / "state" / "README.md").read_text(encoding="utf-8")
    settled = [cells[:4] + cells[5:7] for cells in _cells(page)]  # the measured errors differ by rounding
    assert settled == [cells[:4] + cells[5:7] for cells in _cells(committed) if cells[1].strip() in few]


def _cells(page: str) -> list[list[str]]:
    lines = [line.split("|") for line in page.splitlines() if line.startswith("| ")]
    return [cells for cells in lines[1:] if not set(cells[1].strip()) <= {"-"}]


def test_lists(jrt: Callable[..., Any]) -> None:
    from jrt.embedded import embedded_models

    assert {row["name"] for row in jrt("ls", "methods", "--json").json} >= {"once", "twice", "jrt_prompt"}
    assert {row["name"] for row in jrt("ls", "tasks", "--json").json} >= {"facts", "squad", "fda", "passkey"}
    assert [row["name"] for row in jrt("ls", "models", "--json").json] == embedded_models()
    assert "context_twice" in jrt("ls", "methods").out
    assert jrt("ls", "models").code == 0


def test_lists_show_defaults(jrt: Callable[..., Any]) -> None:
    from jrt.evals.tasks.registry import known_tasks, parse_task
    from jrt.methods import known_methods, parse_method

    methods = {row["name"]: row["is"] for row in jrt("ls", "methods", "--json").json}
    assert "segment_length=2048" in methods["infini"] and "gate_init=-4.0" in methods["infini"]
    assert "epsilon=0.001" in methods["infini"] and "layers=null" in methods["infini"]
    assert "passes=2, order=question_first" in methods["jrt_prompt"]
    for name in known_methods():  # what is shown makes the default method again
        written = methods[name].removeprefix("options: ").replace(", ", ",")
        assert parse_method(f"{name}:{written}") == parse_method(name)
    tasks = {row["name"]: row["options"] for row in jrt("ls", "tasks", "--json").json}
    assert "num_words=400" in tasks["passkey"] and "task=qa1, length=1000, text=null" in tasks["babilong"]
    for name in known_tasks():
        assert parse_task(f"{name}:{tasks[name].replace(', ', ',')}") == parse_task(name)


def test_ask_many_gives_the_answers_of_ask(jrt: Callable[..., Any], mamba: Path, tmp_path: Path) -> None:
    options = ("--questions", 3, "--document-tokens", 40, "--rounds", 2, "--max-new-tokens", 3)
    report = jrt("bench", "ask_many", "-m", mamba, *options, "--json", "--out", tmp_path / "deep" / "report.json").json
    assert report == json.loads((tmp_path / "deep" / "report.json").read_text())
    assert [row["equal answers"] for row in report["rows"]] == [3, 3]
    assert report["rows"][1]["tokens"] > 1.9 * report["rows"][0]["tokens"]


def test_the_reader_generates_what_the_model_generates(jrt: Callable[..., Any], mamba: Path) -> None:
    options = ("--prompt-tokens", 12, "--new-tokens", 4, "--batch-sizes", "1,2", "--rounds", 2)
    report = jrt("bench", "generate", "-m", mamba, *options, "--json").json
    assert [row["same ids"] for row in report["rows"]] == [True, True]
    assert all(row["lowest"] <= row["ratio"] <= row["highest"] for row in report["rows"])
    assert jrt("bench", "generate", "-m", mamba, *options).code == 0
