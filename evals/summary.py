"""From samples to scores with intervals and to paired comparisons with the first method."""

from __future__ import annotations

from collections.abc import Sequence

from jrt.evals.schema import AVERAGE, Comparison, Interval, Sample, Score, TaskInfo
from jrt.evals.statistics import Estimate, average_interval, differences, mean_interval, wilson


def score(task: TaskInfo, method: str, samples: Sequence[Sample], seed: int) -> Score:
    """The score of one method on one task."""
    own = {name: [sample.scores[name] for sample in samples] for name in task.metrics}
    return Score(
        task=task.name,
        method=method,
        items=len(samples),
        contains=Interval.of(_proportion([sample.contains for sample in samples])),
        exact_match=Interval.of(_proportion([sample.exact_match for sample in samples])),
        f1=Interval.of(mean_interval([sample.f1 for sample in samples], seed)),
        scores={
            name: Interval.of(_proportion(values) if task.metrics[name] == "share" else mean_interval(values, seed))
            for name, values in own.items()
        },
        mean_prompt_tokens=sum(sample.prompt_tokens for sample in samples) / len(samples),
        seconds=sum(sample.seconds for sample in samples),
    )


def compare(
    tasks: Sequence[str], methods: Sequence[str], samples: dict[tuple[str, str], list[Sample]], seed: int
) -> list[Comparison]:
    """Every method but the first against the first: on each task, and averaged when there are several.

    Args:
        tasks: names of the tasks.
        methods: labels of the methods, the baseline first.
        samples: by task and method, the same items in the same order for every method of a task.
        seed: of the bootstrap.
    """
    comparisons = []
    baseline, *others = methods
    for method in others:
        gains = {task: _gains(samples[task, baseline], samples[task, method]) for task in tasks}
        groups = {task: [gain] for task, gain in gains.items()}
        if len(tasks) > 1:
            groups[AVERAGE] = list(gains.values())
        for task, group in groups.items():
            single = [gain for values in group for gain in values]
            comparisons.append(
                Comparison(
                    task=task,
                    method=method,
                    baseline=baseline,
                    difference=Interval.of(average_interval(group, seed)),
                    wins=sum(gain > 0 for gain in single),
                    losses=sum(gain < 0 for gain in single),
                )
            )
    return sorted(comparisons, key=lambda comparison: [*tasks, AVERAGE].index(comparison.task))


def _gains(first: Sequence[Sample], second: Sequence[Sample]) -> list[float]:
    return differences([sample.contains for sample in first], [sample.contains for sample in second])


def _proportion(values: Sequence[float]) -> Estimate:
    return wilson(round(sum(values)), len(values))
