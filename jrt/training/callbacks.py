"""What happens between the steps of a run: lines for the caller, early ends, the best step, clipping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers

from jrt.training.rows import Stage

Report = Callable[[str, dict[str, float]], None]
"""Called with the name of the stage and what was measured."""


class Reports(transformers.TrainerCallback):
    """Tells the caller what was logged."""

    def __init__(self, report: Report | None, stage: Stage) -> None:
        self._report, self._stage = report, stage

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if self._report is not None and state.is_world_process_zero and "train_runtime" not in logs:
            numbers = {name: value for name, value in logs.items() if isinstance(value, (int, float))}
            self._report(self._stage.name, {"step": state.global_step, "steps": state.max_steps, **numbers})


class EndsEarly(transformers.TrainerCallback):
    """Ends a stage when an evaluation reaches its target; the step is saved."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        right, loss = metrics.get("eval_accuracy"), metrics.get("eval_loss")
        accurate = (
            self._stage.target_accuracy is not None and right is not None and right >= self._stage.target_accuracy
        )
        low = self._stage.target_loss is not None and loss is not None and loss <= self._stage.target_loss
        if accurate or low:
            control.should_training_stop = control.should_save = True


class KeepsBest(transformers.TrainerCallback):
    """Saves the step of the best evaluation and remembers it in the state, as `load_best_model_at_end` needs it.

    The last step is evaluated too, so that a stage that is shorter than the time between evaluations has a best one.
    """

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = True

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        score = metrics["eval_accuracy"] if "eval_accuracy" in metrics else -metrics["eval_loss"]
        if state.best_metric is None or score > state.best_metric:
            state.best_metric, state.best_global_step = score, state.global_step
            control.should_save = True


class ClipsValues(transformers.TrainerCallback):
    """Cuts every number of a gradient to a range, where the run asks for it."""

    def __init__(self, highest: float) -> None:
        self._highest = highest

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if self._highest:
            torch.nn.utils.clip_grad_value_(model.parameters(), self._highest)
