"""A result as a table: Markdown for files and pages, rich for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jrt.evals.schema import AVERAGE, Comparison, EvalResult, Interval
from jrt.tables import markdown_table

if TYPE_CHECKING:
    from rich.table import Table


def to_markdown(result: EvalResult) -> str:
    """The result as a Markdown page: what was run, the main table, every comparison, every metric."""
    settings = result.settings
    blocks = [
        f"# {settings.model.name}: {', '.join(task.name for task in settings.tasks)}",
        "\n".join(f"- {line}" for line in _what_was_run(result)),
        f"`contains`: % of items whose answer holds a right one, with its 95 % interval (Wilson).{_gain_words(result)}",
        markdown_table(*main_rows(result, intervals=True), numbers=True),
    ]
    if result.comparisons:
        blocks += [
            f"Against {result.comparisons[0].baseline} on the same items: points of `contains` with their 95 % "
            "interval (paired bootstrap), and how many items only one of the two has right.",
            markdown_table(*_comparison_rows(result.comparisons), numbers=True),
        ]
    blocks += ["All metrics in %, and what they cost.", markdown_table(*_metric_rows(result), numbers=True)]
    blocks += [f"Command:\n\n```sh\n{result.command}\n```"]
    return "\n\n".join(blocks) + "\n"


def rich_table(result: EvalResult) -> Table:
    """The main table for a terminal; the interval stands at the gain."""
    from rich.markup import escape
    from rich.table import Table

    header, rows = main_rows(result, intervals=len(result.settings.methods) == 1)
    table = Table(title=f"{escape(result.settings.model.name)}: contains, % of items", title_justify="left")
    for index, name in enumerate(header):
        table.add_column(
            escape(name), justify="right" if index else "left", overflow="fold" if not index else "ellipsis"
        )
    for row in rows:
        if row[0] == AVERAGE:
            table.add_section()
        table.add_row(*map(escape, row))
    return table


def main_rows(result: EvalResult, *, intervals: bool) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the main table: a task a row, a method a column, and what the last method gains.

    Args:
        result: the result.
        intervals: whether the methods' own intervals stand beside their scores.
    """
    methods = [method.label for method in result.settings.methods]
    gains = {comparison.task: comparison for comparison in result.comparisons if comparison.method == methods[-1]}
    header = ["task", "items", *methods] + (["gain [95 %]"] if gains else [])
    rows = []
    for task in result.settings.tasks:
        scores = [result.score(task.name, method).contains for method in methods]
        cells = [percent(score) if intervals else f"{100 * score.value:.1f}" for score in scores]
        rows.append([f"{task.name} v{task.version}", str(task.items), *cells])
    if len(rows) > 1:
        means = [_average(result, method) for method in methods]
        items = sum(task.items for task in result.settings.tasks)
        rows.append([AVERAGE, str(items), *[f"{100 * mean:.1f}" for mean in means]])
    if gains:
        names = [task.name for task in result.settings.tasks] + [AVERAGE]
        for name, row in zip(names, rows, strict=False):
            row.append(percent(gains[name].difference, sign=True))
    return header, rows


def percent(interval: Interval, *, sign: bool = False) -> str:
    """`62.5 [55.6, 68.9]` in %, or `+40.0 [+32.1, +47.8]`."""
    form = "+.1f" if sign else ".1f"
    value, low, high = (f"{100 * number + 0.0:{form}}" for number in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"


def _average(result: EvalResult, method: str) -> float:
    values = [result.score(task.name, method).contains.value for task in result.settings.tasks]
    return sum(values) / len(values)


def _gain_words(result: EvalResult) -> str:
    if not result.comparisons:
        return ""
    methods = [method.label for method in result.settings.methods]
    return f" Gain: {methods[-1]} less {methods[0]} on the same items (paired bootstrap)."


def _what_was_run(result: EvalResult) -> list[str]:
    settings = result.settings
    revision = f", revision {settings.model.revision}" if settings.model.revision else ""
    weights = f", weights {settings.model.fingerprint['weights']}" if settings.model.fingerprint else ""
    whole = "whole documents"
    length = f"cut to {settings.context_length} tokens ({settings.window})" if settings.context_length else whole
    lines = [
        f"model: {settings.model.name}{revision}{weights}",
        f"greedy, {settings.max_new_tokens} new tokens, cut at the first newline; {length}; "
        f"batches of {settings.batch_size}; seed {settings.seed}",
    ]
    if settings.reader_methods:
        lines.append(f"the reader's own methods: {', '.join(settings.reader_methods)}")
    lines += [f"{method.label}: `{method.shorthand}`" for method in settings.methods]
    for task in settings.tasks:
        dropped = f", {task.dropped} dropped by the window rule" if task.dropped else ""
        lines.append(
            f"{task.name}: version {task.version}, {task.items} items of {task.source}{dropped}, "
            f"sha256 {task.sha256[:16]}"
        )
    versions = ", ".join(f"{name} {version}" for name, version in settings.versions.items())
    return [*lines, f"{versions}; {result.platform}", f"{result.created}; {result.seconds:.0f} s of answering"]


def _comparison_rows(comparisons: Sequence[Comparison]) -> tuple[list[str], list[list[str]]]:
    header = ["task", "method", "difference [95 %]", "better", "worse"]
    rows = [
        [found.task, found.method, percent(found.difference, sign=True), str(found.wins), str(found.losses)]
        for found in comparisons
    ]
    return header, rows


def _metric_rows(result: EvalResult) -> tuple[list[str], list[list[str]]]:
    own = list(dict.fromkeys(name for task in result.settings.tasks for name in task.metrics))
    names = [name.replace("_", " ") for name in own]
    header = ["task", "method", "items", "contains", "exact match", "F1", *names, "mean prompt tokens", "seconds"]
    rows = [
        [
            score.task,
            score.method,
            str(score.items),
            *[percent(interval) for interval in (score.contains, score.exact_match, score.f1)],
            *[percent(score.scores[name]) if name in score.scores else "-" for name in own],
            f"{score.mean_prompt_tokens:.0f}",
            f"{score.seconds:.1f}",
        ]
        for score in result.scores
    ]
    return header, rows
