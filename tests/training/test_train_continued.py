"""Training that begins with what was trained before: classifiers, their heads, and the memories of saved readers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from jrt.errors import DataFormatError
from jrt.evals.training_rows import TaskRows
from jrt.training.kinds import kind_class
from jrt.training.kinds.base import Kind

torch.set_num_threads(1)


def built(kind: str, options: dict[str, Any]) -> tuple[Kind, Any]:
    """The kind and its model, as a run makes them."""
    chosen = kind_class(kind).settings_class(**options)
    made = kind_class(kind)(chosen)
    rows, made.tokenizer = TaskRows(chosen.task, "once", 0).with_tokenizer(made.find_tokenizer())
    made.classes = rows.classes
    return made, made.build()


def without(folder: Path, part: str) -> Path:
    """The folder, after the weights with `part` in their names were lost."""
    kept = {name: tensor for name, tensor in load_file(folder / "model.safetensors").items() if part not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    return folder


def classifier(adapted: dict[str, Any], folder: Path) -> Path:
    """The encoder with a head for the task's classes."""
    _, model = built("rmt", adapted["rmt"])
    shutil.copytree(adapted["rmt"]["model"], folder)
    model.base.save_pretrained(folder)
    return folder


def test_a_new_head_is_all_that_a_classifier_may_lack(adapted: dict[str, Any], tmp_path: Path) -> None:
    encoder = Path(shutil.copytree(adapted["rmt"]["model"], tmp_path / "encoder"))
    built("rmt", adapted["rmt"] | {"model": str(encoder)})  # neither a head nor, as a masked model, a pooler
    with pytest.raises(DataFormatError, match=r"no weights for 2 .* BertForSequenceClassification.*intermediate"):
        built("rmt", adapted["rmt"] | {"model": str(without(encoder, "intermediate"))})
    headed = classifier(adapted, tmp_path / "headed")
    with pytest.raises(DataFormatError, match=r"no weights for 1 .*classifier\.bias"):
        built("rmt", adapted["rmt"] | {"model": str(without(headed, "classifier.bias"))})


def test_a_head_goes_on_where_its_labels_are_the_tasks(adapted: dict[str, Any], tmp_path: Path) -> None:
    """A head for as many other labels gives way to a new one, like one for more or fewer of them."""
    folder = classifier(adapted, tmp_path / "headed")
    saved = load_file(folder / "model.safetensors")
    _, model = built("rmt", adapted["rmt"] | {"model": str(folder)})
    assert all(torch.equal(model.base.state_dict()[name], tensor) for name, tensor in saved.items())
    config = json.loads((folder / "config.json").read_text())
    labels = {number: f"place {number}" for number in config["id2label"]}
    (folder / "config.json").write_text(json.dumps(config | {"id2label": labels}))
    _, model = built("rmt", adapted["rmt"] | {"model": str(folder)})
    kept = {name for name, tensor in saved.items() if torch.equal(model.base.state_dict()[name], tensor)}
    assert saved.keys() - kept == {"classifier.weight"}, "biases are zero at the start"
    assert list(model.base.config.id2label.values()) == list(config["id2label"].values())
