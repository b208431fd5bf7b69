"""`jrt train KIND`: models of our own and methods that learn, on transformers' Trainer.

Every kind brings its own options: the fields of its settings, whose descriptions are the help.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

from jrt.cli import options
from jrt.cli.output import print_json, stderr, stdout
from jrt.errors import JRTError
from jrt.training.kinds import KINDS, kind_class
from jrt.training.settings import with_preset

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from jrt.training.kinds.base import Kind
    from jrt.training.settings import Settings

EXAMPLES = {
    "based": (
        "jrt train based --text 'books/*.txt' --tokenizer gpt2 --config '{\"hidden_size\": 256}' --out run",
        "jrt train based --preset 360m --dataset monology/pile-uncopyrighted --out run --steps 1000",
    ),
    "infini": (
        "jrt train infini --model gpt2 --method segment_length=512 --segments 4 --text 'books/*.txt' --out run",
        "jrt train infini --model meta-llama/Llama-3.2-1B --preset continue --dataset emozilla/pg19 --out run",
    ),
    "jrt-rnn": (
        "jrt train jrt-rnn --text 'books/*.txt' --tokenizer gpt2 --config '{\"hidden_size\": 256}' --out run",
        "jrt train jrt-rnn --task set_disjointness:long=16 --out run --resume",
    ),
    "rmt": (
        "jrt train rmt --preset memorize --out run",
        "jrt train rmt --model gpt2 --method num_memory_tokens=10,segment_length=512 --text 'books/*.txt' --out run",
    ),
}
"""Commands that can be copied, by kind."""
_PLAIN = (str, int, float, bool)


class Kinds(TyperGroup):
    """The kinds of training as sub-commands."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(KINDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        kind_class(cmd_name)
        return _LazyKind(cmd_name, help=KINDS[cmd_name][1])


