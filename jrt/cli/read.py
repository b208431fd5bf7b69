"""`jrt read`: reads a document once and for all, so that every question after that costs its own tokens only."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from jrt.cli import options
from jrt.cli.inputs import check_out, read_text
from jrt.cli.output import print_json, progress, stdout
from jrt.cli.readers import method_name, open_reader, parse_methods
from jrt.errors import InvalidOptionError

EXAMPLES = options.examples(
    "jrt read contract.txt --out contract-reading/",
    'jrt ask "Who signed?" --reading contract-reading/',
    "cat chapters/*.txt | jrt read - --out book/ --model state-spaces/mamba-370m-hf --method once",
)


def read(
    document: Annotated[str, typer.Argument(help="A text file, or - for stdin.", metavar="FILE|-", show_default=False)],
    out: options.OutFolder,
    model: options.Model = options.DEFAULT_MODEL,
    method: options.Methods = None,
    system: options.System = None,
    chat: options.Chat = None,
    device: options.Device = "auto",
    dtype: options.DataType = "auto",
    revision: options.Revision = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a reading that is in the folder.")] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Read a document and keep what the model remembers of it.

    The folder holds the tokens of the document, hence the document itself: guard it like the document.
    """
    methods = parse_methods(method)
    text = read_text(document)
    _check_free(out, overwrite)
    reader = open_reader(model, methods, device=device, dtype=dtype, revision=revision, chat=chat)
    if Path(model).expanduser().exists():
        reader.name = str(Path(model).expanduser().resolve())  # so that the reading can be asked from anywhere
    started = time.perf_counter()
    with progress() as bar:
        line = bar.add_task("tokens", total=None)
        reading = reader.read(
            text, system=system, progress=lambda done, total: bar.update(line, completed=done, total=total)
        )
    seconds = time.perf_counter() - started
    reading.save(out)
    result = {
        "reading": str(out),
        "tokens": reading.num_tokens,
        "bytes": reading.nbytes,
        "seconds": round(seconds, 4),
        "model": reader.name,
        "revision": reader.revision,
        "methods": [method_name(method) for method in reader.methods],
    }
    if json:
        print_json(result)
        return
    size = f"{reading.nbytes / 1024:,.0f} KiB" if reading.nbytes < 10 * 2**20 else f"{reading.nbytes / 2**20:,.0f} MiB"
    stdout().print(
        f"{out}: {reading.num_tokens} tokens read in {seconds:.2f} s; {reader.name} remembers them in {size}.\n"
        f'Ask: jrt ask "..." --reading {out}',
        markup=False,
        soft_wrap=True,
    )


def _check_free(folder: Path, overwrite: bool) -> None:
    """Refuses a folder that holds anything, before the document is read."""
    check_out(folder)
    names = sorted(entry.name for entry in folder.iterdir() if entry.name != ".lock") if folder.exists() else []
    if not names:
        return
    if "reading.json" not in names:
        raise InvalidOptionError(
            f"{folder} is not empty: it holds {names[0]}" + (f" and {len(names) - 1} more." if names[1:] else "."),
            "Pass a new or an empty folder to --out.",
        )
    if not overwrite:
        raise InvalidOptionError(
            f"{folder} holds a reading already.", "Pass --overwrite to replace it, or another folder."
        )
