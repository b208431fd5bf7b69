"""The help loads nothing heavy, every command shows examples, and every example is a command that parses."""

from __future__ import annotations

import importlib
import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
import typer

from jrt.bench import BENCHES
from jrt.cli.app import app
from jrt.cli.failures import EXIT_CODES
from jrt.cli.options import DEFAULT_MODEL

COMMANDS = {
    "ask": "ask",
    "read": "read",
    "eval": "evaluate",
    "doctor": "doctor",
    "ls": "ls",
    "bench": "bench",
    "train": "train",
    "inspect": "inspect",
    "convert": "convert",
}


def test_help_takes_under_half_a_second_of_processor_time() -> None:
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "jrt.cli", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5, seconds


@pytest.mark.parametrize("arguments", [["--help"], ["ask", "-h"], ["eval", "-h"], ["bench", "-h"], ["doctor", "-h"]])
def test_help_loads_neither_torch_nor_transformers(arguments: list[str]) -> None:
    program = (
        "import sys; from jrt.cli.app import app\n"
        f"try: app({arguments})\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'datasets', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_arguments_the_help_is_shown(jrt: Callable[..., Any]) -> None:
    assert jrt().out == jrt("--help").out
    assert jrt("bench").out == jrt("bench", "--help").out


def test_help_documents_every_exit_code(jrt: Callable[..., Any]) -> None:
    text = " ".join(jrt("-h").out.split())
    for code, meaning in EXIT_CODES.items():
        assert f"{code} {meaning}" in text


def test_version(jrt: Callable[..., Any]) -> None:
    import jrt as package

    assert jrt("--version").out == f"jrt {package.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_examples_that_parse(command: str, jrt: Callable[..., Any]) -> None:
    shown = jrt(command, "--help")
    assert shown.code == 0
    given = importlib.import_module(f"jrt.cli.{COMMANDS[command]}").EXAMPLES
    by_kind = isinstance(given, dict)  # `jrt train` has some for each kind
    lines = list(chain(*given.values())) if by_kind else given.replace("\\[", "[").split("\n\n")[1:]
    assert lines
    root = typer.main.get_command(app)
    for line in lines:
        own = line.split("|")[-1].split(">")[0]
        name, first, *rest = shlex.split(own + " --json")
        assert name == "jrt"
        with root.make_context("jrt", [first, *rest]) as context:
            found = root.get_command(context, first)  # type: ignore[attr-defined]
            assert found is not None, line
            found.make_context(first, rest, parent=context)


@pytest.mark.parametrize("name", BENCHES)
def test_every_benchmark_can_be_loaded_and_has_the_common_options(name: str, jrt: Callable[..., Any]) -> None:
    shown = jrt("bench", name, "-h")
    assert shown.code == 0, shown.error
    assert "--json" in shown.out
    assert "--out" in shown.out


def test_one_default_model() -> None:
    from jrt.evals.runner import DEFAULT_MODEL as OF_EVALS
    from jrt.loading import DEFAULT_MODEL as OF_LOADING

    assert DEFAULT_MODEL == OF_LOADING == OF_EVALS


def test_colours_only_where_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    red = "\x1b[31m"
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert red not in CliRunner().invoke(app, ["aks"]).stderr
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert red in CliRunner().invoke(app, ["aks"]).stderr
    monkeypatch.setenv("NO_COLOR", "1")
    assert red not in CliRunner().invoke(app, ["aks"]).stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "jrt.cli", "ls", "methods"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, said = process.communicate(timeout=60)
    assert said == b""
