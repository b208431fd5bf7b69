"""The options that several commands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_MODEL = "jrt/tiny-recurrent"
DEFAULT_METHOD = "twice"


def examples(*lines: str) -> str:
    """The end of a command's help: commands that can be copied."""
    return "\n\n".join(["[bold]Examples[/bold]", *(line.replace("[", r"\[") for line in lines)])


Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="An embedded model, a local folder, a .gguf file, or a Hugging Face Hub id.",
    ),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        metavar="METHOD",
        help="How the document is read: a name of [bold]jrt ls methods[/bold] or name:option=value,option=value. "
        f"May be given several times. \\[default: {DEFAULT_METHOD}]",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="Where the model runs: auto is cuda, then mps, then cpu.")]
DataType = Annotated[
    str, typer.Option("--dtype", metavar="TYPE", help="auto (the checkpoint's own), float32, bfloat16 or float16.")
]
Revision = Annotated[
    str | None, typer.Option(metavar="REVISION", help="The revision of a model of the Hub.", show_default=False)
]
Chat = Annotated[
    bool | None,
    typer.Option("--chat/--no-chat", help="Use the model's chat template. \\[default: where it has one]"),
]
System = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="A system turn, for models with a chat template.", show_default=False),
]
OutFolder = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else on stdout.")]
Debug = Annotated[
    bool,
    typer.Option("--debug", help="Show the traceback of an error and the log of transformers (or set JRT_DEBUG=1)."),
]
