"""What a training run is told: one pydantic model for what all kinds share, and a subclass for each kind.

The fields are the options of `jrt train KIND` (their descriptions are its help) and the content of `settings.json` in
the folder of a run, so that a run can be resumed only as what it was. No torch here: the help has to answer at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from jrt.errors import DataFormatError, InvalidOptionError, StateMismatchError, UnknownNameError, did_you_mean
from jrt.files import write_text

SETTINGS = "settings.json"


class Settings(BaseModel):
    """What every kind of training understands.

    Raises:
        InvalidOptionError: an option that does not exist, or a value that it cannot take.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: list[str] = Field(default=[], description="Text files: paths or patterns of .txt and .jsonl, also .gz.")
    dataset: str | None = Field(default=None, description="A data set of the Hub, or a local folder of one.")
    dataset_config: str | None = Field(default=None, description="Its configuration.")
    split: str = Field(default="train", description="Its split.")
    column: str = Field(default="text", description="The column or JSON key that holds the text.")
    task: str | None = Field(default=None, description="A task of jrt ls tasks that draws training data.")
    methods: str = Field(default="once", description="The prompt formats of a task's items, in equal shares.")
    tokenizer: str | None = Field(default=None, description="The tokenizer, where the model brings none.")
    validation_share: float = Field(default=0.01, ge=0, lt=1, description="The share of the text to evaluate on.")

    steps: int = Field(default=1000, ge=1, description="Optimizer steps (of each stage, where there are several).")
    batch_size: int = Field(default=32, ge=1, description="Rows of one step, over all processes.")
    micro_batch_size: int | None = Field(
        default=None, ge=1, description="Rows that a process reads at once; fewer than its share accumulate gradients."
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="The highest learning rate.")
    final_learning_rate: float = Field(default=0.0, ge=0, description="The learning rate at the end.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="cosine", description="How the learning rate falls: constant, linear or cosine."
    )
    warmup_steps: int = Field(default=0, ge=0, description="Steps in which the learning rate rises.")
    warmup_share: float = Field(default=0.0, ge=0, lt=1, description="The same as a share of the steps.")
    optimizer: Literal["adamw", "adafactor"] = Field(default="adamw", description="adamw or adafactor.")
    weight_decay: float = Field(default=0.1, ge=0, description="Decay of matrices; vectors never decay.")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="AdamW's first beta.")
    beta2: float = Field(default=0.95, ge=0, lt=1, description="AdamW's second beta.")
    clip_norm: float = Field(default=1.0, ge=0, description="Longest gradient; 0 is any length.")
    clip_value: float = Field(default=0.0, ge=0, description="Largest number in a gradient; 0 is any.")
    bf16: bool = Field(default=False, description="Compute in bfloat16; weights and sums stay in float32.")
    checkpoint_activations: bool = Field(default=False, description="Compute activations twice to save memory.")
    seed: int = Field(default=0, ge=0, description="Of weights, data order and hidden tokens.")
    device: Literal["auto", "cpu"] = Field(default="auto", description="auto or cpu.")

    log_every: int = Field(default=10, ge=1, description="Steps between two lines of the log.")
    evaluate_every: int = Field(default=200, ge=1, description="Steps between two evaluations.")
    evaluation_rows: int = Field(default=64, ge=0, description="Rows of an evaluation; 0 is none.")
    save_every: int = Field(default=200, ge=1, description="Steps between two checkpoints.")
    keep: int = Field(default=2, ge=1, description="Checkpoints that are kept.")
    load_best_model_at_end: bool = Field(
        default=False, description="A stage ends as its best evaluation (accuracy, or else loss), not as its last step."
    )

    def __init__(self, **options: Any) -> None:
        try:
            super().__init__(**options)
        except ValidationError as error:
            raise InvalidOptionError(_explain(type(self), error)) from None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [f"--{name}" for name in ("text", "dataset", "task") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                f"training needs one source of data: --text, --dataset or --task; given: {', '.join(given) or 'none'}"
            )
        return self

    @property
    def evaluations(self) -> int:
        """Rows of an evaluation; 0 where there is none."""
        return self.evaluation_rows if self.validation_share or self.task else 0

    @model_validator(mode="after")
    def _best_of_something(self) -> Self:
        if self.load_best_model_at_end and not self.evaluations:
            raise ValueError(
                "load_best_model_at_end needs evaluations: evaluation_rows, and a validation_share of a text"
            )
        return self

    def save(self, folder: Path, kind: str) -> None:
        """Writes the settings of a run into its folder."""
        data = {"kind": kind, **self.model_dump(mode="json")}
        write_text(folder / SETTINGS, json.dumps(data, indent=2, ensure_ascii=False) + "\n")

    def check_same(self, folder: Path, kind: str) -> None:
        """Refuses to resume a run as another one; how often it logs, evaluates and saves may change.

        Raises:
            StateMismatchError: the run in the folder had other settings.
            DataFormatError: its settings cannot be read.
        """
        try:
            before = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise DataFormatError(f"{folder / SETTINGS} cannot be read: {error}.", "Start the run again.") from None
        now = {"kind": kind, **self.model_dump(mode="json")}
        free = {"log_every", "evaluate_every", "evaluation_rows", "save_every", "keep", "micro_batch_size", "device"}
        for name in sorted(now.keys() | before.keys()):
            if name not in free and now.get(name) != before.get(name):
                raise StateMismatchError(
                    f"The run in {folder} has {name} {before.get(name)!r}; now it is {now.get(name)!r}.",
                    "Resume with the options that it was started with, or choose another --out.",
                )


class ModelSettings(Settings):
    """For kinds that train a model of their own from its configuration."""

    model: str | None = Field(default=None, description="A folder or Hub id to continue from, in place of a new model.")
    config: dict[str, Any] = Field(default={}, description="Options of the model's configuration, as JSON.")
    block_size: int = Field(default=2048, ge=2, description="Tokens of one row of text.")

    @field_validator("config", mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        return parse_json(value)


def parse_json(value: Any) -> Any:
    """A JSON text, or the JSON file of that name, as data; anything else stays as it is."""
    if not isinstance(value, str):
        return value
    text = value if value.lstrip().startswith("{") else _read(value)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON: {error}") from None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


def with_preset(
    owner: type[Settings], presets: dict[str, dict[str, Any]], preset: str | None, options: dict[str, Any]
) -> Settings:
    """Settings from a named preset and the options that override it.

    Raises:
        UnknownNameError: there is no such preset.
        InvalidOptionError: an option that does not exist, or a value that it cannot take.
    """
    if preset is not None and preset not in presets:
        raise UnknownNameError(f"There is no preset {preset!r}.{did_you_mean(preset, presets)}")
    return owner(**({} if preset is None else presets[preset]) | options)


def _explain(owner: type[Settings], error: ValidationError) -> str:
    """pydantic's findings as sentences, with the closest option name for an unknown one."""
    sentences = []
    for finding in error.errors():
        option = ".".join(str(part) for part in finding["loc"])
        if finding["type"] == "extra_forbidden":
            sentences.append(f"There is no option {option!r}.{did_you_mean(option, owner.model_fields)}")
        else:
            message = finding["msg"].removeprefix("Value error, ")
            sentences.append(f"{option}={finding['input']!r}: {message}." if option else f"{message.capitalize()}.")
    return " ".join(sentences)
