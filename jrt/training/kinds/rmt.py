"""`jrt train rmt`: memory tokens on an encoder or decoder, from one segment up (arXiv 2304.11062)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from jrt.errors import InvalidOptionError, UnsupportedModelError
from jrt.training.kinds.adapted import AdaptedKind, AdaptedSettings
from jrt.training.kinds.own_model import padded
from jrt.training.rows import Row

_PAPER: dict[str, Any] = dict(
    model="bert-base-cased",
    head="classification",
    method="num_memory_tokens=10,segment_length=499",
    segments=7,
    lengths="fixed",
    batch_size=32,
    schedule="linear",
    weight_decay=0.001,
    beta2=0.999,
    clip_norm=0.0,
    clip_value=5.0,
    learning_rate=1e-5,
    load_best_model_at_end=True,
    seed=43,
)
PAPER: dict[str, dict[str, Any]] = {
    "memorize": _PAPER | dict(task="memorize", steps=3000, warmup_share=0.1, evaluate_every=300),
    "detect": _PAPER | dict(task="detect", steps=3000, warmup_share=1 / 3, evaluate_every=600),
    "reason": _PAPER
    | dict(
        task="reason",
        steps=20_000,
        learning_rate=5e-5,
        first_steps=6000,
        first_learning_rate=1e-5,
        warmup_share=0.1,
        evaluate_every=2000,
        evaluation_rows=2000,
    ),
}
"""The paper's hyperparameters for its three tasks. A stage starts from the best checkpoint of the one before; that of
15 evaluations without a better one ends a stage is left out, because no stage has so many."""


class RMTSettings(AdaptedSettings):
    """The settings of an RMT."""

    head: Literal["causal", "classification"] = Field(
        default="causal", description="causal writes the answer, classification chooses it from the task's list."
    )
    penalty_from: int = Field(default=2, ge=1, description="The write penalty counts from this stage on.")


class RMT(AdaptedKind):
    """An RMT on a decoder, or on an encoder that classifies."""

    name = "rmt"
    settings_class = RMTSettings
    presets = PAPER

    def method(self) -> Any:
        method = super().method()
        changes: dict[str, Any] = {}
        if self.settings.checkpoint_activations:
            changes["gradient_checkpointing"] = True
        if self.settings.head == "classification":
            ends = {name: getattr(self.tokenizer, name) for name in ("cls_token_id", "sep_token_id")}
            changes |= {name: value for name, value in ends.items() if getattr(method, name) is None}
        return method.model_copy(update=changes)

    def build(self) -> Any:
        model = super().build()
        if self.settings.head == "causal" and not model.facts.causal:
            raise UnsupportedModelError(
                f"{self.settings.model} is an encoder: it sees the words that it would have to foresee.",
                "Write --head classification --task memorize (or detect, reason), or train a decoder: --model gpt2.",
            )
        return model

    def checkpoint_activations(self, model: Any) -> None:
        """The method does it."""

    def base(self) -> Any:
        if self.settings.head == "causal":
            return super().base()
        if self.classes is None:
            raise InvalidOptionError(
                "A classifier chooses from a list of answers, and there is none.",
                "Train it on memorize, detect or reason, or use --head causal.",
            )
        return _classifier(self.settings.model, self.classes)

    def collate(self, rows: Sequence[Row]) -> dict[str, Any]:
        if self.settings.head == "causal":
            return super().collate(rows)
        import torch

        classes = list(self.classes or ())
        prompts = [Row(row.index, row.input_ids[: row.prefix_length], row.labels[: row.prefix_length]) for row in rows]
        labels = torch.tensor([classes.index(str(row.answer)) for row in rows])
        return padded(prompts) | {"labels": labels}


def _classifier(name: str, classes: Sequence[str]) -> Any:
    """A model with a head for `classes`: its own where it has those labels, and a new one otherwise.

    Raises:
        UnsupportedModelError: its other weights have other shapes than its config.json says, or transformers has no
            classifier of its kind.
        DataFormatError: some of its other weights are missing, or a file is broken.
        InputNotFoundError, HubUnavailableError: a file is missing, or the Hub cannot be reached.
    """
    from transformers import AutoModelForSequenceClassification

    from jrt.loading import model_place
    from jrt.model_files import config_of, explained, plain_weights, refuse_missing

    source, options = model_place(name)
    settings, names = config_of(source, options), dict(enumerate(classes))
    with explained(source, name, "classifier"):
        model, found = AutoModelForSequenceClassification.from_pretrained(
            source,
            dtype="float32",
            id2label=names,
            label2id={label: number for number, label in names.items()},
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
            **plain_weights(options),
        )
    labels = {int(number): label for number, label in (settings.get("id2label") or {}).items()}
    has_head = settings.get("architectures") == [type(model).__name__] and labels == names
    others = [key for key in found["mismatched_keys"] if has_head or key[2][0] != len(classes)]
    if others:
        raise UnsupportedModelError(
            f"The weights of {name} do not fit its config.json: {others[0][0]} is {tuple(others[0][1])}.",
            "Pass a folder that save_pretrained wrote.",
        )
    refuse_missing(name, model, {key for key in found["missing_keys"] if has_head or not _of_head(key, model)})
    return model if has_head else _with_new_head(model)


def _of_head(weight: str, model: Any) -> bool:
    """Whether a weight is the head's, or of the pooler that it reads from, which language models lack."""
    body = f"{model.base_model_prefix}."
    return not weight.startswith(body) or weight.startswith(f"{body}pooler.")


def _with_new_head(model: Any) -> Any:
    """The model with a head that has learned nothing, not that for other labels."""
    fresh = type(model)(model.config)
    fresh.base_model.load_state_dict(model.base_model.state_dict())
    return fresh.eval()
