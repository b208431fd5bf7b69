"""transformers' own Trainer on adapted models and Readers: checkpoints, evaluation, predictions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

import numpy as np
import pytest
import torch
from encoders import build_encoder, random_text
from infini_families import build
from transformers import Trainer, TrainingArguments
from zoo import random_ids

import jrt
from jrt.adapters.infini import InfiniAttention
from jrt.adapters.rmt import RMT

ROWS = [{"input_ids": row, "labels": row, "unused": 1} for row in random_ids(6, 13)]
METHODS = {"rmt": RMT(2, 6, update="gated"), "infini": InfiniAttention(6)}


def trainer(model: Any, folder: Path, rows: list[Any] = ROWS, **options: Any) -> Trainer:
    settings = dict(
        output_dir=str(folder), per_device_train_batch_size=2, max_steps=2, save_strategy="no", report_to=[],
        use_cpu=True, disable_tqdm=True, learning_rate=0.01, logging_steps=1,
    )  # fmt: skip
    return Trainer(model=model, args=TrainingArguments(**(settings | options)), train_dataset=rows, eval_dataset=rows)


def method_around_a_tied_model(kind: str) -> Any:
    base = build("gpt2")
    assert base.lm_head.weight is base.get_input_embeddings().weight
    return base if kind == "none" else METHODS[kind].adapt(base)


@pytest.mark.parametrize("kind", METHODS)
def test_checkpoints_of_tied_weights_are_written_and_resumed(kind: str, tmp_path: Path) -> None:
    model = method_around_a_tied_model(kind)
    trainer(model, tmp_path, save_strategy="steps", save_steps=1, load_best_model_at_end=True, eval_strategy="steps",
            eval_steps=1).train()  # fmt: skip
    other = method_around_a_tied_model(kind)
    trainer(other, tmp_path, max_steps=2).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    third = method_around_a_tied_model(kind)
    found = third.load_state_dict(other.state_dict())
    assert not found.missing_keys and "base.lm_head.weight" not in other.state_dict()
    ids = random_ids(1, 9)
    with torch.no_grad():
        torch.testing.assert_close(third.eval()(ids).logits, other.eval()(ids).logits, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["none", *METHODS])
def test_a_reader_is_trained_saved_and_evaluated_as_its_model_is(kind: str, tmp_path: Path) -> None:
    options = dict(gradient_accumulation_steps=2, save_strategy="steps", save_steps=1)
    one, other = (method_around_a_tied_model(kind) for _ in range(2))
    other.load_state_dict(one.state_dict())
    reader = jrt.wrap(other) if kind == "none" else jrt.wrap(other, METHODS[kind])
    assert reader.model is other and reader.training == other.training
    ours, theirs = (trainer(model, tmp_path / name, **options) for model, name in ((reader, "a"), (one, "b")))
    assert ours.model_accepts_loss_kwargs == theirs.model_accepts_loss_kwargs
    ours.train(), theirs.train()
    for name, weight in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], weight, rtol=0, atol=0)
    assert ours.evaluate()["eval_loss"] == pytest.approx(theirs.evaluate()["eval_loss"])


def test_a_reader_computes_its_activations_twice_when_trainer_asks(tmp_path: Path) -> None:
    reader = jrt.wrap(build("llama"), METHODS["rmt"])
    trainer(reader, tmp_path, activation_checkpointing=True, bf16=True).train()
    assert reader.model.checkpointing
    reader.activation_checkpointing_disable()
    assert not reader.model.checkpointing


@pytest.mark.parametrize("kind", METHODS)
def test_predictions_are_logits_and_no_memories(kind: str, tmp_path: Path) -> None:
    model = METHODS[kind].adapt(build("llama"))
    predictions = trainer(model, tmp_path).predict(ROWS).predictions
    assert isinstance(predictions, np.ndarray) and predictions.shape == (6, 13, 128)


def test_the_memory_of_an_encoder_stays_beside_its_predictions(tmp_path: Path) -> None:
    model = RMT(2, 6, update="gated").adapt(build_encoder("bert", "ForSequenceClassification"))
    rows = [{"input_ids": row, "labels": int(row[0]) % 3} for row in random_text(4, 13)]
    assert trainer(model, tmp_path, rows).predict(rows).predictions.shape == (4, 3)
    output = model.eval()(random_text(1, 13))
    assert output.memory.shape == (1, 2, 32) and output.mean_write is not None and "memory" not in output
    assert {"memory", "mean_write"} <= set(model.train()(random_text(1, 13)))
