"""Before the model is called: items of every task, methods with their labels, and the check that every prompt fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jrt.errors import ContextTooLongError, InvalidOptionError
from jrt.evals.items import Item, items_hash
from jrt.evals.schema import TaskInfo
from jrt.evals.tasks.base import Cut, Task
from jrt.methods import PRESETS, Method, parse_method, split_methods
from jrt.prompts import JRTPrompt

if TYPE_CHECKING:
    from jrt.reader import Reader

ANSWER_LENGTH = 50
"""Tokens of the context length that are kept free for the answer, as in the paper."""


@dataclass(frozen=True)
class NamedMethod:
    """A method and what tables call it."""

    label: str
    method: Method

    def view(self, reader: Reader) -> Reader:
        """The reader's model read by this method, besides what the reader does already."""
        kept = list(reader.methods)
        if isinstance(self.method, JRTPrompt):
            kept = [method for method in kept if not isinstance(method, JRTPrompt)]
            return reader.with_methods(self.method, *kept)
        return reader.with_methods(*kept, self.method)


def named_methods(methods: str | Sequence[str | Method]) -> list[NamedMethod]:
    """Methods from shorthands, with commas between them if they are one text, or from objects.

    A method that is a preset is called by the preset's name, one given as text as it is written.

    Raises:
        UnknownNameError: no method is called so.
        InvalidOptionError: there is none, or one comes twice.
    """
    presets = {str(parse_method(name)): name for name in reversed(PRESETS)}
    named: list[NamedMethod] = []
    for method in split_methods(methods) if isinstance(methods, str) else methods:
        parsed = parse_method(method) if isinstance(method, str) else method
        label = method if isinstance(method, str) else presets.get(str(parsed), str(parsed))
        same = next((other.label for other in named if other.method == parsed), None)
        if same is not None:
            raise InvalidOptionError(f"The methods {same} and {label} are the same.", "Give every method once.")
        named.append(NamedMethod(label, parsed))
    if not named:
        raise InvalidOptionError("There is no method to evaluate.", f"Choose from {', '.join(PRESETS)}.")
    return named


@dataclass(frozen=True)
class Prepared:
    """A task with the items that will be asked."""

    task: Task
    items: list[Item]
    info: TaskInfo

    @property
    def label(self) -> str:
        return self.info.name

    def batches(self, view: Reader, batch_size: int) -> list[list[int]]:
        """Indices of items that are answered together, by length of their prompts; the same in every run."""
        indices = list(range(len(self.items)))
        if batch_size > 1:
            indices.sort(key=lambda index: len(self.task.plan(self.items[index], view.prompt).text))
        return [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]


def prepare(
    task: Task,
    file: Path | None,
    tokenizer: Any,
    limit: int | None,
    seed: int,
    context_length: int | None,
    window: Literal["compat", "strict"],
) -> Prepared:
    """Draws the items of a task and cuts their documents.

    Raises:
        InvalidOptionError: the documents cannot be cut so, or no item is left.
    """
    drawn = task.items(limit=limit, seed=seed, path=file)
    kept: list[Item | None] = list(drawn)
    if context_length is not None:
        cut = _cut(tokenizer, context_length, window)
        kept = [task.cut(item, cut) for item in drawn]
    items = [item for item in kept if item is not None]
    if not items:
        raise InvalidOptionError(f"No item of {task} is left.", 'Use a larger limit, or window="strict".')
    info = TaskInfo(
        name=str(task),
        version=task.version,
        source=task.source if file is None else file.name,
        items=len(items),
        dropped=len(drawn) - len(items),
        metrics=dict(task.metrics),
        sha256=items_hash(drawn),
    )
    return Prepared(task, items, info)


def check_lengths(prepared: Sequence[Prepared], views: Sequence[tuple[str, Reader]], max_new_tokens: int) -> None:
    """Refuses prompts that are longer than the model reads, before it is called.

    Raises:
        ContextTooLongError: names the longest such item with the method that needs most, and says how many there are.
    """
    limited = [(label, view, view.max_length) for label, view in views if view.max_length is not None]
    if not limited:
        return
    from jrt.tokens import encode_plan

    for task in prepared:
        worst: tuple[int, int, str, Reader, str] | None = None
        for label, view, max_length in limited:
            lengths = [len(encode_plan(view.tokenizer, task.task.plan(item, view.prompt))) for item in task.items]
            long = sum(length + max_new_tokens > max_length for length in lengths)
            longest = max(range(len(lengths)), key=lengths.__getitem__)
            if long and (worst is None or lengths[longest] > worst[0]):
                worst = (lengths[longest], longest, label, view, f"{long} of {len(lengths)}")
        if worst is not None:
            _, longest, label, view, share = worst
            _refuse(task, task.items[longest], label, view, max_new_tokens, share)


def _refuse(task: Prepared, item: Item, label: str, view: Reader, max_new_tokens: int, share: str) -> None:
    from jrt.explanation import explain
    from jrt.prompts.budget import longest_context

    explanation = explain(view, task.task.plan(item, view.prompt), max_new_tokens)
    try:
        explanation.check()
    except ContextTooLongError as error:
        room = longest_context(explanation.parts, max_new_tokens, explanation.max_length or 0) + ANSWER_LENGTH
        hint = (
            f" Or cut every document: --context-length {room // 10 * 10}."
            if task.task.cuts and room > ANSWER_LENGTH + 10
            else ""
        )
        raise ContextTooLongError(
            f"{share} items of {task.label} are too long for {label}; the longest is {item.id!r}: {error.message}",
            error.hint + hint,
        ) from None


def _cut(tokenizer: Any, context_length: int, window: Literal["compat", "strict"]) -> Cut:
    """How documents are cut with this tokenizer; the released evaluation counts special tokens, `strict` does not."""
    from jrt.tokens import encode

    if context_length <= ANSWER_LENGTH:
        raise InvalidOptionError(
            f"A context length of {context_length} leaves no room for a document: {ANSWER_LENGTH} are for the answer.",
            "Use more; the paper uses 1000.",
        )
    return Cut(
        window,
        context_length,
        encode=lambda text: encode(tokenizer, text, special=window == "compat"),
        decode=lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)),
    )
