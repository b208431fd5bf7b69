"""`evaluate`: the same items read by every method, greedily, with samples on disk that a killed run goes on from.

Everything that can be refused is refused before the model is called: names, files, settings, prompts that are too long.
Items are answered in batches that depend on the items alone, and a batch of which any item is missing is answered
whole again, so a run that was killed gives the numbers of one that was not.
"""

from __future__ import annotations

import hashlib
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jrt.errors import InvalidOptionError, TokenizerError, UnsupportedModelError, did_you_mean
from jrt.evals.items import Item
from jrt.evals.metrics import METRICS, first_line
from jrt.evals.prepare import NamedMethod, Prepared, check_lengths, named_methods, prepare
from jrt.evals.report import to_markdown
from jrt.evals.run_folder import REPORT, RESULT, Log, open_log, write
from jrt.evals.schema import EvalResult, MethodInfo, ModelInfo, Sample, Settings
from jrt.evals.sources import Data, resolve_data
from jrt.evals.summary import compare, score
from jrt.evals.tasks.base import Task
from jrt.evals.tasks.registry import parse_tasks
from jrt.methods import Method
from jrt.versions import versions

if TYPE_CHECKING:
    from jrt.reader import Reader

DEFAULT_MODEL = "jrt/tiny-recurrent"
DEFAULT_TASKS = ("facts",)
DEFAULT_METHODS = ("once", "context_twice", "twice")
WINDOWS = ("compat", "strict")


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        task: the task that is being answered.
        method: the method that is answering.
        done: answers of the whole run so far, those of an earlier run included.
        total: answers of the whole run.
        resumed: how many of `done` were there when the run began.
    """

    task: str
    method: str
    done: int
    total: int
    resumed: int


def evaluate(
    reader: Reader | str = DEFAULT_MODEL,
    tasks: str | Sequence[str | Task] = DEFAULT_TASKS,
    methods: str | Sequence[str | Method] = DEFAULT_METHODS,
    *,
    limit: int | None = None,
    seed: int = 0,
    data: Data | None = None,
    out: str | Path | None = None,
    max_new_tokens: int = 48,
    batch_size: int = 1,
    context_length: int | None = None,
    window: Literal["compat", "strict"] = "compat",
    progress: Callable[[Progress], None] | None = None,
    command: str | None = None,
) -> EvalResult:
    """Compares methods on the same items of recall tasks.

    Args:
        reader: a Reader, or what `jrt.load` takes. Its own methods stay; a `JRTPrompt` among them gives way to the
            one that is compared.
        tasks: tasks or their shorthands, `["squad", "passkey:num_words=2000"]`; or one text with commas between them.
        methods: methods or their shorthands, likewise; the first is the baseline.
        limit: items of each task: a seeded sample that depends on ids only, or how many are generated. None is all of
            a data set, or 200 generated ones.
        seed: of the sample, of generated items and of the bootstrap.
        data: local files, see `jrt.evals.sources`.
        out: the folder of the run. A run that was killed goes on from it; None keeps nothing.
        max_new_tokens: tokens generated for an answer.
        batch_size: prompts in one batch.
        context_length: cuts the documents of recall tasks to so many tokens less 50 for the answer; the paper's tables
            use 1000. None reads whole documents.
        window: how they are cut: as the released evaluation does, or `strict`; see `jrt.prompts.window`.
        progress: called after every batch.
        command: what to record as the command of this run; the command line of this process by default.

    Raises:
        UnknownNameError: no such task or method.
        InvalidOptionError: an option cannot be used, or `out` holds a run with other settings.
        TokenizerError: the reader has no tokenizer.
        UnsupportedModelError: its model is an encoder or a classifier, which writes no answers.
        ContextTooLongError: a prompt does not fit; raised before the model is called, naming the item.
        DataFormatError: a data file is broken; the line is named.
        HubUnavailableError: a data set cannot be had.
        WriteError: `out` cannot be written.

    Example:
        >>> result = evaluate("jrt/tiny-recurrent", ["facts"], ["once", "twice"], limit=100)
        >>> [comparison.difference.value > 0 for comparison in result.comparisons]
        [True]
    """
    _check(max_new_tokens, batch_size, context_length, window)
    parsed, named = parse_tasks(tasks), named_methods(methods)
    files = resolve_data(parsed, data)
    if isinstance(reader, str):
        from jrt.loading import load

        reader = load(reader)
    _check_writes(reader)
    if reader.tokenizer is None:
        raise TokenizerError(f"{reader.name} has no tokenizer, so it cannot read text.", "Pass tokenizer= to jrt.wrap.")
    prepared = [
        prepare(task, files.get(task.name), reader.tokenizer, limit, seed, context_length, window) for task in parsed
    ]
    views = [(method.label, method.view(reader)) for method in named]
    check_lengths(prepared, views, max_new_tokens)
    settings = Settings(
        versions=versions("torch", "transformers", "numpy"),
        model=_model_info(reader),
        reader_methods=[str(method) for method in reader.methods],
        tasks=[task.info for task in prepared],
        methods=[_method_info(method) for method in named],
        limit=limit,
        seed=seed,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        context_length=context_length,
        window=window,
    )
    folder = None if out is None else Path(out).expanduser()
    with open_log(folder, settings) as log:
        run = _Run(log, settings, sum(len(task.items) for task in prepared) * len(views), progress)
        answered = {(task.label, label): run.answer(task, label, view) for task in prepared for label, view in views}
        result = _result(settings, answered, command or shlex.join(sys.argv))
        if folder is not None:
            write(folder / RESULT, result.to_json())
            write(folder / REPORT, to_markdown(result))
    return result


class _Run:
    """Answers what is missing from a log, batch by batch."""

    def __init__(self, log: Log, settings: Settings, total: int, progress: Callable[[Progress], None] | None) -> None:
        self.log, self.settings, self.total, self.progress = log, settings, total, progress
        self.resumed = len(log.samples)

    def answer(self, task: Prepared, label: str, view: Reader) -> list[Sample]:
        """The samples of one task and method, in the order of the items."""
        self._report(task.label, label)
        for batch in task.batches(view, self.settings.batch_size):
            plans = [task.task.plan(task.items[index], view.prompt) for index in batch]
            hashes = [hashlib.sha256(plan.text.encode()).hexdigest() for plan in plans]
            keys = [(task.label, label, task.items[index].id) for index in batch]
            missing = [key not in self.log.samples for key in keys]
            for key, digest in zip(keys, hashes, strict=True):
                self._same_prompt(key, digest)
            if not any(missing):
                continue
            answers = view.answer_plans(
                plans, max_new_tokens=self.settings.max_new_tokens, stop="\n", batch_size=len(plans)
            )
            samples = [
                _sample(key, digest, answer, task.task, task.items[index])
                for key, digest, answer, index in zip(keys, hashes, answers, batch, strict=True)
            ]
            self.log.add(sample for sample, new in zip(samples, missing, strict=True) if new)
            self._report(task.label, label)
        return [self.log.samples[task.label, label, item.id] for item in task.items]

    def _same_prompt(self, key: tuple[str, str, str], digest: str) -> None:
        there = self.log.samples.get(key)
        if there is not None and there.prompt_sha256 != digest:
            raise InvalidOptionError(
                f"The run in this folder has read another prompt for item {key[2]!r} of {key[0]} by {key[1]}.",
                "Use another folder; the prompts have changed since that run began.",
            )

    def _report(self, task: str, method: str) -> None:
        if self.progress is not None:
            self.progress(Progress(task, method, len(self.log.samples), self.total, self.resumed))


def _sample(key: tuple[str, str, str], digest: str, answer: Any, task: Task, item: Item) -> Sample:
    """One answered item; the paper cuts what was generated at its first newline, leading ones included."""
    label, method, name = key
    answers = list(item.answers)
    return Sample(
        task=label,
        method=method,
        id=name,
        prompt_sha256=digest,
        output=answer.raw,
        answers=answers,
        **{metric: measure(answer.raw, answers) for metric, measure in METRICS.items()},
        scores=task.scores(item, first_line(answer.raw)),
        prompt_tokens=answer.prompt_tokens,
        new_tokens=answer.new_tokens,
        seconds=answer.seconds,
    )


def _result(settings: Settings, answered: dict[tuple[str, str], list[Sample]], command: str) -> EvalResult:
    infos = {task.name: task for task in settings.tasks}
    scores = [score(infos[task], method, samples, settings.seed) for (task, method), samples in answered.items()]
    tasks, methods = [task.name for task in settings.tasks], [method.label for method in settings.methods]
    return EvalResult(
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        platform=f"{platform.platform()}, {platform.machine()}, Python {platform.python_version()}",
        settings=settings,
        scores=scores,
        comparisons=compare(tasks, methods, answered, settings.seed),
        seconds=sum(found.seconds for found in scores),
    )


def _model_info(reader: Reader) -> ModelInfo:
    fingerprint = device = None
    if reader.model is not None:
        from jrt.identity import model_identity

        fingerprint, device = model_identity(reader.model), reader.device.type
    return ModelInfo(name=reader.name, revision=reader.revision, fingerprint=fingerprint, device=device)


def _check_writes(reader: Reader) -> None:
    """Nothing, where the model writes text.

    Raises:
        UnsupportedModelError: it does not; the hint is what measures an encoder with a memory.
    """
    try:
        reader.check_writes()
    except UnsupportedModelError as error:
        raise UnsupportedModelError(
            error.message,
            f"python -m jrt.evals.memory {reader.name} --tasks memorize,detect,reason --segments 64 --out memory.json, "
            "where it chooses a place under RMT and its tokens are words; to compare methods, use a decoder.",
        ) from None


def _method_info(method: NamedMethod) -> MethodInfo:
    return MethodInfo(label=method.label, shorthand=str(method.method), options=method.method.to_dict())


def _check(max_new_tokens: int, batch_size: int, context_length: int | None, window: str) -> None:
    for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise InvalidOptionError(f"{name}={value} cannot be used.", "Use 1 or more.")
    if window not in WINDOWS:
        raise InvalidOptionError(f"There is no window rule {window!r}.{did_you_mean(window, WINDOWS)}")
    if window != WINDOWS[0] and context_length is None:
        raise InvalidOptionError(f"window={window!r} cuts nothing without a context length.", "Give both or neither.")
