"""What can go wrong, in words a user can act on.

Every exception says what was asked, what was found and why it cannot work; `hint` says what to type instead. The
command line prints both in one panel; `str(error)` holds both. Each class also derives from the built-in exception that
callers would expect, so `except ValueError` keeps working.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class JRTError(Exception):
    """Base of everything that jrt raises on purpose.

    Args:
        message: what was asked, what was found, why it cannot work.
        hint: what to type instead.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class InvalidOptionError(JRTError, ValueError):
    """An option that does not exist, or a value that it cannot take."""


class UnknownNameError(JRTError, LookupError):
    """A task, method, model or file of that name is not known."""


class EmptyInputError(JRTError, ValueError):
    """An empty question, document or batch."""


class ContextTooLongError(JRTError, ValueError):
    """The prompt does not fit the longest input that the model can read."""


class TokenizerError(JRTError, ValueError):
    """The tokenizer lacks something that the call needs."""


class UnsupportedModelError(JRTError, TypeError):
    """The model cannot do what was asked."""


class MethodConflictError(JRTError, ValueError):
    """Two methods that cannot work together."""


class StateMismatchError(JRTError, ValueError):
    """A captured state that belongs to another model, tokenizer, method or format."""


class CorruptReadingError(JRTError, ValueError):
    """A saved reading that is truncated or was changed after it was written."""


class DataFormatError(JRTError, ValueError):
    """A data file that does not hold what it should; the line number is in the message."""


class InputNotFoundError(JRTError, FileNotFoundError):
    """A file or folder that is not there."""


class HubUnavailableError(JRTError, ConnectionError):
    """Something has to come from the Hugging Face Hub and cannot be had."""


class WriteError(JRTError, OSError):
    """A file that cannot be written: a full disk, no permission."""


class MissingDependencyError(JRTError, ImportError):
    """An optional package is needed and not installed."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence that names the closest known names, with a leading space; the whole list when nothing is close."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=2, cutoff=0.5)
    if close:
        return " Did you mean " + " or ".join(repr(choice) for choice in close) + "?"
    return f" Known: {', '.join(choices)}." if choices else ""
