"""`jrt bench NAME`: ratios against what a user would run otherwise.

Every benchmark brings its own options; they are read from the signature of its `run`, when it is called for.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from jrt.bench import BENCHES
from jrt.cli import options
from jrt.cli.output import print_json, print_table
from jrt.errors import UnknownNameError, did_you_mean

EXAMPLES = options.examples(
    "jrt bench ask_many",
    "jrt bench generate --model state-spaces/mamba-130m-hf --out generate.json",
)
_OURS = {
    "out": Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the report as JSON.", show_default=False)
    ],
    "json": options.Json,
    "debug": options.Debug,
}


class Benches(TyperGroup):
    """The benchmarks as sub-commands."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(BENCHES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in BENCHES:
            raise UnknownNameError(
                f"There is no benchmark {cmd_name!r}.{did_you_mean(cmd_name, BENCHES)}", "jrt bench --help"
            )
        return _LazyBench(cmd_name, help=BENCHES[cmd_name])


class _LazyBench(TyperCommand):
    """A benchmark by name and one line of help; its module is imported when it is run or its own help is asked for."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        name = str(self.name)
        single = typer.Typer(add_completion=False, rich_markup_mode="rich")
        single.command(name, help=BENCHES[name], epilog=options.examples(f"jrt bench {name}"))(
            _command(name, importlib.import_module(f"jrt.bench.{name}").run)
        )
        return typer.main.get_command(single).make_context(info_name, args, parent=parent, **extra)


app = typer.Typer(
    cls=Benches,
    help="Measure ratios against what you would run otherwise.",
    epilog=EXAMPLES,
    invoke_without_command=True,
)


@app.callback()
def _bench(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _command(name: str, run: Callable[..., Any]) -> Callable[..., None]:
    """`run` with the options that every benchmark has, and its report printed."""

    @functools.wraps(run)
    def command(out: Path | None, json: bool, debug: bool, **settings: Any) -> None:
        report = run(**settings)
        report.command = shlex.join(["jrt", *sys.argv[1:]])
        if out is not None:
            report.save(out)
        if json:
            print_json(report.model_dump(mode="json"))
            return
        title, tables = f"{name} (target: {report.target})", list(report.tables())
        for number, (columns, cells) in enumerate(tables):
            last = number == len(tables) - 1
            print_table("" if number else title, columns, cells, report.notes if last else "")

    own = inspect.signature(run, eval_str=True)
    ours = [
        inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for (option, annotation), default in zip(_OURS.items(), (None, False, False), strict=True)
    ]
    command.__signature__ = inspect.Signature([*own.parameters.values(), *ours])  # type: ignore[attr-defined]
    command.__annotations__ = get_type_hints(run, include_extras=True) | _OURS | {"return": None}
    del command.__wrapped__  # type: ignore[attr-defined]
    return command
