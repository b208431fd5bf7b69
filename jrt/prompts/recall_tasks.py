"""The prompts of the paper's six recall tasks, byte for byte: FDA, SWDE, SQuAD, NQ, TriviaQA and DROP.

A template is part of the method: the released evaluation cleans the document in one order of strips when it is read
once and in another when it is read twice, and a single trailing space changes what a model answers. So every task here
gives the pieces of its prompt (the document as it is read once, as it is read first of two and last of two, the
question as a sentence, the cloze that ends the prompt) and `JRTPrompt.arrange` puts them in order:

- `once` is the default prompt of the released evaluation and `twice` its "twice" prompt, to the byte;
- `repeat` is the default prompt repeated literally;
- the other orders are the same pieces in another order.

Which template a row gets follows from its columns. A row with the columns of the published data set (`COLUMNS`) gets
the cloze prompt of the paper. A row with only `context, question, answers` gets the key-value prompt of FDA and SWDE
when its question ends in a colon ("Device name:"), and the method's own cue when it is a natural question, because a
cloze cannot be made from it.

Just Read Twice, arXiv 2407.05483, section 3.2 and appendix; rows are only read, never changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jrt.errors import DataFormatError, EmptyInputError, UnknownNameError, did_you_mean
from jrt.prompts.jrt_prompt import JRTPrompt
from jrt.prompts.plan import Plan, Query

Row = Mapping[str, Any]

COLUMNS: dict[str, tuple[str, ...]] = {
    "fda": ("key", "value", "text"),
    "swde": ("key", "value", "text"),
    "squad": ("text", "value", "context", "question"),
    "nq": ("context", "question", "orig_question", "answers"),
    "triviaqa": ("context", "question", "orig_question", "answers"),
    "drop": ("context", "question", "orig_question", "answers"),
}
SWDE_SUMMARY = "Summary of information above..."
TRIVIAQA_TAGS = re.compile(r"\[(?:PAR|DOC|TLE)\]")


@dataclass(frozen=True)
class Pieces:
    """What a prompt of a recall task is made of.

    Attributes:
        once: the document where it is read once, or repeated literally.
        earlier: the document in every reading but the last.
        last: the document in the last of several readings.
        query: the question, the cloze and what joins them to the document.
    """

    once: str
    earlier: str
    last: str
    query: Query


def render(task: str, row: Row, method: JRTPrompt) -> Plan:
    """The prompt of one row.

    Args:
        task: one of `COLUMNS`.
        row: a row of the published data set, or one with `context, question, answers`.
        method: how often and in which order the document is read.

    Raises:
        UnknownNameError: there is no such task.
        DataFormatError: the row has neither set of columns.
        EmptyInputError: the document or the question is empty.

    Example:
        >>> row = {"key": "device name", "value": "Galvo 2", "text": "Device name: Galvo 2."}
        >>> render("fda", row, JRTPrompt(passes=2)).text
        'Information about Device name. Device name: Galvo 2.\\nDevice name: Galvo 2. Device name:'
    """
    known_task(task)
    if has_published_columns(task, row):
        pieces = _PUBLISHED[task](row)
    else:
        _require(row, ("context", "question"), task)
        question = _filled(row, "question").strip()
        document = _filled(row, "context").strip()
        if task == "triviaqa":
            document = TRIVIAQA_TAGS.sub("", document)
        if not is_key(question):
            return method.plan(document, question)
        key_value = _swde if task == "swde" else _fda
        pieces = key_value({"key": question.rstrip(":").rstrip(), "text": document})
    if method.passes == 1 or method.order == "repeat":
        return method.arrange([pieces.once] * method.passes, pieces.query)
    return method.arrange([*[pieces.earlier] * (method.passes - 1), pieces.last], pieces.query)


def known_task(task: str) -> None:
    """Raises `UnknownNameError` unless there is such a recall task."""
    if task not in COLUMNS:
        raise UnknownNameError(f"There is no recall task {task!r}.{did_you_mean(task, COLUMNS)}")


def has_published_columns(task: str, row: Row) -> bool:
    """Whether a row has the columns that the cloze prompt of this task needs (the answers are not among them)."""
    return all(column in row for column in COLUMNS[task] if column not in ("value", "answers"))


def is_key(question: str) -> bool:
    """Whether a question is a key to look up ("Device name:") and not a natural question."""
    return question.rstrip().endswith(":") and bool(question.strip().strip(":").strip())


def _fda(row: Row) -> Pieces:
    key = _key(row)
    text = _without_trailing(_filled(row, "text"), key + ":")
    document = _full_stop(text.strip("\n").strip("."))
    return _key_value(key, document, document)


def _swde(row: Row) -> Pieces:
    key = _key(row)
    text = _without_trailing(_filled(row, "text").split(SWDE_SUMMARY)[0], key + ":")
    once = text.strip("\n").strip().strip("\n").strip().strip(".") + "."
    several = _full_stop(text.strip("\n").strip(".").strip().strip("\n").strip())
    return _key_value(key, once, several)


def _key_value(key: str, once: str, several: str) -> Pieces:
    name = key[0].upper() + key[1:]
    sentence = f"Information about {name.strip(':')}."
    return Pieces(once, several, several, Query(sentence, name + ":", joint=" "))


def _squad(row: Row) -> Pieces:
    """SQuAD's `text` is the paragraph with the beginning of a sentence that the answer completes.

    Where the paragraph can be told apart in it, the beginning of the sentence becomes the cue, so that the context
    alone is the part whose state is kept; the bytes are the same either way.
    """
    text, context = _filled(row, "text").strip(), _filled(row, "context")
    earlier = context.split("Question:")[0]
    question = _filled(row, "question")
    for paragraph in (context.strip(), earlier.strip()):
        rest = text.removeprefix(paragraph)
        if paragraph and rest.strip() and rest != text:
            cue = rest.lstrip()
            gap = rest[: len(rest) - len(cue)]
            return Pieces(paragraph, earlier, paragraph, Query(question, cue, joint=" ", cue_joint=gap))
    return Pieces(text, earlier, text, Query(question, "", joint=" "))


def _nq(row: Row) -> Pieces:
    cloze = _filled(row, "question").strip()
    context = _filled(row, "context").strip()
    once = context.removesuffix(cloze)  # the default prompt of this task alone removes it once and minds the case
    return _cloze(row, once, _without_trailing(context, cloze), strip_colon=True)


def _triviaqa(row: Row) -> Pieces:
    context = TRIVIAQA_TAGS.sub("", _filled(row, "context").strip())
    context = _without_trailing(context, _filled(row, "question").strip())
    return _cloze(row, context, context, strip_colon=False)


def _drop(row: Row) -> Pieces:
    context = _without_trailing(_filled(row, "context").strip(), _filled(row, "question").strip())
    return _cloze(row, context, context, strip_colon=True)


def _cloze(row: Row, once: str, several: str, *, strip_colon: bool) -> Pieces:
    once = once.strip().strip(".") + "."
    several = several.strip().strip(".").strip() + "."
    asked = _filled(row, "orig_question")
    sentence = asked.strip(":") if strip_colon else asked
    return Pieces(once, several, several, Query(sentence, _filled(row, "question").strip(), joint=" "))


_PUBLISHED: dict[str, Callable[[Row], Pieces]] = {
    "fda": _fda,
    "swde": _swde,
    "squad": _squad,
    "nq": _nq,
    "triviaqa": _triviaqa,
    "drop": _drop,
}


def _without_trailing(text: str, ending: str) -> str:
    """Removes an ending as often as it is there, whatever its case."""
    while ending and text.lower().endswith(ending.lower()):
        text = text[: -len(ending)]
    return text


def _full_stop(text: str) -> str:
    return text if text.endswith(".") else text + "."


def _key(row: Row) -> str:
    return _filled(row, "key")


def _filled(row: Row, column: str) -> str:
    """A text column of a row.

    Raises:
        DataFormatError: the column holds no text.
        EmptyInputError: the text is empty, or nothing but colons.
    """
    value = row[column]
    name = f" of row {row['id']!r}" if "id" in row else ""
    if not isinstance(value, str):
        raise DataFormatError(f"The column {column!r}{name} holds {type(value).__name__}, not text.")
    if not value.strip().strip(":"):
        raise EmptyInputError(f"The column {column!r}{name} is empty.", "Drop the row, or fill the column.")
    return value


def _require(row: Row, columns: tuple[str, ...], task: str) -> None:
    missing = [column for column in columns if column not in row]
    if missing:
        raise DataFormatError(
            f"A row of task {task!r} has the columns {', '.join(row)}; {', '.join(missing)} is missing.",
            f"Give context, question and answers, or the published columns {', '.join(COLUMNS[task])}.",
        )
