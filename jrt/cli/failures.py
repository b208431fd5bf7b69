"""Every way a command can end: exit codes, and one panel on stderr for what went wrong.

A script reads the exit code, a person the panel: what was asked, what was found, and what to type instead. The
traceback is for `--debug`.
"""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, Never

import typer
from typer.core import TyperGroup

from jrt.errors import HubUnavailableError, JRTError

OK, UNEXPECTED, BAD_INPUT, NO_HUB, INTERRUPTED = 0, 1, 2, 3, 130

EXIT_CODES = {
    OK: "it worked",
    UNEXPECTED: "an unexpected error; --debug shows where",
    BAD_INPUT: "bad input: an option, a file, a name, a length",
    NO_HUB: "the Hugging Face Hub is needed and cannot be reached or does not have it",
    INTERRUPTED: "stopped by Ctrl-C; files that are there are whole",
}


class StoppedError(Exception):
    """Ctrl-C, by a command that can say what is kept and how to go on."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


class Commands(TyperGroup):
    """The root of the command line. Turns every exception into a panel and an exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Never:
        arguments = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in arguments or bool(os.environ.get("JRT_DEBUG"))
        try:
            code = super().main(arguments, "jrt", complete_var, False, windows_expand_args, **extra)
        except Exception as error:
            if debug:
                traceback.print_exception(error)
            code = report(error)
        else:
            if code == INTERRUPTED:
                _panel("Stopped.", "", "yellow")
        sys.exit(code if isinstance(code, int) else OK)


def report(error: Exception) -> int:
    """Prints the panel of an exception and returns the exit code that goes with it."""
    if isinstance(error, StoppedError):
        _panel(error.message, error.hint, "yellow")
        return INTERRUPTED
    if isinstance(error, JRTError):
        _panel(error.message, error.hint)
        return NO_HUB if isinstance(error, HubUnavailableError) else BAD_INPUT
    if isinstance(error, typer.TyperException):  # the command line itself: options, values, sub-commands
        context = getattr(error, "ctx", None)
        _panel(_usage_message(error), f"{context.command_path if context else 'jrt'} --help")
        return BAD_INPUT
    if isinstance(error, OSError) and error.filename:  # no permission, a full disk, a read-only file system
        _panel(f"{error.filename}: {error.strerror}.", "another file or folder.")
        return BAD_INPUT
    _panel(f"{type(error).__name__}: {error}", "the same command with --debug, which shows where it happened.")
    return UNEXPECTED


def _usage_message(error: Any) -> str:
    if hasattr(error, "possibilities") and hasattr(error, "option_name"):
        asked = error.option_name.lstrip("-")
        known = {name.lstrip("-"): name for name in error.possibilities or ()}  # the dashes alone make names alike
        close = [repr(known[name]) for name in difflib.get_close_matches(asked, known)]
        return f"There is no option {error.option_name!r}." + (f" Did you mean {' or '.join(close)}?" if close else "")
    message: str = error.format_message()
    return message


def _panel(message: str, hint: str, colour: str = "red") -> None:
    from rich.panel import Panel
    from rich.text import Text

    from jrt.cli.output import stderr

    text = Text(message)
    if hint:
        starts_a_sentence = hint[:1].isupper() and hint[1:2].islower()
        text.append("\nTry: ", style="bold").append(hint[0].lower() + hint[1:] if starts_a_sentence else hint)
    stderr().print(Panel(text, title="Error" if colour == "red" else None, title_align="left", border_style=colour))
