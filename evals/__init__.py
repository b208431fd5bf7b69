"""Zero-shot recall evaluation: tasks, metrics, runner, statistics and report.

Importing this package loads neither torch nor transformers nor datasets; every public name is loaded when it is first
used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_LAZY = {
    "EvalResult": "jrt.evals.schema",
    "Item": "jrt.evals.items",
    "Progress": "jrt.evals.runner",
    "Task": "jrt.evals.tasks.base",
    "evaluate": "jrt.evals.runner",
    "known_tasks": "jrt.evals.tasks.registry",
    "load_result": "jrt.evals.schema",
    "parse_task": "jrt.evals.tasks.registry",
    "plot": "jrt.evals.plotting",
    "rich_table": "jrt.evals.report",
    "to_markdown": "jrt.evals.report",
}

__all__ = [
    "EvalResult",
    "Item",
    "Progress",
    "Task",
    "evaluate",
    "known_tasks",
    "load_result",
    "parse_task",
    "plot",
    "rich_table",
    "to_markdown",
]

if TYPE_CHECKING:
    from jrt.evals.items import Item as Item
    from jrt.evals.plotting import plot as plot
    from jrt.evals.report import rich_table as rich_table
    from jrt.evals.report import to_markdown as to_markdown
    from jrt.evals.runner import Progress as Progress
    from jrt.evals.runner import evaluate as evaluate
    from jrt.evals.schema import EvalResult as EvalResult
    from jrt.evals.schema import load_result as load_result
    from jrt.evals.tasks.base import Task as Task
    from jrt.evals.tasks.registry import known_tasks as known_tasks
    from jrt.evals.tasks.registry import parse_task as parse_task


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        from jrt.errors import did_you_mean

        raise AttributeError(f"module 'jrt.evals' has no attribute {name!r}.{did_you_mean(name, _LAZY)}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
