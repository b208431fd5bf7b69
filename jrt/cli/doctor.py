"""`jrt doctor`: what a model can do with a captured state, how fast it can be here, and what is installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jrt.cli import environment, options
from jrt.cli.output import print_json, print_table, progress
from jrt.cli.readers import open_reader
from jrt.errors import InvalidOptionError
from jrt.tables import markdown_table

if TYPE_CHECKING:
    from jrt.reader import Reader
    from jrt.state import Capabilities
    from jrt.state.exactness import Exactness

EXAMPLES = options.examples(
    "jrt doctor",
    "jrt doctor state-spaces/mamba-130m-hf",
    "jrt doctor --architectures --markdown > jrt/state/README.md",
)

_CONTINUATION = {
    "chunk": "several tokens at once",
    "step": "one token at a time",
    "replay": "not at all: the prompt is read again",
}
_COLUMNS = [
    "architecture",
    "state",
    "transformers alone continues by",
    "its error in one chunk",
    "jrt continues by",
    "batched",
    "largest error of jrt",
]


def doctor(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="An embedded model, a local folder, a .gguf file, or a Hugging Face Hub id. "
            f"\\[default: {options.DEFAULT_MODEL}]",
            show_default=False,
        ),
    ] = None,
    architectures: Annotated[
        bool, typer.Option("--architectures", help="Measure a tiny random model of every architecture that is tested.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="With --architectures: print a Markdown page.")] = False,
    device: options.Device = "auto",
    dtype: options.DataType = "auto",
    revision: options.Revision = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show what a model can do: as transformers runs it, and as jrt does.

    The probe reads a few random tokens at once, in parts, in a padded batch, and compares. Nothing is asked of the
    model's name.
    """
    if architectures:
        if model is not None:
            raise InvalidOptionError(
                "--architectures measures every architecture, so it takes no model.", "jrt doctor --architectures"
            )
        _architectures(markdown, json)
        return
    if markdown:
        raise InvalidOptionError("--markdown goes with --architectures.", "jrt doctor --architectures --markdown")
    found = environment.environment()
    reader = open_reader(model or options.DEFAULT_MODEL, device=device, dtype=dtype, revision=revision)
    checked = examine(reader)
    if json:
        print_json({"environment": found, "model": checked})
        return
    _print_model(checked)
    _print_scan(checked["scan"])
    print_table("environment", ["what", "found"], environment.rows(found))


def examine(reader: Reader) -> dict[str, Any]:
    """Everything about one model, as JSON data."""
    from jrt.adapters import mamba
    from jrt.state import probe
    from jrt.state.exactness import exactness, stock_error

    model = reader.model
    stock = probe(model)
    error = stock_error(model, stock.state_argument)
    with reader.installed():
        measured = exactness(model, reader.capabilities, stock=error)
    return {
        "name": reader.name,
        "class": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": str(reader.dtype).removeprefix("torch."),
        "device": str(reader.device),
        "stock": stock.to_dict(),
        "jrt": reader.capabilities.to_dict(),
        "errors": measured.to_dict(),
        "scan": [asdict(report) for report in mamba.describe(model)],
    }


def _print_model(checked: dict[str, Any]) -> None:
    stock, ours, errors = checked["stock"], checked["jrt"], checked["errors"]
    argument = stock["state_argument"]
    state = f"{stock['cache']}, as {argument}" if argument else "kept inside the model"
    longest = "any length" if ours["max_length"] is None else f"{ours['max_length']} tokens"
    rows: list[tuple[object, ...]] = [
        ("state", state, state),
        ("continues a prompt exactly by", _CONTINUATION[stock["continuation"]], _CONTINUATION[ours["continuation"]]),
        ("rows of a batch stay apart", _yes(stock["batch"]), _yes(ours["batch"], "a state for each row")),
        ("left padding is exact", _yes(stock["padding"]), _yes(ours["padding"], "a state for each row")),
        ("padding after a state is exact", _yes(stock["gaps"]), _yes(ours["gaps"], "a state for each row")),
        ("a state can be copied row by row", _yes(stock["reorderable"]), _yes(ours["reorderable"], "whole states")),
        ("takes inputs_embeds", _yes(stock["inputs_embeds"]), _yes(ours["inputs_embeds"])),
        ("longest input", longest, longest),
        ("error of a continued prompt", _error(errors["stock"]), _error(errors["parts"])),
        ("error in a padded batch", "", _error(errors["padded"])),
        ("error of questions after a document", "", _error(errors["questions"])),
    ]
    print_table(
        f"{checked['name']}: {checked['class']}, {checked['parameters']:,} parameters, "
        f"{checked['dtype']} on {checked['device']}",
        ["what", "transformers alone", "as jrt runs it"],
        rows,
        "Errors: largest difference of the last logits to those of one forward over the full prompt, relative to the "
        "largest logit. transformers alone: the rest of the prompt in one forward on top of the state.",
    )


def _print_scan(reports: list[dict[str, Any]]) -> None:
    """The scan that each kind of Mamba mixer takes; nothing for models without."""
    if not reports:
        return
    rows: list[tuple[object, ...]] = []
    for report in reports:
        mixer = f"{report['count']} x {report['mixer']}"
        continued = "" if report["continued"] == report["path"] else f"; {report['continued']} from a state on"
        rows.append((mixer, "takes", f"{report['path']}{continued}, on {report['device']}"))
        rows += [(mixer, f"not {path}", reason) for path, reason in report["passed_over"]]
    print_table("recurrent scan", ["layers", "path", "why"], rows)


def _architectures(markdown: bool, json: bool) -> None:
    measured = list(_measure_all())
    if json:
        print_json([row for row, _ in measured])
        return
    rows = [line for _, line in measured]
    if not markdown:
        print_table("tiny random models, float32 on the CPU", _COLUMNS, rows)
        return
    from jrt.cli.markdown import page

    print(page(markdown_table(_COLUMNS, rows)))


def _measure_all() -> Iterator[tuple[dict[str, Any], tuple[object, ...]]]:
    """Every architecture as JSON data and as a line of the table."""
    import jrt
    from jrt.state import probe
    from jrt.state.architectures import ARCHITECTURES, build
    from jrt.state.exactness import exactness, stock_error

    with progress() as bar, _quiet():
        for name in bar.track(ARCHITECTURES, description="architectures"):
            model = build(name)
            stock = probe(model)
            reader = jrt.wrap(model)
            error = stock_error(model, stock.state_argument)
            with reader.installed():
                errors = exactness(model, reader.capabilities, stock=error)
            data = {
                "architecture": name,
                "class": type(model).__name__,
                "stock": stock.to_dict(),
                "jrt": reader.capabilities.to_dict(),
                "errors": errors.to_dict(),
            }
            yield data, _line(name, stock, reader.capabilities, errors)


def _line(name: str, stock: Capabilities, ours: Capabilities, errors: Exactness) -> tuple[object, ...]:
    return (
        name,
        stock.cache,
        stock.continuation,
        _error(errors.stock),
        ours.continuation,
        _yes(ours.batched, "a state for each row"),
        _error(errors.largest),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers says for every Mamba that its CUDA packages are missing; `jrt doctor` says it once, in a table."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _yes(value: bool, otherwise: str = "no") -> str:
    return "yes" if value else otherwise


def _error(value: float | None) -> str:
    return "no state to continue" if value is None else f"{value:.1e}"
