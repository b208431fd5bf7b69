"""`jrt inspect memory`: what a memory does while a text is read, as JSON and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jrt.cli import options
from jrt.cli.output import print_json, print_table, stderr
from jrt.cli.readers import open_reader
from jrt.errors import EmptyInputError, InvalidOptionError
from jrt.text_files import read_text

if TYPE_CHECKING:
    from jrt.inspection import MemoryInspection
    from jrt.reader import Reader

EXAMPLES = options.examples(
    "jrt inspect memory",
    "jrt inspect memory --task reason --segments 16 --out pictures",
    'jrt inspect memory my-rmt --text book.txt --mark "The pass key is 12345." --json',
)
DEFAULT_MODEL = "jrt/tiny-rmt"

app = typer.Typer(help="Look inside what a method keeps.", epilog=EXAMPLES, no_args_is_help=True)


@app.callback()
def _inspect() -> None:
    """Look inside what a method keeps."""


@app.command(epilog=EXAMPLES)
def memory(
    model: Annotated[
        str,
        typer.Argument(metavar="[MODEL]", help="A model with a memory of RMT: an embedded one, a folder or a Hub id."),
    ] = DEFAULT_MODEL,
    text: Annotated[
        Path | None, typer.Option("--text", metavar="FILE", help="The text to read.", show_default=False)
    ] = None,
    mark: Annotated[
        str | None,
        typer.Option(metavar="WORDS", help="A part of the text whose way is followed.", show_default=False),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Without --text: memorize, detect (unless told otherwise) or reason, with the facts marked.",
            show_default=False,
        ),
    ] = None,
    segments: Annotated[int, typer.Option(min=1, metavar="N", help="Without --text: how many segments to read.")] = 12,
    seed: Annotated[int, typer.Option(metavar="N", help="Without --text: draws the item.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Write inspection.json and two pictures.", show_default=False),
    ] = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show attention from and to memory tokens, and how the memory moves, segment by segment."""
    if mark is not None and text is None:
        raise InvalidOptionError("--mark needs --text; the facts of a task are marked already.", "Leave --mark out.")
    if task is not None and text is not None:
        raise InvalidOptionError("--text and --task are two things to read.", "Leave one of them out.")
    words, marks = "" if text is None else read_text(text), [] if mark is None else [mark]
    reader = open_reader(model)
    if text is None:
        words, marks = _item(reader, task or "detect", segments, seed)
    from jrt.inspection import inspect_memory

    ids, marked = _tokens(reader, words, marks)
    found = inspect_memory(reader, ids, marked=marked)
    if out is not None:
        _write(found, out)
    if json:
        print_json(found.model_dump(mode="json"))
        return
    _print(found)


def _item(reader: Reader, name: str, segments: int, seed: int) -> tuple[str, list[str]]:
    """A text of a memory task with its question, and its facts."""
    from jrt.evals.tasks.places import PlacesTask
    from jrt.evals.tasks.registry import task_class

    owner = task_class(name)
    if not issubclass(owner, PlacesTask):
        raise InvalidOptionError(f"{name} is no memory task.", "Use memorize, detect or reason, or --text FILE.")
    width = getattr(reader.model, "segment_length", None)
    if width is None:
        raise InvalidOptionError(f"{reader.name} has no memory to look at.", "Pass a model under jrt.RMT.")
    (item,) = owner(num_segments=segments, segment_length=width).items(limit=1, seed=seed)
    return f"{item.context} {item.question}", item.extras["facts"]


def _tokens(reader: Reader, text: str, marks: list[str]) -> tuple[Any, Any]:
    """Token ids, (T,), and which of them belong to a marked part, (T,)."""
    import torch

    if not text.strip():
        raise EmptyInputError("The text is empty.", "Give a text with words in it.")
    encoded = reader.need_tokenizer()(text, add_special_tokens=False, return_offsets_mapping=bool(marks))
    marked = torch.zeros(len(encoded["input_ids"]), dtype=torch.bool)
    for mark in marks:
        begin = text.find(mark)
        if begin < 0 or not mark:
            raise InvalidOptionError(f"The text does not hold {mark!r}.", "Copy --mark from the text.")
        for index, (start, end) in enumerate(encoded["offset_mapping"]):
            marked[index] |= start < begin + len(mark) and end > begin
    return torch.tensor(encoded["input_ids"]), marked


def _write(found: MemoryInspection, folder: Path) -> None:
    from jrt.files import write_text
    from jrt.inspection_plot import plot_attention, plot_memory

    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "inspection.json", found.model_dump_json(indent=1) + "\n")
    plot_attention(found, folder / "attention.png")
    plot_memory(found, folder / "memory.png")
    stderr().print(f"Wrote inspection.json, attention.png and memory.png to {folder}.")


def _print(found: MemoryInspection) -> None:
    """A line a segment, heads and memory tokens averaged."""
    columns = ["segment", "fact", "memory to text", "memory to fact", "answer to memory", "gate", "change", "drift"]
    rows = []
    for index, segment in enumerate(found.segments):
        values = [
            _mean(segment.memory_to_text),
            None if segment.memory_to_marked is None else _mean(segment.memory_to_marked),
            _mean(segment.answer_to_memory),
            None if segment.gates is None else sum(segment.gates) / len(segment.gates),
            sum(segment.change) / len(segment.change),
            sum(segment.drift) / len(segment.drift),
        ]
        shown = ["" if value is None else f"{value:.4f}" for value in values]
        rows.append([str(index + 1), "yes" if segment.marked else "", *shown])
    answer = "" if found.answer is None else f" Answer: {found.answer}."
    caption = f"Means over layers, heads and memory tokens; --json has each.{answer}"
    print_table(f"{found.model}, {found.method}", columns, rows, caption)


def _mean(heads: list[list[float]]) -> float:
    values = [value for layer in heads for value in layer]
    return sum(values) / len(values)
