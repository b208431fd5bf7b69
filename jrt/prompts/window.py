"""Which part of a document a recall evaluation reads: the window rules of the paper's evaluation, and a sane version.

Documents are cut before the prompt is built and before anything is repeated, with the tokens of the evaluated model,
so that one reading of the window, the question and the answer fit a given length. The window is placed where the answer
is: these tasks ask whether a model recalls what it has read, not whether it reads the right part.

`compat_window` is the released evaluation with everything odd about it, because published numbers depend on it;
`strict_window` keeps the answer inside, fills the window, and takes the head when there is nothing to find.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jrt.errors import InvalidOptionError

Encode = Callable[[str], Sequence[Any]]
Decode = Callable[[Any], str]


@dataclass(frozen=True)
class Window:
    """The part of a document that is read.

    Attributes:
        text: the part.
        start: its first token.
        end: the token after its last.
        found: whether the answer was found in the document.
    """

    text: str
    start: int
    end: int
    found: bool


def compat_window(
    document: str,
    answers: Sequence[str],
    *,
    encode: Encode,
    decode: Decode,
    width: int,
    alternatives: Sequence[str] = (),
    token_position: int | None = None,
) -> Window | None:
    """The window of the released evaluation, oddities included.

    - Half of the window goes before the answer's first token. Near the end of the document the window is not moved
      left to fill, so it is shorter than `width`.
    - An answer that is not found counts as found at the last character but one: the window is about the last
      `width // 2` tokens. Only when the document is longer than the window and `token_position` is given does that
      count instead.
    - Without any answer to look for, the window is the head.
    - An answer of at most one character drops the document.

    Args:
        document: the whole document.
        answers: what places the window; the earliest match of any of them counts, case aside.
        encode: text to token ids, special tokens included where the model's tokenizer adds them.
        decode: token ids to text, special tokens left out.
        width: the tokens of the window: context length less answer length.
        alternatives: other answers, tried in order when none of `answers` is found; the first that is found counts.
        token_position: where the answer is believed to be, in tokens, if none is found.

    Returns:
        The window, or None where the evaluation drops the document.

    Raises:
        InvalidOptionError: `width` is not positive.
    """
    _check_width(width)
    text = document.strip()
    if any(len(answer) <= 1 for answer in answers):
        return None
    tokens = encode(text)
    position = _earliest(text, answers)
    for alternative in alternatives:
        position = _earliest(text, [alternative]) if position < 0 else position
    found = position >= 0
    if not answers:
        position = 0
    center = len(encode(text[:position]))  # position -1 leaves out the last character
    if position < 0 and token_position is not None and center > width:
        center = token_position
    start = max(0, center - width // 2)
    end = min(len(tokens), start + width)
    return Window(decode(tokens[start:end]), start, end, found)


def strict_window(document: str, answers: Sequence[str], *, encode: Encode, decode: Decode, width: int) -> Window:
    """A window that holds the first of the answers found, is as long as it may be, and starts no later than needed.

    The answer's beginning stands in the middle where the document allows. An answer that does not fit the window as a
    whole stands at its beginning. Nothing found, or nothing to find: the head.

    Args:
        document: the whole document.
        answers: what has to stay inside, most important first; matched case aside.
        encode: text to token ids, without special tokens.
        decode: token ids to text.
        width: the tokens of the window.

    Raises:
        InvalidOptionError: `width` is not positive.
    """
    _check_width(width)
    text = document.strip()
    tokens = encode(text)
    match = next((found for answer in answers if answer and (found := _search(text, answer))), None)
    if len(tokens) <= width:
        return Window(text, 0, len(tokens), match is not None)
    start = 0
    if match is not None:
        start = _start(len(encode(text[: match.start()])), len(encode(text[: match.end()])), len(tokens), width)
    return Window(decode(tokens[start : start + width]), start, start + width, match is not None)


def _start(first: int, end: int, length: int, width: int) -> int:
    """Where a window of `width` out of `length` tokens starts, so that it holds the answer at tokens `first` to `end`.

    A prefix that is tokenized alone may end a token earlier or later than in the whole, so one more token is kept on
    either side where the window has room for it: the left one first, where a word's token holds the space before it.
    """
    room = width - (end - first)
    latest = first - 1 if room >= 1 else first
    earliest = end + 1 - width if room >= 2 else end - width
    return max(0, min(max(first - width // 2, earliest), latest, length - width))


def _search(text: str, answer: str) -> re.Match[str] | None:
    return re.search(re.escape(answer), text, re.IGNORECASE)


def _earliest(text: str, answers: Sequence[str]) -> int:
    """The first character of the earliest match of any answer, -1 where none is found."""
    return min((match.start() for answer in answers if (match := _search(text, answer))), default=-1)


def _check_width(width: int) -> None:
    if width < 1:
        raise InvalidOptionError(
            f"A window of {width} tokens holds nothing.", "The context length must be more than the answer length."
        )
