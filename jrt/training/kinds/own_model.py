"""What training Based and training JRT-RNN have in common: a model made from its configuration, rows of one length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from jrt.embedded import embedded_models
from jrt.errors import InvalidOptionError, TokenizerError, did_you_mean
from jrt.training.kinds.base import Kind
from jrt.training.rows import IGNORED, Row, Stage
from jrt.training.settings import ModelSettings

if TYPE_CHECKING:
    from torch import Tensor

PAPER: dict[str, dict[str, Any]] = {
    size: dict(
        size=size,
        block_size=2048,
        batch_size=256,
        steps=steps,
        learning_rate=8e-4,
        final_learning_rate=8e-5,
        warmup_steps=warmup,
        weight_decay=0.1,
        beta1=0.9,
        beta2=0.95,
        clip_norm=1.0,
        bf16=True,
        tokenizer="gpt2",
    )
    for size, steps, warmup in (("360m", 60_000, 600), ("1.3b", 100_000, 1_000))
}
"""The recipes of the released models (arXiv 2407.05483, appendix): 30 and 50 billion tokens."""


class OwnSettings(ModelSettings):
    """The settings of both."""

    size: str | None = Field(default=None, description="A published size to start from: 360m or 1.3b.")


class OwnModel(Kind):
    """A model of `jrt.models`, new or continued."""

    settings_class = OwnSettings
    presets = PAPER
    settings: Any
    extra_tokens: ClassVar[int] = 0
    """Tokens that the model needs beside the tokenizer's."""

    def find_tokenizer(self) -> Any:
        if self.settings.model is not None:
            return self._continued().tokenizer
        return load_tokenizer(self.settings.tokenizer) if self.settings.tokenizer else None

    def _continued(self) -> Any:
        import jrt

        if not hasattr(self, "_reader"):
            self._reader = jrt.load(self.settings.model, device="cpu", dtype="float32")
        return self._reader

    def build(self) -> Any:
        configuration, model_class = self.model_classes()
        if self.settings.model is not None:
            model = self._continued().base_model
            if not isinstance(model, model_class):
                raise InvalidOptionError(
                    f"{self.settings.model} is a {type(model).__name__}, and no {model_class.__name__}.",
                    "Pass a folder that jrt train wrote, or leave --model out to make a new one.",
                )
            if self.settings.config or self.settings.size:
                raise InvalidOptionError(
                    f"{self.settings.model} has its own configuration, and another one was given.",
                    "Give either --model or --size and --config.",
                )
            return model
        known = configuration().to_dict()
        for option in self.settings.config:
            if option not in known:
                raise InvalidOptionError(
                    f"{configuration.__name__} has no option {option!r}.{did_you_mean(option, known)}"
                )
        options, size = {**self.config_defaults(), **self.settings.config}, self.settings.size
        return model_class(configuration(**options) if size is None else configuration.preset(size, **options))

    def model_classes(self) -> tuple[Any, Any]:
        """The classes of the configuration and of the model."""
        raise NotImplementedError

    def config_defaults(self) -> dict[str, Any]:
        """What the configuration takes from the tokenizer."""
        if self.tokenizer is None:
            raise TokenizerError(
                "A new model needs a tokenizer, and none was named.",
                "Pass --tokenizer FOLDER or a Hub id, such as gpt2.",
            )
        needed = len(self.tokenizer) + self.extra_tokens
        ends = {f"{name}_token_id": getattr(self.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        return {"vocab_size": -8 * (-needed // 8), **ends}

    def length(self, model: Any, stage: Stage, step: int) -> int:
        return int(self.settings.block_size)

    def longest(self, model: Any, stage: Stage) -> int:
        return int(self.settings.block_size)

    def collate(self, rows: Sequence[Row]) -> dict[str, Any]:
        return padded(rows)

    def save(self, model: Any, folder: Path) -> None:
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def load_weights(self, model: Any, folder: Path) -> None:
        from safetensors.torch import load_model

        load_model(model, folder / "model.safetensors")


def load_tokenizer(name: str) -> Any:
    """A tokenizer by folder, .gguf file or Hub id; of a saved reader without its model, that of the model it names.

    Raises:
        InvalidOptionError: it is an embedded model.
        InputNotFoundError: the .gguf file is not there.
        TokenizerError: there is none.
    """
    from transformers import AutoTokenizer

    from jrt.loading import model_place
    from jrt.pretrained import MANIFEST

    if name in embedded_models():
        raise InvalidOptionError(
            f"{name} is an embedded model; training begins with a plain one of transformers.",
            "Pass a folder or a Hub id such as gpt2.",
        )
    followed = name.endswith(".gguf") or (Path(name).expanduser() / MANIFEST).is_file()
    source, options = model_place(name) if followed else (name, {})
    try:
        return AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise TokenizerError(
            f"{name} holds no tokenizer: {str(error).splitlines()[0]}", "Pass a folder or a Hub id such as gpt2."
        ) from error


def padded(rows: Sequence[Row], pad: int = 0) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask` and `labels`, (B, T); shorter rows are padded on the right, where nothing is asked.

    Example:
        >>> padded([row])["input_ids"].shape
        torch.Size([1, 64])
    """
    import torch

    width = max(len(row.input_ids) for row in rows)
    batch = {
        "input_ids": torch.full((len(rows), width), pad),
        "attention_mask": torch.zeros(len(rows), width, dtype=torch.long),
        "labels": torch.full((len(rows), width), IGNORED),
    }
    for number, row in enumerate(rows):
        stop = len(row.input_ids)
        batch["input_ids"][number, :stop] = torch.from_numpy(row.input_ids)
        batch["attention_mask"][number, :stop] = 1
        batch["labels"][number, :stop] = torch.from_numpy(row.labels)
    return batch