class _LazyKind(TyperCommand):
    """A kind by name and one line of help; its options are read when it is run or its own help is asked for."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        name = str(self.name)
        single = typer.Typer(add_completion=False, rich_markup_mode="rich")
        single.command(name, help=KINDS[name][1], epilog=_examples(name))(_command(name, kind_class(name)))
        return typer.main.get_command(single).make_context(info_name, args, parent=parent, **extra)


def _examples(*kinds: str) -> str:
    """The end of the help of one kind, or of several."""
    launchers = ("accelerate launch --num_processes 8", "torchrun --nproc-per-node 8")
    processes = [f"{launcher} -m jrt train {kinds[0]} ... --out run --resume" for launcher in launchers]
    lines = [line for kind in kinds for line in EXAMPLES[kind][: 1 if len(kinds) > 1 else None]]
    return "\n\n".join([options.examples(*lines), "[bold]Several processes[/bold]", *processes])


app = typer.Typer(
    cls=Kinds,
    help="Train a model, or what a method learns on top of one.",
    epilog=_examples(*KINDS),
    invoke_without_command=True,
)


@app.callback()
def _train(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _command(name: str, kind: type[Kind]) -> Callable[..., None]:
    """A function whose parameters are the options of a kind."""

    def command(out: Path, preset: str | None, resume: bool, json: bool, debug: bool, **given: Any) -> None:
        chosen = {option: value for option, value in given.items() if value is not None and value != []}
        with _in_options(kind.settings_class):
            _run(name, with_preset(kind.settings_class, kind.presets, preset, chosen), out, resume=resume, json=json)

    presets = ", ".join(kind.presets) or "none"
    ours: dict[str, tuple[Any, Any]] = {
        "out": (options.OutFolder, Parameter.empty),
        "preset": (
            Annotated[str | None, typer.Option(help=f"Options of a published run: {presets}.", show_default=False)],
            None,
        ),
        "resume": (Annotated[bool, typer.Option("--resume", help="Go on where the run in --out was stopped.")], False),
        "json": (options.Json, False),
        "debug": (options.Debug, False),
    }
    theirs = {field: (_option(info), None) for field, info in kind.settings_class.model_fields.items()}
    parameters = [
        Parameter(option, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for option, (annotation, default) in (ours | theirs).items()
    ]
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {option: annotation for option, (annotation, _) in (ours | theirs).items()}
    return command


@contextmanager
def _in_options(owner: type[Settings]) -> Iterator[None]:
    """Errors that speak of settings and methods as Python does say what to type on the command line instead."""
    try:
        yield
    except JRTError as error:
        error.message, error.hint = (_typed(part, owner.model_fields) for part in (error.message, error.hint))
        error.args = (error.message,)
        raise


def _typed(message: str, names: Iterable[str]) -> str:
    """`steps=0` as `--steps 0`, `block_size` as `--block-size`, and `Write RMT(segment_length=9)` as
    `Write --method segment_length=9`; the options of a method inside of brackets stay as they are."""

    def option(found: re.Match[str]) -> str:
        name, equals = found[1], found[2]
        return f"--{name.replace('_', '-')}{' ' * len(equals)}" if equals or "_" in name else found[0]

    def method(found: re.Match[str]) -> str:
        return "Write --method " + found[1].replace(", ", ",").replace("'", "")

    message = re.sub(r"\bWrite \w+\((\w+=[^()]*)\)", method, message)
    listed = "|".join(sorted(names, key=len, reverse=True))
    return re.sub(rf"(?<![\w/.,('=-])(?<!, )(?<!--method )({listed})(?![\w/.'-])(=?)", option, message)


def _option(info: FieldInfo) -> Any:
    """A field of the settings as an option; None means that it was not given."""
    default = info.get_default(call_default_factory=True)
    shown = f" \\[default: {default}]" if default not in (None, "", [], {}) and default is not False else ""
    option = typer.Option(help=f"{info.description}{shown}", show_default=False)
    return Annotated[_plain(info.annotation), option]


def _plain(annotation: Any) -> Any:
    """The type of an option as typer knows it."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is Literal:
        return str | None
    if get_origin(annotation) is list:
        return list[str] | None
    return annotation | None if annotation in _PLAIN else str | None


def _run(name: str, settings: Settings, out: Path, *, resume: bool, json: bool) -> None:
    from transformers.utils import logging

    from jrt.training.run import train

    logging.disable_progress_bar()
    trained = train(name, settings, out, resume=resume, task_rows=_task_rows(settings), report=_report)
    if not _first_process():
        return
    if json:
        print_json({"model": str(trained.folder), "seconds": round(trained.seconds, 1), "log": trained.log})
        return
    stdout().print(f'{trained.folder}: read it with jrt.load("{trained.folder}")', markup=False, soft_wrap=True)


def _first_process() -> bool:
    import os

    return os.environ.get("RANK", "0") == "0"


def _task_rows(settings: Settings) -> Callable[[Any], Any] | None:
    """Where the rows of a task come from; the task's name is checked before anything is loaded."""
    if settings.task is None:
        return None
    from jrt.evals.training_rows import TaskRows

    rows = TaskRows(settings.task, settings.methods, settings.seed)
    return rows.with_tokenizer


def _report(stage: str, logged: dict[str, float]) -> None:
    """One line on stderr for what was logged."""
    names = {"eval_loss": "validation loss", "learning_rate": "learning rate", "grad_norm": ""}
    names |= {"epoch": "", "eval_runtime": "", "eval_samples_per_second": "", "eval_steps_per_second": ""}
    words = [
        f"{names.get(key, key.replace('eval_', 'validation ').replace('_', ' '))} {value:.4g}"
        for key, value in logged.items()
        if key not in ("step", "steps") and names.get(key, key)
    ]
    where = "" if stage == "all" else f"{stage}, "
    stderr().print(f"{where}step {logged['step']:.0f} of {logged['steps']:.0f}: {', '.join(words)}", markup=False)
