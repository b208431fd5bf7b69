"""The commands of `jrt`, and what `jrt --help` says."""

from __future__ import annotations

from typing import Annotated

import typer

import jrt
from jrt.cli import ask, bench, convert, doctor, evaluate, inspect, ls, read, train
from jrt.cli.failures import EXIT_CODES, Commands
from jrt.cli.options import examples

_CODES = "\n\n".join(f"{code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())

app = typer.Typer(
    name="jrt",
    cls=Commands,
    help="Read more than a model's memory holds.",
    epilog=examples(
        'jrt ask "Where does Mira live?" --context notes.txt',
        "jrt eval",
        "jrt doctor state-spaces/mamba-130m-hf",
    )
    + "\n\n[bold]Exit codes[/bold]\n\n"
    + _CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"jrt {jrt.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command(epilog=ask.EXAMPLES)(ask.ask)
app.command(epilog=read.EXAMPLES)(read.read)
app.command("eval", epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command(epilog=doctor.EXAMPLES)(doctor.doctor)
app.command(epilog=ls.EXAMPLES)(ls.ls)
app.add_typer(bench.app, name="bench")
app.add_typer(train.app, name="train")
app.add_typer(inspect.app, name="inspect")
app.command(epilog=convert.EXAMPLES)(convert.convert)
