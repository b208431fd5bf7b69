"""transformers' Trainer for one stage of a run: rows by their number, parts of the loss, checkpoints that are whole or
not there.

The Trainer's own checkpoints are written file by file into their place, so a process that is killed meanwhile leaves a
folder that looks like a checkpoint. Here the folder appears in one step, when everything in it is on the disk.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import Dataset

from jrt.training.kinds.base import Kind
from jrt.training.rows import IGNORED, Row, Rows, Split, Stage

FINISHED = "finished"
"""A file in the last checkpoint of a stage."""
_STAGING = ".unfinished"
_PARTS = {"ntp_loss": "labels", "mlm_loss": "mlm_labels", "mean_write": "labels"}
"""What a model may return beside the loss, and what has to be asked for it."""
_MEASURED = (*_PARTS, "accuracy")


class StageRows(Dataset[Row]):
    """The rows of a stage, or those of its evaluations, as a data set of torch."""

    def __init__(self, rows: Rows, split: Split, count: int, first: int, length: Callable[[int], int]) -> None:
        self._rows, self._split, self._count, self._first, self._length = rows, split, count, first, length

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Row:
        return self._rows(self._split, self._first + index, self._length(index))


def learning_rate(settings: Any, step: int, total: int) -> float:
    """The learning rate of a step as a share of the highest one: a rise over the warm-up, then the schedule's fall."""
    rise = max(settings.warmup_steps, round(settings.warmup_share * total))
    if step < rise:
        return (step + 1) / (rise + 1)
    if settings.schedule == "constant":
        return 1.0
    done = min(1.0, (step - rise) / max(1, total - rise))
    fall = 1 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    lowest = settings.final_learning_rate / settings.learning_rate
    return float(lowest + (1 - lowest) * fall)


