"""Where tasks are found by name: the ones here, imported when they are used, and those that other packages register
with an entry point of the group `jrt.tasks`, whose name is the task's and whose value is its class."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any

from jrt.errors import InvalidOptionError, UnknownNameError, did_you_mean
from jrt.evals.tasks.base import Task
from jrt.methods import split_methods

BUILT_IN = {
    "babilong": "jrt.evals.tasks.babilong:BABILong",
    "detect": "jrt.evals.tasks.detect:Detect",
    "drop": "jrt.evals.tasks.drop:Drop",
    "facts": "jrt.evals.tasks.facts:Facts",
    "fda": "jrt.evals.tasks.fda:FDA",
    "kv_retrieval": "jrt.evals.tasks.kv_retrieval:KVRetrieval",
    "memorize": "jrt.evals.tasks.memorize:Memorize",
    "mqar": "jrt.evals.tasks.mqar:MQAR",
    "nq": "jrt.evals.tasks.nq:NQ",
    "passkey": "jrt.evals.tasks.passkey:Passkey",
    "reason": "jrt.evals.tasks.reason:Reason",
    "set_disjointness": "jrt.evals.tasks.set_disjointness:SetDisjointness",
    "squad": "jrt.evals.tasks.squad:SQuAD",
    "summarisation": "jrt.evals.tasks.summarisation:Summarisation",
    "swde": "jrt.evals.tasks.swde:SWDE",
    "triviaqa": "jrt.evals.tasks.triviaqa:TriviaQA",
}


def known_tasks() -> dict[str, str]:
    """Name to `module:class` for the tasks here and those that other packages register."""
    return BUILT_IN | {point.name: point.value for point in entry_points(group="jrt.tasks")}


def task_class(name: str) -> type[Task]:
    """The class behind a name.

    Raises:
        UnknownNameError: no task is called so.
    """
    tasks = known_tasks()
    if name not in tasks:
        raise UnknownNameError(f"There is no task {name!r}.{did_you_mean(name, tasks)}", "Type jrt ls tasks.")
    module, _, attribute = tasks[name].partition(":")
    found: type[Task] = getattr(importlib.import_module(module), attribute)
    return found


def parse_task(text: str) -> Task:
    """A task from its shorthand: `squad`, or `passkey:num_words=2000,depth=0.5`.

    Raises:
        UnknownNameError: no task is called so.
        InvalidOptionError: the task has no such option, or it cannot take the value.
    """
    name, _, rest = text.partition(":")
    return task_class(name.strip())(**_options(rest, text))


def parse_tasks(tasks: str | Sequence[str | Task]) -> list[Task]:
    """Tasks from shorthands, with commas between them if they are one text, or from objects.

    Raises:
        InvalidOptionError: there is none, or one comes twice.
    """
    given = split_methods(tasks) if isinstance(tasks, str) else tasks  # tasks are written like methods
    parsed = [parse_task(task) if isinstance(task, str) else task for task in given]
    labels = [str(task) for task in parsed]
    if not labels:
        raise InvalidOptionError("There is no task to evaluate.", f"Choose from {', '.join(sorted(known_tasks()))}.")
    for label in labels:
        if labels.count(label) > 1:
            raise InvalidOptionError(f"The task {label} is given {labels.count(label)} times.", "Give it once.")
    return parsed


def _options(rest: str, text: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for piece in rest.split(",") if rest.strip() else []:
        option, equals, value = piece.partition("=")
        if not equals:
            raise InvalidOptionError(f"{piece!r} in {text!r} is no option.", "Write name:option=value,option=value.")
        try:
            options[option.strip()] = json.loads(value)
        except json.JSONDecodeError:
            options[option.strip()] = value.strip()
    return options
