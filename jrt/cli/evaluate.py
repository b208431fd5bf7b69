"""`jrt eval`: methods compared on the same items, with intervals."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jrt.cli import options
from jrt.cli.failures import StoppedError
from jrt.cli.inputs import check_out
from jrt.cli.output import note, progress, stdout
from jrt.cli.readers import go_offline_without_network, open_reader
from jrt.errors import InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jrt.evals import EvalResult, Progress

EXAMPLES = options.examples(
    "jrt eval",
    "jrt eval --model state-spaces/mamba-370m-hf --tasks squad,fda --limit 200 --out results/ --plot",
    "jrt eval --tasks squad --data squad=my-questions.jsonl --methods once,twice",
    'jrt eval --methods "once,jrt_prompt:passes=3" --json > result.json',
)


def evaluate(
    model: options.Model = options.DEFAULT_MODEL,
    tasks: Annotated[
        str, typer.Option(metavar="NAMES", help="Tasks of [bold]jrt ls tasks[/bold], with commas between them.")
    ] = "facts",
    methods: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Methods of [bold]jrt ls methods[/bold], with commas between them; the first is the baseline. "
            "context_twice is the control: it reads twice, but does not know the question when it reads.",
        ),
    ] = "once,context_twice,twice",
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH|TASK=FILE",
            help="A JSONL file with id, context, question, answers; a folder of such files; or task=FILE. May be given "
            "several times.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Items of each task. \\[default: all, or 200 generated ones]")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Draws the items and the bootstrap.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Keep the run here; the same command goes on if it is stopped."
        ),
    ] = None,
    plot: Annotated[bool, typer.Option("--plot", help="Also draw plot.png into the folder of --out.")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="The longest answer.")] = 48,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Prompts that are read together.")] = 1,
    context_length: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Cut documents to so many tokens; the paper uses 1000. \\[default: whole]"
        ),
    ] = None,
    window: Annotated[str, typer.Option(metavar="compat|strict", help="How documents are cut.")] = "compat",
    device: options.Device = "auto",
    dtype: options.DataType = "auto",
    revision: options.Revision = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Compare ways of reading on the same questions.

    Without options: the embedded model on documents that share no fact with its training, read once, twice without
    knowing the question (the control), and twice.
    """
    from jrt.evals import evaluate as run
    from jrt.methods import split_methods

    _check_out(out, plot)
    chosen = _check_names(tasks, methods, data)
    reader = open_reader(model, device=device, dtype=dtype, revision=revision)
    with _progress() as report:
        try:
            result = run(
                reader,
                chosen,
                split_methods(methods),
                limit=limit,
                seed=seed,
                data=data,
                out=out,
                max_new_tokens=max_new_tokens,
                batch_size=batch_size,
                context_length=context_length,
                window=window,  # type: ignore[arg-type]
                progress=report,
                command=shlex.join(["jrt", *sys.argv[1:]]),
            )
        except KeyboardInterrupt:
            raise StoppedError(*_how_to_go_on(out)) from None
    _print(result, out, json)
    if plot and out is not None:
        from jrt.evals import plot as draw

        note(f"plot: {draw(result, out / 'plot.png')}")


def _check_names(tasks: str, methods: str, data: list[str] | None) -> list[str]:
    """Refuses unknown tasks, methods and files before the model is loaded; returns the tasks."""
    from jrt.evals.prepare import named_methods
    from jrt.evals.sources import resolve_data
    from jrt.evals.tasks.registry import parse_tasks
    from jrt.methods import split_methods

    chosen = split_methods(tasks)
    parsed = parse_tasks(chosen)
    named_methods(split_methods(methods))
    files = resolve_data(parsed, data)
    if any(task.source.startswith("hub:") and task.name not in files for task in parsed):
        go_offline_without_network()
    return chosen


def _check_out(out: Path | None, plot: bool) -> None:
    """Refuses a folder that is not this program's, before anything slow starts."""
    if out is None:
        if plot:
            raise InvalidOptionError("--plot writes into the folder of the run, and none was given.", "Add --out DIR.")
        return
    check_out(out)
    names = {entry.name for entry in out.iterdir()} - {".lock"} if out.exists() else set()
    if names and not names & {"run.json", "samples.jsonl"}:
        raise InvalidOptionError(
            f"{out} is not empty and holds no run: it holds {min(names)}.", "Pass a new or an empty folder to --out."
        )


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    """A bar on stderr that follows the run."""
    with progress() as bar:
        line: Any = None

        def show(state: Progress) -> None:
            nonlocal line
            if line is None:
                if state.resumed:
                    note(f"going on after {state.resumed} answers")
                line = bar.add_task("", total=state.total)
            bar.update(line, completed=state.done, description=f"{state.task}, {state.method}")

        yield show


def _how_to_go_on(out: Path | None) -> tuple[str, str]:
    if out is None:
        return "Stopped; nothing was kept, because there is no --out.", "Add --out DIR to be able to go on."
    samples = out / "samples.jsonl"
    kept = samples.read_bytes().count(b"\n") if samples.is_file() else 0
    return f"Stopped; {kept} answers are kept in {out}.", "The same command, which goes on from there."


def _print(result: EvalResult, out: Path | None, json: bool) -> None:
    from jrt.evals import rich_table

    if json:
        sys.stdout.write(result.to_json())
        return
    console = stdout()
    console.print(rich_table(result))
    for comparison in result.comparisons:
        if comparison.task == "average" and len(result.settings.tasks) == 1:
            continue
        gain = comparison.difference
        console.print(
            f"{comparison.task}: {comparison.method} against {comparison.baseline}: {100 * gain.value:+.1f} points "
            f"(95 % interval {100 * gain.low:+.1f} to {100 * gain.high:+.1f}; {comparison.wins} items better, "
            f"{comparison.losses} worse)",
            markup=False,
            soft_wrap=True,
        )
    if out is not None:
        console.print(f"{out}: result.json, report.md, samples.jsonl", markup=False, soft_wrap=True)
