"""`jrt convert`: a released checkpoint of Based or JRT-RNN as a folder that everything else takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jrt.cli import options
from jrt.cli.output import print_json, print_table, stdout

EXAMPLES = options.examples(
    "jrt convert hazyresearch/JRT-360M-30B jrt-360m/",
    "jrt convert downloads/JRT-1B-50B jrt-1b/ --padding strict --tokenizer downloads/gpt2",
    'jrt ask "Where does Mira live?" --context notes.txt --model jrt-360m/ --method once',
)


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER|FILE|HUB-ID",
            help="A released checkpoint: a folder, its pytorch_model.bin, or its Hub id.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write.", show_default=False)],
    padding: Annotated[
        str,
        typer.Option(
            metavar="legacy|strict",
            help="How prompts shorter than the prefix are read: legacy as the models were evaluated, strict as they "
            "are.",
        ),
    ] = "legacy",
    sliding_window: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Tokens before itself that a token sees in softmax attention. \\[default: the checkpoint's]",
            show_default=False,
        ),
    ] = None,
    tokenizer: Annotated[
        str, typer.Option(metavar="NAME", help="Its tokenizer: a Hub id, a folder, or none.")
    ] = "gpt2",
    revision: options.Revision = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Convert a released checkpoint of Based or JRT-RNN.

    The pickle is read without running any code of it; every key and shape is checked before anything is written.
    """
    from jrt.models import convert as run

    report = run(
        source,
        out,
        padding=padding,
        sliding_window=sliding_window,
        tokenizer=None if tokenizer == "none" else tokenizer,
        revision=revision,
    )
    if json:
        print_json({"out": str(out)} | report.to_dict())
        return
    kinds = [[kind, report.mixers.count(kind)] for kind in dict.fromkeys(report.mixers)]
    caption = f"{report.tensors} tensors, {report.parameters:,} parameters, {len(report.dropped)} keys dropped"
    print_table(report.model, ["mixer", "layers"], kinds, caption)
    for option, value in report.assumed.items():
        stdout().print(f"assumed, as the checkpoint does not say: {option} = {value}", markup=False)
    stdout().print(f"written to {out}", markup=False)