class StageTrainer(transformers.Trainer):
    """Trains one stage.

    Args:
        kind: what is trained.
        model: its model.
        stage: which stage.
        arguments: transformers' own.
        train_rows: its rows, `stage.steps * batch_size` of them.
        evaluation_rows: the rows of an evaluation, or None.
        schedule: (steps of the schedule before this stage, steps of the whole schedule).
        callbacks: transformers' own.
    """

    optimizer: Any
    lr_scheduler: Any

    def __init__(
        self,
        kind: Kind,
        model: Any,
        stage: Stage,
        arguments: transformers.TrainingArguments,
        train_rows: StageRows,
        evaluation_rows: StageRows | None,
        schedule: tuple[int, int],
        callbacks: list[transformers.TrainerCallback],
    ) -> None:
        self.kind, self.stage, self.schedule = kind, stage, schedule
        self._sums: dict[tuple[bool, str], Tensor] = {}
        self._where = ""
        super().__init__(
            model,
            arguments,
            data_collator=kind.collate,
            train_dataset=train_rows,
            eval_dataset=evaluation_rows,
            callbacks=callbacks,
        )
        self.model_accepts_loss_kwargs = False  # losses are means over a batch, which the Trainer averages
        self.can_return_loss = True
        self.remove_callback(transformers.PrinterCallback)

    def _set_signature_columns_if_needed(self) -> None:
        """Rows are no dictionaries; there are no columns to remove."""
        self._signature_columns: list[str] = []

    def _get_collator_with_removed_columns(self, data_collator: Any, description: str | None = None) -> Any:
        return data_collator

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            settings = self.kind.settings
            groups = [group for group in self.kind.parameter_groups(self.model) if group["params"]]
            if settings.optimizer == "adafactor":
                fixed = dict(scale_parameter=False, relative_step=False)
                self.optimizer = transformers.optimization.Adafactor(groups, lr=self.stage.learning_rate, **fixed)
            else:
                betas = (settings.beta1, settings.beta2)
                self.optimizer = torch.optim.AdamW(groups, lr=self.stage.learning_rate, betas=betas)
        return self.optimizer

    def go_on_from(self, checkpoint: Path) -> None:
        """Gives the optimizer the state that it had in the stage before; its learning rates are those of this stage."""
        optimizer = self.create_optimizer()
        rates = [group["lr"] for group in optimizer.param_groups]
        optimizer.load_state_dict(torch.load(checkpoint / "optimizer.pt", map_location="cpu", weights_only=True))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = group["initial_lr"] = rate

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            before, total = self.schedule
            settings = self.kind.settings
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                self.optimizer if optimizer is None else optimizer,
                lambda step: learning_rate(settings, before + step, total),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[Any]:
        """Bfloat16, where it is asked for, around the call of the model and not by accelerate inside of it, which makes
        every output anew in float32: without what is no entry of it, as `mean_write` is in an evaluation."""
        if not self.kind.settings.bf16:
            return nullcontext()
        return torch.autocast(self.args.device.type, torch.bfloat16, cache_enabled=cache_enabled)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of a batch; remembers its parts and, for a task, how many answers are right."""
        output = model(**inputs)
        for name, needed in _PARTS.items():
            part = getattr(output, name, None)
            if part is not None and needed in inputs:
                self._remember(model.training, name, torch.stack([part.detach(), torch.ones_like(part)]))
        if self.kind.settings.task is not None and output.logits is not None:
            end = getattr(self.kind.tokenizer, "eos_token_id", None)
            self._remember(model.training, "accuracy", right_answers(output.logits, inputs["labels"], end))
        return (output.loss, output) if return_outputs else output.loss

    def _remember(self, training: bool, name: str, sum_and_count: Tensor) -> None:
        key = (training, name)
        self._sums[key] = self._sums[key] + sum_and_count if key in self._sums else sum_and_count

    def _means(self, training: bool) -> dict[str, float]:
        """The means since they were last asked for, of what any process has measured.

        Every process asks for the same list, because what its own rows give may differ: a row that fills no segment
        writes no memory.
        """
        nothing = torch.zeros(2, device=self.args.device)
        sums = torch.stack([self._sums.pop((training, name), nothing).float() for name in _MEASURED])
        found = zip(_MEASURED, self.accelerator.reduce(sums, "sum").tolist(), strict=True)
        return {name: total / count for name, (total, count) in found if count}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self._means(training=True) | self.kind.measure(self.model)
        super().log(logs, start_time)

    def evaluation_loop(self, *arguments: Any, metric_key_prefix: str = "eval", **options: Any) -> Any:
        output = super().evaluation_loop(*arguments, metric_key_prefix=metric_key_prefix, **options)
        means = self._means(training=False).items()
        output.metrics.update({f"{metric_key_prefix}_{name}": mean for name, mean in means})
        return output

    def _get_output_dir(self, trial: Any) -> str:
        return str(Path(super()._get_output_dir(trial)) / self._where)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Writes beside the checkpoints, then puts the folder in its place in one step."""
        self._where = _STAGING
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._where = ""
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir)
            written = folder / _STAGING / f"checkpoint-{self.state.global_step}"
            if self.control.should_training_stop:
                (written / FINISHED).touch()
            put_in_place(written, folder / written.name)
            written.parent.rmdir()
            for old in checkpoints(folder)[: -self.kind.settings.keep]:
                if step_of(old) != self.state.best_global_step:
                    shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            self.kind.save(self.model, folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.kind.load_weights(self.model if model is None else model, Path(resume_from_checkpoint))


def right_answers(logits: Tensor, labels: Tensor, end: int | None) -> Tensor:
    """How many labels are foreseen by the likeliest token, and how many there are, (2,).

    Args:
        logits: (B, T, V), or (B, classes).
        labels: (B, T), unshifted, or (B,); `IGNORED` where nothing is asked.
        end: the token that ends an answer; it is always the same and not counted.
    """
    if labels.dim() == 1:
        return torch.stack([logits.argmax(-1).eq(labels).sum(), labels.new_tensor(len(labels))]).float()
    predicted, asked = logits[:, :-1].argmax(-1), labels[:, 1:]
    counted = (asked != IGNORED) & (asked != (IGNORED if end is None else end))
    return torch.stack([(predicted.eq(asked) & counted).sum(), counted.sum()]).float()


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a stage, oldest first."""
    return sorted(folder.glob("checkpoint-*"), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step at which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def put_in_place(written: Path, place: Path) -> None:
    """Moves a folder to its place when all that is in it is on the disk."""
    for file in [*written.rglob("*"), written]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    if place.exists():
        shutil.rmtree(place)
    written.rename(place)
