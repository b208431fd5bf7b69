"""`jrt train` as a person sees it: help for each option, errors in a panel, one JSON document at the end."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from train_child import TINY
from typer.testing import CliRunner, Result

from jrt.cli.app import app
from jrt.cli.train import EXAMPLES, _typed
from jrt.training.kinds import KINDS, kind_class
from jrt.training.settings import with_preset

TOKENS = "the tokenizer of the corpus"


def invoke(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["train", *map(str, arguments)])


def said(result: Result) -> str:
    """stderr without panel borders and line breaks."""
    return re.sub(r"[\s│╭╮╰╯─]+", " ", result.stderr)


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_is_an_option_with_help(kind: str) -> None:
    shown = invoke(kind, "--help")
    assert shown.exit_code == 0
    text = re.sub(r"[\s│]+", " ", shown.stdout)
    for name, field in kind_class(kind).settings_class.model_fields.items():
        assert f"--{name.replace('_', '-')}" in shown.stdout, name
        assert str(field.description).split(".", maxsplit=1)[0][:40] in text, name
    for name in ("--out", "--resume", "--preset", *kind_class(kind).presets):
        assert name in shown.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_the_examples_are_of_the_kind_and_mean_something(kind: str) -> None:
    shown = re.sub(r"\s+", " ", invoke(kind, "--help").stdout)
    for line in EXAMPLES[kind]:
        assert line in shown
        name, *words = shlex.split(line.removeprefix("jrt train "))
        assert name == kind
        words = [word for word in words if word != "--resume"]
        given = {option[2:]: value for option, value in zip(words[::2], words[1::2], strict=True)}
        preset = given.pop("preset", None)
        chosen = {option: [value] if option == "text" else value for option, value in given.items() if option != "out"}
        made = kind_class(kind)(with_preset(kind_class(kind).settings_class, kind_class(kind).presets, preset, chosen))
        if hasattr(made, "method"):
            made.tokenizer = SimpleNamespace(cls_token_id=1, sep_token_id=2)
            assert made.method().segment_length
    others = "|".join(other for other in KINDS if other != kind)
    assert not re.search(f"jrt train ({others}) ", shown)
    assert all(EXAMPLES[name][0] in re.sub(r"\s+", " ", invoke("--help").stdout) for name in KINDS)


def test_help_loads_no_torch() -> None:
    program = (
        "import sys; from jrt.cli.app import app\n"
        "try: app(['train', 'rmt', '--help'])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules), 'heavy'"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_run(options: dict[str, Any], corpus: Path, tmp_path: Path) -> None:
    arguments = [
        *("based", "--text", *options["text"], "--tokenizer", options["tokenizer"], "--config", json.dumps(TINY)),
        *("--block-size", 24, "--steps", 4, "--batch-size", 4, "--log-every", 2, "--device", "cpu", "--no-bf16"),
        *("--out", tmp_path / "run", "--json"),
    ]
    result = invoke(*arguments)
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    assert printed["model"] == str(tmp_path / "run" / "model") and printed["log"]["all"]
    assert "step 2 of 4: loss" in said(result)
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["config"] == TINY
    again = invoke(*arguments)
    assert again.exit_code == 2 and "is not empty" in said(again) and "--resume" in said(again)
    assert invoke(*arguments, "--resume").exit_code == 0
    other = invoke(*arguments, "--resume", "--seed", 1)
    assert other.exit_code == 2 and "has seed 0; now it is 1" in said(other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["jrtrnn", "--out", "x"], "no kind of training 'jrtrnn'. Did you mean 'jrt-rnn'"),
        (["based"], "Missing option '--out'"),
        (["based", "--out", "x", "--bogus", "3"], "There is no option '--bogus'. Try: jrt train based --help"),
        (["based", "--out", "x", "--stepz", "3"], "no option '--stepz'. Did you mean '--steps'"),
        (["based", "--out", "x"], "needs one source of data: --text, --dataset or --task; given: none"),
        (["based", "--out", "x", "--text", "nothing/*.txt", "--tokenizer", "nowhere"], "nowhere holds no tokenizer"),
        (["rmt", "--out", "x", "--task", "memorize", "--model", "jrt/tiny-rmt"], "jrt/tiny-rmt is an embedded model"),
        (["based", "--out", "x", "--task", "set_disjointnes"], "Did you mean 'set_disjointness'"),
        (["based", "--out", "x", "--task", "squad"], "squad has a fixed set of questions"),
        (["rmt", "--out", "x", "--preset", "memorise"], "no preset 'memorise'. Did you mean 'memorize'"),
        (["infini", "--out", "x", "--text", "a.txt"], "base model is needed"),
        (["based", "--out", "x", "--text", "a.txt", "--schedule", "step"], "--schedule 'step': Input should be"),
        (["rmt", "--out", "x", "--text", "a.txt", "--model", "m", "--first-steps", "0"], "--first-steps 0: Input"),
        (["based", "--out", "x", "--text", ".", "--tokenizer", TOKENS], ". is a folder. Try: name its files: --text '"),
    ],
)
def test_errors(
    arguments: list[str], message: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(*(corpus / "tokenizer" if argument == TOKENS else argument for argument in arguments))
    assert result.exit_code == 2, result.stderr
    assert message in said(result)


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        ("steps=0: Input is bad.", "--steps 0: Input is bad."),
        ("Choose batch_size as a multiple of processes.", "Choose --batch-size as a multiple of processes."),
        ("Write RMT(segment_length=51) or less.", "Write --method segment_length=51 or less."),
        ("Write RMT(update='gated', batch_size=...).", "Write --method update=gated,batch_size=...."),
        ("RMT(batch_size=0): Input is bad.", "RMT(batch_size=0): Input is bad."),
        ("/tmp/batch_size/steps is not empty; 3 steps.", "/tmp/batch_size/steps is not empty; 3 steps."),
    ],
)
def test_what_python_would_write_is_what_a_person_would_type(said: str, typed: str) -> None:
    assert _typed(said, ["steps", "batch_size"]) == typed
