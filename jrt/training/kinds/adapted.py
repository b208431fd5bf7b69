"""What training RMT and Infini-attention have in common: a method on a base model, rows of segments, a curriculum.

Stage n reads rows of at most n segments, and each step draws how many, so that one segment is never forgotten. A stage
ends early when its evaluation, at n segments, reaches a target. What is saved is a Reader: methods, learned weights
and the base model as it was trained.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from jrt.errors import InvalidOptionError, UnsupportedModelError
from jrt.training.kinds.base import Kind
from jrt.training.kinds.own_model import load_tokenizer, padded
from jrt.training.rows import Row, Stage
from jrt.training.settings import Settings


class AdaptedSettings(Settings):
    """For kinds that put a method on a base model."""

    model: str = Field(default="", description="The base model: a folder, .gguf file or Hub id.")
    method: str = Field(default="", description="The method's options: option=value,option=value.")
    learned_only: bool = Field(default=False, description="Train only what the method adds.")
    segments: int = Field(default=4, ge=1, description="The most segments of a row.")
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

    def method(self) -> Any:
        """The method that the settings describe."""
        from jrt.methods import parse_method

        options = self.settings.method
        return parse_method(f"{self.name}:{options}" if options else self.name)

    def base(self) -> Any:
        """The base model, in float32."""
        import jrt

        return jrt.load(self.settings.model, device="cpu", dtype="float32").base_model

    def build(self) -> Any:
        import jrt

        self._reader = jrt.wrap(self.base(), self.method(), tokenizer=self.tokenizer)
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
