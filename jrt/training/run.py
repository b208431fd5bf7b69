"""A training run: one folder, one kind, one or more stages, and the same weights whether it was stopped or not.

    DIR/settings.json                      what the run was told
    DIR/tokens.bin                         the tokens of its text
    DIR/checkpoints/STAGE/checkpoint-N/    a model that jrt.load reads, with the state of optimizer and schedule
    DIR/model/                             the trained model, for jrt.load
    DIR/training.json                      settings, losses, seconds and versions

Several processes: `accelerate launch -m jrt train ...` or `torchrun -m jrt train ...`, with the same options on each.
`batch_size` counts the rows of all of them, and which rows a step reads does not depend on their number, so two
processes train what one does.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from jrt.errors import DataFormatError, InvalidOptionError, MissingDependencyError, StateMismatchError
from jrt.files import only_writer, write_text
from jrt.training.callbacks import ClipsValues, EndsEarly, KeepsBest, Report, Reports
from jrt.training.kinds import kind_class
from jrt.training.kinds.base import Kind
from jrt.training.processes import in_first, quiet_transformers, random_state_kept
from jrt.training.rows import Rows, Stage
from jrt.training.settings import SETTINGS, Settings
from jrt.training.text import TextRows, write_tokens
from jrt.training.trainer import FINISHED, StageRows, StageTrainer, checkpoints, put_in_place
from jrt.versions import versions

TaskRows = Callable[[Any], tuple[Rows, Any]]
"""From a tokenizer, or None, to the rows of a task and the tokenizer that they are written in."""
_CHECKPOINTS, _MODEL, _RECORD, _TOKENS = "checkpoints", "model", "training.json", "tokens.bin"


@dataclass(frozen=True)
class Trained:
    """What a run gives.

    Attributes:
        folder: the model, for `jrt.load`.
        log: what was measured in each stage.
        seconds: of this call; a resumed run counts from where it was resumed.
    """

    folder: Path
    log: dict[str, list[dict[str, float]]]
    seconds: float


def train(
    kind: str,
    settings: Settings,
    out: str | Path,
    *,
    resume: bool = False,
    task_rows: TaskRows | None = None,
    report: Report | None = None,
) -> Trained:
    """Trains a model and saves it to `out/model`.

    Args:
        kind: what is trained, a name in `jrt.training.kinds.KINDS`.
        settings: of the kind's own class.
        out: the folder of the run.
        resume: go on where the run in `out` was stopped; a folder without a run is started.
        task_rows: where the rows of `settings.task` come from.
        report: is told what is logged, in the first process.

    Raises:
        UnknownNameError: there is no such kind.
        InvalidOptionError: the folder holds a run with a checkpoint, or something else, and `resume` is not given; or
            options do not fit together.
        StateMismatchError: the run in the folder has other settings.
        EmptyInputError: there is too little text.

    Example:
        >>> train("based", OwnSettings(text=["book.txt"], tokenizer="gpt2", config={"hidden_size": 256}), "run")
    """
    if not transformers.utils.is_accelerate_available():
        raise MissingDependencyError("Training needs accelerate.", 'Type pip install "just-read-twice[train]".')
    started, out = time.perf_counter(), Path(out)
    wanted = kind_class(kind)
    with random_state_kept(), quiet_transformers():
        torch.manual_seed(settings.seed)
        run = _Run(wanted(settings), out, report)
        with only_writer(out) if in_first(run.processes, lambda: run.open(resume)) else nullcontext():
            in_first(run.processes, lambda: run.begin(kind, resume))
            run.prepare(task_rows)
            log = run.stages()
            in_first(run.processes, lambda: run.finish(kind, log, time.perf_counter() - started))
    return Trained(out / _MODEL, log, time.perf_counter() - started)


class _Run:
    """One run in this process."""

    def __init__(self, kind: Kind, out: Path, report: Report | None) -> None:
        from accelerate import PartialState

        self.kind, self.out, self.report = kind, out, report
        self.settings: Any = kind.settings
        # By what is asked for and there: the state is one for the whole program, and remembers an earlier run's device.
        self.on_cpu = self.settings.device == "cpu" or not torch.accelerator.is_available()
        self.processes = PartialState(cpu=self.on_cpu)
        self.model: Any = None
        self.rows: Any = None

    def open(self, resume: bool) -> bool:
        """Makes or checks the folder; True, so that its one writer is known."""
        if self.out.exists() and not self.out.is_dir():
            raise InvalidOptionError(f"{self.out} is a file.", "Pass a folder.")
        held = self._held()
        if held and not resume and not self._trained_nothing(held):
            raise InvalidOptionError(
                f"{self.out} is not empty: it holds {min(held)}.",
                "Choose another folder, or add --resume to go on there.",
            )
        self.out.mkdir(parents=True, exist_ok=True)
        return True

    def begin(self, kind: str, resume: bool) -> None:
        """Writes the settings, or checks those of the run that goes on. One that failed before its first checkpoint is
        begun again, with whatever settings; its tokens are kept where the same run is resumed."""
        held = self._held()
        if held and not self._trained_nothing(held):
            self.settings.check_same(self.out, kind)
        elif not (held and resume and self._same(kind)):
            (self.out / _TOKENS).unlink(missing_ok=True)
            self.settings.save(self.out, kind)
        for unfinished in self.out.glob(f"{_CHECKPOINTS}/*/.unfinished"):
            shutil.rmtree(unfinished)

    def _held(self) -> set[str]:
        """What is in the folder."""
        return {entry.name for entry in self.out.iterdir()} - {".lock"} if self.out.exists() else set()

    def _trained_nothing(self, held: set[str]) -> bool:
        """Whether the folder holds a run, and nothing that was trained."""
        ours = SETTINGS in held and held <= {SETTINGS, _TOKENS, _CHECKPOINTS}
        return ours and not any(self.out.glob(f"{_CHECKPOINTS}/*/checkpoint-*"))

    def _same(self, kind: str) -> bool:
        try:
            self.settings.check_same(self.out, kind)
        except (StateMismatchError, DataFormatError):
            return False
        return True

    def prepare(self, task_rows: TaskRows | None) -> None:
        """Tokenizer, rows and model."""
        kind = self.kind
        kind.tokenizer = kind.find_tokenizer()
        if self.settings.task is not None:
            if task_rows is None:
                raise InvalidOptionError(f"Where do rows of {self.settings.task} come from?", "Pass task_rows.")
            self.rows, kind.tokenizer = task_rows(kind.tokenizer)
            kind.classes = getattr(self.rows, "classes", None)
        self.model = kind.build()
        if self.settings.checkpoint_activations:
            kind.checkpoint_activations(self.model)
        if self.settings.task is None:
            path = self.out / _TOKENS
            in_first(
                self.processes, lambda: None if path.exists() else write_tokens(self.settings, kind.tokenizer, path)
            )
            longest = max(kind.longest(self.model, stage) for stage in kind.stages())
            self.rows = TextRows(path, self.settings.seed, self.settings.validation_share, longest)

    def stages(self) -> dict[str, list[dict[str, float]]]:
        """Trains every stage that is not finished; what was measured in each."""
        stages = self.kind.stages()
        total = sum(stage.steps for stage in stages)
        begun = [index for index, stage in enumerate(stages) if checkpoints(self._checkpoints(stage))]
        first = begun[-1] if begun else 0
        log = {stage.name: _log_of(checkpoints(self._checkpoints(stage))[-1]) for stage in stages[:first]}
        previous, reload = self._result(stages[first - 1]) if first else None, False
        for index in range(first, len(stages)):
            stage, done = stages[index], checkpoints(self._checkpoints(stages[index]))
            before = sum(earlier.steps for earlier in stages[:index])
            finished = bool(done) and (done[-1] / FINISHED).exists()
            if not finished:
                self._train(stage, index, (before, total), previous, done[-1] if done else None)
            previous = self._result(stage)
            log[stage.name] = _log_of(checkpoints(self._checkpoints(stage))[-1])
            reload = finished or self.settings.load_best_model_at_end
        if reload and previous is not None:
            self.kind.load_weights(self.model, previous)
        return log

    def _result(self, stage: Stage) -> Path:
        """The checkpoint that a finished stage hands on: its best one where that is asked for, or its last."""
        last = checkpoints(self._checkpoints(stage))[-1]
        best = _state_of(last).get("best_global_step") if self.settings.load_best_model_at_end else None
        return last if best is None else last.with_name(f"checkpoint-{best}")

    def _train(
        self, stage: Stage, index: int, schedule: tuple[int, int], previous: Path | None, checkpoint: Path | None
    ) -> None:
        """One stage, from a checkpoint of it or from the end of the stage before."""
        settings, restart = self.settings, getattr(self.settings, "restart_optimizer", True)
        if previous is not None and checkpoint is None:
            self.kind.load_weights(self.model, previous)
        self.kind.begin(self.model, stage)

        def length(row: int) -> int:
            return self.kind.length(self.model, stage, row // settings.batch_size)

        first = schedule[0] * settings.batch_size
        count = stage.steps * settings.batch_size
        longest = self.kind.longest(self.model, stage)
        evaluation, best = settings.evaluations, [KeepsBest()] if settings.load_best_model_at_end else []
        trainer = StageTrainer(
            self.kind,
            self.model,
            stage,
            self._arguments(stage, index, bool(evaluation)),
            StageRows(self.rows, "train", count, first, length),
            StageRows(self.rows, "validation", evaluation, 0, lambda row: longest) if evaluation else None,
            (0, stage.steps) if restart else schedule,
            [Reports(self.report, stage), EndsEarly(stage), ClipsValues(settings.clip_value), *best],
        )
        if previous is not None and checkpoint is None and not restart:
            trainer.go_on_from(previous)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))

    def _arguments(self, stage: Stage, index: int, evaluates: bool) -> transformers.TrainingArguments:
        settings = self.settings
        micro, accumulate = self._micro_batch()
        arguments = transformers.TrainingArguments(
            output_dir=str(self._checkpoints(stage)),
            max_steps=stage.steps,
            per_device_train_batch_size=micro,
            per_device_eval_batch_size=micro,
            gradient_accumulation_steps=accumulate,
            max_grad_norm=settings.clip_norm,
            use_cpu=self.on_cpu,
            seed=settings.seed + index,
            train_sampling_strategy="sequential",
            remove_unused_columns=False,
            label_names=["labels"],
            prediction_loss_only=True,
            logging_steps=settings.log_every,
            logging_nan_inf_filter=False,
            eval_strategy="steps" if evaluates else "no",
            eval_steps=settings.evaluate_every,
            save_strategy="steps",
            save_steps=settings.save_every,
            ddp_find_unused_parameters=self.kind.unused_weights,
            dataloader_pin_memory=torch.cuda.is_available(),
            report_to="none",
            disable_tqdm=True,
        )
        arguments._n_gpu = min(1, arguments.n_gpu)  # not every GPU there is, each with a batch, under nn.DataParallel
        return arguments

    def _micro_batch(self) -> tuple[int, int]:
        """Rows that a process reads at once, and how often it does before a step."""
        share, rest = divmod(self.settings.batch_size, self.processes.num_processes)
        micro = self.settings.micro_batch_size or share
        if rest or not share or share % micro:
            raise InvalidOptionError(
                f"A batch of {self.settings.batch_size} rows cannot be shared by {self.processes.num_processes} "
                f"processes that read {micro} at once.",
                "Choose batch_size as a multiple of processes x micro_batch_size.",
            )
        return micro, share // micro

    def _checkpoints(self, stage: Stage) -> Path:
        return self.out / _CHECKPOINTS / stage.name

    def finish(self, kind: str, log: dict[str, list[dict[str, float]]], seconds: float) -> None:
        """The model in its place, and the record of the run beside it."""
        written = self.out / f".{_MODEL}"
        shutil.rmtree(written, ignore_errors=True)
        self.kind.save(self.model.eval(), written)
        put_in_place(written, self.out / _MODEL)
        record = {
            "kind": kind,
            "settings": self.settings.model_dump(mode="json"),
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "processes": self.processes.num_processes,
            "seconds": round(seconds, 1),
            "versions": versions("python", "torch", "transformers"),
            "log": log,
        }
        write_text(self.out / _RECORD, json.dumps(record, indent=2) + "\n")
        self.kind.finish(self.out, log)


def _log_of(checkpoint: Path) -> list[dict[str, float]]:
    return list(_state_of(checkpoint)["log_history"])


def _state_of(checkpoint: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise DataFormatError(f"{checkpoint} is no whole checkpoint: {error}.", "Delete it and resume.") from None
    return state
