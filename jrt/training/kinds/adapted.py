"""What training RMT and Infini-attention have in common: a method on a base model, rows of segments, a curriculum.

Stage n reads rows of at most n segments, and each step draws how many, so that one segment is never forgotten. A stage
ends early when its evaluation, at n segments, reaches a target. What is saved is a Reader: methods, learned weights
and the base model as it was trained; a run that is given such a reader goes on with what it has learned.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from jrt.errors import InvalidOptionError, UnsupportedModelError
from jrt.training.kinds.base import Kind
from jrt.training.kinds.own_model import load_tokenizer, padded
from jrt.training.rows import Row, Stage
from jrt.training.settings import Settings

if TYPE_CHECKING:
    from jrt.pretrained import SavedReader


class AdaptedSettings(Settings):
    """For kinds that put a method on a base model."""

    model: str = Field(default="", description="The base model: a folder, .gguf file or Hub id; a trained one goes on.")
    method: str = Field(default="", description="The method's options: option=value,option=value.")
    learned_only: bool = Field(default=False, description="Train only what the method adds.")
    segments: int = Field(default=4, ge=1, le=10_000, description="The most segments of a row.")
    curriculum: bool = Field(default=True, description="A stage for every number of segments, from 1 up.")
    lengths: Literal["uniform", "fixed"] = Field(
        default="uniform", description="Segments of a step in stage n: uniform is 1 to n, fixed is n."
    )
    first_steps: int | None = Field(default=None, ge=1, description="Steps of the first stage, where they differ.")
    first_learning_rate: float | None = Field(default=None, gt=0, description="Its learning rate, where it differs.")
    target_accuracy: float | None = Field(default=None, ge=0, le=1, description="A stage ends at this accuracy.")
    target_loss: float | None = Field(default=None, ge=0, description="A stage ends at this validation loss.")
    restart_optimizer: bool = Field(default=True, description="A new optimizer and schedule for every stage.")
    penalty_from: int = Field(default=1, ge=1, description="The write penalty counts from this stage on.")

    @model_validator(mode="after")
    def _needs_model(self) -> Self:
        if not self.model:
            raise ValueError("a base model is needed: --model with a folder, a .gguf file or a Hub id")
        return self


class AdaptedKind(Kind):
    """A method on a base model."""

    unused_weights = True  # a row of one segment writes a memory that nobody reads
    settings: Any

    def find_tokenizer(self) -> Any:
        return load_tokenizer(self.settings.tokenizer or self.settings.model)

    @cached_property
    def saved(self) -> tuple[Path, SavedReader] | None:
        """The saved reader that `model` names, whose memory goes on; None where it is a plain model."""
        from jrt.loading import located, saved_folder
        from jrt.pretrained import read_saved

        folder = saved_folder(*located(self.settings.model))
        saved = None if folder is None else read_saved(folder)
        return None if folder is None or saved is None or not saved.methods else (folder, saved)

    def method(self) -> Any:
        """The method that the settings describe; that of a saved reader, of which they may name any options.

        Raises:
            InvalidOptionError: the saved reader has other methods or options, so its memory cannot go on.
        """
        from jrt.methods import Method, parse_method

        options = self.settings.method
        if self.saved is None:
            return parse_method(f"{self.name}:{options}" if options else self.name)
        folder, saved = self.saved
        methods = [Method.from_dict(method) for method in saved.methods]
        name, said = self.settings.model, " and ".join(str(method) for method in methods)
        named = saved.model not in (None, str(folder.resolve()))
        plain = f"--model {saved.model}" if named else "--model with a plain model"
        if [method.kind for method in methods] != [self.name]:
            raise InvalidOptionError(
                f"{name} is a saved reader with {said}, and training goes on with one {self.name} and nothing else.",
                f"To begin with a new memory, write {plain}.",
            )
        asked = parse_method(f"{said}{',' if ':' in said else ':'}{options}") if options else methods[0]
        if asked != methods[0]:
            raise InvalidOptionError(
                f"{name} is a saved reader with {said}, and method={options} says otherwise.",
                f"Leave --method out to go on with what it has learned. To begin with a new memory, write {plain}.",
            )
        return asked

    def base(self) -> Any:
        """The base model, in float32."""
        import jrt

        return jrt.load(self.settings.model, device="cpu", dtype="float32").base_model

    def build(self) -> Any:
        import jrt
        from jrt.pretrained import from_saved

        method = self.method()
        if self.saved is None:
            self._reader = jrt.wrap(self.base(), method, tokenizer=self.tokenizer)
        else:
            folder, saved = self.saved
            self._reader = from_saved(saved, folder, self.base(), self.tokenizer, (method,), None)
        self._reader.name = self.settings.model
        model = self._reader.model
        if self.settings.learned_only:
            model.base.requires_grad_(False)
        if not any(parameter.requires_grad and parameter.numel() for parameter in model.parameters()):
            raise InvalidOptionError(
                f"{self.method()} adds no weights to learn, and learned_only leaves the others as they are.",
                "Leave learned_only out.",
            )
        return model

    def stages(self) -> list[Stage]:
        told = self.settings
        stages: list[Stage] = []
        for segments in range(1 if told.curriculum else told.segments, told.segments + 1):
            first = not stages
            stages.append(
                Stage(
                    f"{segments}-segments",
                    told.first_steps if first and told.first_steps else told.steps,
                    told.first_learning_rate if first and told.first_learning_rate else told.learning_rate,
                    segments,
                    told.target_accuracy,
                    told.target_loss,
                )
            )
        return stages

    def segment_length(self, model: Any) -> int:
        """Tokens of a segment."""
        found = getattr(model, "segment_length", None) or model.method.segment_length
        return int(found)

    def length(self, model: Any, stage: Stage, step: int) -> int:
        count = stage.segments
        if self.settings.lengths == "uniform":
            count = random.Random(f"{self.settings.seed}/{stage.name}/{step}").randint(1, count)
        return count * self.segment_length(model)

    def longest(self, model: Any, stage: Stage) -> int:
        return stage.segments * self.segment_length(model)

    def begin(self, model: Any, stage: Stage) -> None:
        """The penalty on writing starts with its stage: before, the model has to learn to write at all."""
        model.write_penalty = model.method.write_penalty if stage.segments >= self.settings.penalty_from else 0.0

    def collate(self, rows: Sequence[Row]) -> dict[str, Any]:
        return padded(rows)

    def parameter_groups(self, model: Any) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = model.parameter_groups(self.settings.weight_decay)
        return groups

    def save(self, model: Any, folder: Path) -> None:
        self._reader.save_pretrained(folder, include_model=True)

    def load_weights(self, model: Any, folder: Path) -> None:
        from jrt.adapters import AdaptedModel

        saved = type(model.base).from_pretrained(folder)
        model.base.load_state_dict(saved.state_dict())
        if not isinstance(model, AdaptedModel):
            raise UnsupportedModelError(f"{type(model).__name__} is not adapted.", "Give a method that learns.")
        if model.learned():
            from safetensors.torch import load_file

            model.load_learned(load_file(folder / "learned.safetensors"))
