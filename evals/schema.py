"""What a result holds, as pydantic models: `result.json` is an `EvalResult`, every line of `samples.jsonl` a `Sample`,
and `run.json` the `Settings` that must be equal for a run to be continued."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from jrt.errors import DataFormatError, InputNotFoundError
from jrt.evals.statistics import Estimate

FORMAT_VERSION: Literal[1] = 1
AVERAGE = "average"
"""The task name of a comparison over all tasks, each counting the same."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Interval(_Record):
    """A number with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, estimate: Estimate) -> Interval:
        return cls(value=estimate.value, low=estimate.low, high=estimate.high)


class ModelInfo(_Record):
    """Which model.

    Attributes:
        name: a Hub id, a path or the name of an embedded model.
        revision: the Hub revision, where there is one.
        fingerprint: class, data type and a hash of sampled weights, where the weights can be seen.
        device: the kind of device that it ran on.
    """

    name: str
    revision: str | None
    fingerprint: dict[str, str] | None
    device: str | None


class TaskInfo(_Record):
    """Which items.

    Attributes:
        name: the shorthand, options included.
        version: of the task's prompts and rules.
        source: a file's name, `hub:` and a data set, or `generated`.
        items: how many were asked.
        dropped: how many the window rule left out.
        sha256: of the rows of the sampled items, before any cutting.
        metrics: the task's own ones, besides those of every task: "share" of right items, or "mean".
    """

    name: str
    version: int
    source: str
    items: int
    dropped: int
    sha256: str
    metrics: dict[str, Literal["share", "mean"]] = {}


class MethodInfo(_Record):
    """Which method: the label in tables, the shorthand that makes it again, and its options."""

    label: str
    shorthand: str
    options: dict[str, Any]


class Settings(_Record):
    """Everything that a score depends on; two runs with equal settings give equal scores."""

    format_version: Literal[1] = FORMAT_VERSION
    versions: dict[str, str]
    model: ModelInfo
    reader_methods: list[str]
    tasks: list[TaskInfo]
    methods: list[MethodInfo]
    limit: int | None
    seed: int
    max_new_tokens: int
    batch_size: int
    context_length: int | None
    window: Literal["compat", "strict"]


class Sample(_Record):
    """One answered item.

    Attributes:
        task: the task's shorthand.
        method: the method's label.
        id: the item's.
        prompt_sha256: of the exact text that was read.
        output: everything generated; metrics look at its first line.
        answers: what counts as right.
        contains: 1 or 0, see `jrt.evals.metrics`.
        exact_match: 1 or 0.
        f1: 0 to 1.
        scores: the task's own metrics, 0 to 1.
        prompt_tokens: tokens read.
        new_tokens: tokens generated.
        seconds: wall time, shared evenly by the items of a batch.
    """

    task: str
    method: str
    id: str
    prompt_sha256: str
    output: str
    answers: list[str]
    contains: float
    exact_match: float
    f1: float
    scores: dict[str, float] = {}
    prompt_tokens: int
    new_tokens: int
    seconds: float


class Score(_Record):
    """One method on one task; `scores` are the task's own metrics.

    Intervals are Wilson's for contains, exact match and other shares of right items, bootstrap for F1 and other means.
    """

    task: str
    method: str
    items: int
    contains: Interval
    exact_match: Interval
    f1: Interval
    scores: dict[str, Interval] = {}
    mean_prompt_tokens: float
    seconds: float


class Comparison(_Record):
    """A method against the first one on the same items, by `contains`.

    Attributes:
        task: the task, or `average` over all of them.
        method: the method.
        baseline: the first method.
        difference: the gain, with its paired bootstrap interval.
        wins: items that only the method has right.
        losses: items that only the baseline has right.
    """

    task: str
    method: str
    baseline: str
    difference: Interval
    wins: int
    losses: int


class EvalResult(_Record):
    """A finished evaluation.

    Attributes:
        command: the command line or call that made it.
        created: when, in UTC, ISO 8601.
        platform: operating system, processor and Python.
        settings: what the numbers depend on.
        scores: one for each task and method, tasks first.
        comparisons: one for each task and method but the first.
        seconds: of all answers.
    """

    format_version: Literal[1] = FORMAT_VERSION
    command: str
    created: str
    platform: str
    settings: Settings
    scores: list[Score]
    comparisons: list[Comparison]
    seconds: float

    def score(self, task: str, method: str) -> Score:
        """The score of one method on one task; KeyError where there is none."""
        for score in self.scores:
            if (score.task, score.method) == (task, method):
                return score
        raise KeyError((task, method))

    def to_json(self) -> str:
        """The result as indented JSON, ending with a newline."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def load_result(path: str | Path) -> EvalResult:
    """A result from its `result.json`, or from the run's folder.

    Raises:
        InputNotFoundError: there is none.
        DataFormatError: the file is no result of this format version.
    """
    file = Path(path)
    file = file / "result.json" if file.is_dir() else file
    if not file.is_file():
        raise InputNotFoundError(f"There is no result {file}.", "Pass the folder that jrt eval --out wrote.")
    try:
        return EvalResult.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DataFormatError(
            f"{file} is no result of format version {FORMAT_VERSION}: {place + ': ' if place else ''}{first['msg']}.",
            "Run jrt eval again.",
        ) from None
