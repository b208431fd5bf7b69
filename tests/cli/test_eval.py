"""`jrt eval` prints and keeps what the library measures, and a run that Ctrl-C stopped goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

QUICK = ("--max-new-tokens", "2", "--limit", "4", "--tasks", "facts:num_facts=3")


def test_without_methods_it_compares_once_the_control_and_twice(jrt: Callable[..., Any], mamba: Path) -> None:
    found = jrt("eval", "-m", mamba, *QUICK, "--json").json
    assert [score["method"] for score in found["scores"]] == ["once", "context_twice", "twice"]
    assert {score["items"] for score in found["scores"]} == {4}
    assert found["settings"]["tasks"][0]["source"] == "generated"


def test_the_table_has_every_method_and_the_gain_with_its_interval(jrt: Callable[..., Any], mamba: Path) -> None:
    result = jrt("eval", "-m", mamba, *QUICK, "--methods", "once,jrt_prompt:passes=2,order=repeat")
    assert result.code == 0
    text = " ".join(result.out.split())
    assert "jrt_prompt:passes=2,order=repeat against once: +0.0 points (95 % interval" in text


def test_keeps_the_run_and_draws_it(jrt: Callable[..., Any], mamba: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "run"
    assert jrt("eval", "-m", mamba, *QUICK, "--out", out, "--plot").code == 0
    result = json.loads((out / "result.json").read_text())
    assert len((out / "samples.jsonl").read_text().splitlines()) == 12
    assert result["settings"]["model"]["name"] == str(mamba)
    assert (out / "plot.png").read_bytes().startswith(b"\x89PNG")
    again = jrt("eval", "-m", mamba, *QUICK, "--out", out, "--json").json
    assert again["scores"] == result["scores"]
    other = jrt("eval", "-m", mamba, *QUICK, "--out", out, "--seed", "1")
    assert other.code == 2
    assert "other settings" in other.error


def test_ctrl_c_leaves_whole_files_and_the_same_command_goes_on(
    jrt: Callable[..., Any], mamba: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = ["-m", str(mamba), "--limit", "20", "--max-new-tokens", "24", "--methods", "once,twice"]
    command = [sys.executable, "-m", "jrt.cli", "eval", *options, "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while _lines(out) < 5:
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        printed, said = process.communicate(timeout=60)
    assert (process.returncode, printed) == (130, "")
    assert "the same command, which goes on" in said
    samples = (out / "samples.jsonl").read_text()
    assert samples.endswith("\n")
    assert 5 <= len([json.loads(line) for line in samples.splitlines()]) < 40
    assert not (out / "result.json").exists()
    resumed = jrt("eval", *options, "--out", out, "--json").json
    fresh = jrt("eval", *options, "--json").json
    assert (out / "samples.jsonl").read_text().startswith(samples)
    for score in resumed["scores"] + fresh["scores"]:
        del score["seconds"]
    assert resumed["scores"] == fresh["scores"]


def _lines(out: Path) -> int:
    path = out / "samples.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0
