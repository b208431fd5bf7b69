"""What a row of a recall task holds besides its prompt: which answers are right, and where its window is placed.

| task | document | the window is placed by | right answers |
|---|---|---|---|
| fda, swde | `text` | the earlier of `key` and `value` | `value` |
| squad | `text` | `value` | `value` |
| nq | `context` | the first of `answers`, then `alt_answers`, then `tok_pos` | `answers` |
| drop, triviaqa | `context` | nothing: the head | `answers` |

That is the rule "compat", for rows of the published data sets. A row with `context, question, answers` has its document
in `context`; for fda and swde its key is the question without the colon, and the first answer stands for the value. The
rule "strict" looks for the right answers, whatever the task.
"""

from __future__ import annotations

from typing import Any, Literal

from jrt.errors import DataFormatError, InvalidOptionError
from jrt.prompts.recall_tasks import Row, has_published_columns, is_key, known_task
from jrt.prompts.window import Decode, Encode, compat_window, strict_window

Rule = Literal["compat", "strict"]
_DOCUMENTS = {"fda": "text", "swde": "text", "squad": "text"}


def document_column(task: str, row: Row) -> str:
    """The column that holds the document which is read."""
    known_task(task)
    return _DOCUMENTS.get(task, "context") if has_published_columns(task, row) else "context"


def labels(task: str, row: Row) -> tuple[str, ...]:
    """The right answers of a row.

    Raises:
        UnknownNameError: there is no such task.
        DataFormatError: the row has no answers.
    """
    known_task(task)
    answers: Any = row.get("value") if task in _DOCUMENTS and "value" in row else row.get("answers")
    found = (answers,) if isinstance(answers, str) else tuple(answers or ())
    if not found or not all(isinstance(answer, str) for answer in found):
        name = f" {row['id']!r}" if "id" in row else ""
        raise DataFormatError(f"Row{name} of task {task!r} has no answers; its columns are {', '.join(row)}.")
    return found


def window_answers(task: str, row: Row) -> tuple[str, ...]:
    """What places the window of the released evaluation; nothing for tasks that read the head."""
    if task in ("drop", "triviaqa"):
        return ()
    right = labels(task, row)[:1]
    if task not in ("fda", "swde"):
        return right
    if has_published_columns(task, row):
        return (str(row["key"]), *right)
    question = str(row.get("question", "")).strip()
    return (question.rstrip(":").rstrip(), *right) if is_key(question) else right


def cut_row(
    task: str,
    row: Row,
    *,
    rule: Rule,
    encode: Encode,
    decode: Decode,
    context_length: int = 1000,
    answer_length: int = 50,
) -> dict[str, Any] | None:
    """A copy of a row whose document is cut to a window of `context_length - answer_length` tokens.

    Args:
        task: a recall task.
        row: a row of it; it is not changed.
        rule: "compat" or "strict", see `jrt.prompts.window`.
        encode: text to token ids; with special tokens for "compat" if the model's tokenizer adds them, else without.
        decode: token ids to text, special tokens left out.
        context_length: the tokens of one reading and the answer; the paper's tables use 1000, and 512, 1024 or 2048.
        answer_length: the tokens kept free for the answer.

    Returns:
        The copy, or None where the released evaluation drops the row (an answer or key of one character).

    Raises:
        UnknownNameError: there is no such task.
        InvalidOptionError: no such rule, or no room for a document.
        DataFormatError: the row has no answers, or cannot be cut without losing its question.
    """
    column, width = document_column(task, row), context_length - answer_length
    if rule == "compat":
        window = compat_window(
            row[column],
            window_answers(task, row),
            encode=encode,
            decode=decode,
            width=width,
            alternatives=tuple(row.get("alt_answers") or ()),
            token_position=row.get("tok_pos"),
        )
        return None if window is None else {**row, column: window.text}
    if rule != "strict":
        raise InvalidOptionError(f"There is no window rule {rule!r}.", 'Use "compat" or "strict".')
    document, rest = _without_cloze(row) if column == "text" and task == "squad" else (row[column], "")
    text = strict_window(document, labels(task, row), encode=encode, decode=decode, width=width).text
    if not rest:
        return {**row, column: text}
    return {**row, "context": text, "text": text + rest}


def _without_cloze(row: Row) -> tuple[str, str]:
    """SQuAD's paragraph, and the beginning of the sentence that stands after it in `text`.

    Raises:
        DataFormatError: the paragraph cannot be told apart.
    """
    text = row["text"].strip()
    for paragraph in (row["context"].strip(), row["context"].split("Question:")[0].strip()):
        if paragraph and text.startswith(paragraph) and text != paragraph:
            return paragraph, text[len(paragraph) :]
    raise DataFormatError(
        "The text of a SQuAD row does not begin with its context, so cutting it may cut off the question.",
        'Use the rule "compat", or rows with context, question and answers.',
    )
