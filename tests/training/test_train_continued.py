"""Training that begins with what was trained before: classifiers, their heads, and the memories of saved readers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from built_kind import built
from safetensors.torch import load_file, save_file

import jrt
from jrt.errors import DataFormatError, InputNotFoundError, InvalidOptionError

torch.set_num_threads(1)


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


def test_a_classifier_whose_weights_are_broken_or_not_there(adapted: dict[str, Any], tmp_path: Path) -> None:
    encoder = Path(shutil.copytree(adapted["rmt"]["model"], tmp_path / "encoder"))
    (encoder / "model.safetensors").write_bytes(b"{}")
    with pytest.raises(DataFormatError, match=r"The weights of .* are broken"):
        built("rmt", adapted["rmt"] | {"model": str(encoder)})
    (encoder / "model.safetensors").unlink()
    with pytest.raises(InputNotFoundError, match=r"cannot be loaded: .*model\.safetensors"):
        built("rmt", adapted["rmt"] | {"model": str(encoder)})


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


def trained(kind: str, adapted: dict[str, Any], folder: Path) -> dict[str, torch.Tensor]:
    """What a run would leave in `folder`: a reader with its model, and no weight that a new one would have."""
    made, model = built(kind, adapted[kind])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    made.save(model, folder)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("kind", ["rmt", "infini"])
@pytest.mark.parametrize("options", ["none", "some", "the same"])
def test_what_was_learned_goes_on(kind: str, options: str, adapted: dict[str, Any], tmp_path: Path) -> None:
    saved = trained(kind, adapted, tmp_path / "model")
    method = {"none": "", "some": "segment_length=24", "the same": adapted[kind]["method"]}[options]
    made, model = built(kind, adapted[kind] | {"model": str(tmp_path / "model"), "method": method})
    assert model.state_dict().keys() == saved.keys() and model.learned().keys() <= saved.keys()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())
    made.save(model, tmp_path / "again")
    first, again = (jrt.load(str(tmp_path / name), device="cpu") for name in ("model", "again"))
    assert again.methods == first.methods and again.model.state_dict().keys() == first.model.state_dict().keys()


def test_a_memory_beside_a_named_model_goes_on(adapted: dict[str, Any], bases: dict[str, Path], tmp_path: Path) -> None:
    """Its weights and its tokenizer are those of the model that it names."""
    reader = jrt.load(str(bases["decoder"]), jrt.InfiniAttention(segment_length=24), device="cpu")
    with torch.no_grad():
        reader.model.gates["1"].fill_(0.25)
    reader.save_pretrained(tmp_path / "saved")
    made, model = built("infini", adapted["infini"] | {"model": str(tmp_path / "saved"), "method": ""})
    assert made.tokenizer.get_vocab() == reader.tokenizer.get_vocab()
    assert all(torch.equal(tensor, reader.model.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_a_memory_goes_on_under_a_head_for_other_labels(adapted: dict[str, Any], tmp_path: Path) -> None:
    saved = trained("rmt", adapted, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    labels = {number: f"place {number}" for number in config["id2label"]}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"id2label": labels}))
    _, model = built("rmt", adapted["rmt"] | {"model": str(tmp_path / "model")})
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, saved[name])}
    assert changed == {"base.classifier.weight", "base.classifier.bias"}


def test_gates_go_on_at_the_rate_that_is_asked_for(adapted: dict[str, Any], tmp_path: Path) -> None:
    trained("infini", {"infini": adapted["infini"] | {"gate_learning_rate": 0.5}}, tmp_path / "model")
    for told, rate in (({}, 0.5), ({"gate_learning_rate": 0.25}, 0.25)):
        made, model = built("infini", adapted["infini"] | {"model": str(tmp_path / "model"), **told})
        assert made.parameter_groups(model)[-1]["lr"] == rate


@pytest.mark.parametrize(
    ("methods", "method", "message"),
    [
        ([jrt.InfiniAttention(segment_length=16)], "segment_length=24", "with infini:segment_length=16.*--method"),
        ([jrt.InfiniAttention(segment_length=16)], "rule=delta", "says otherwise.*Leave --method out.*--model BASE"),
        ([jrt.RMT(num_memory_tokens=2, segment_length=24)], "", "with rmt:num_memory.* one infini.*--model BASE"),
        (
            [jrt.JRTPrompt(2), jrt.InfiniAttention(24)],
            "",
            "with jrt_prompt and infini.* one infini.*--model BASE",
        ),
    ],
)
def test_another_memory_is_neither_lost_nor_taken(
    methods: list[Any], method: str, message: str, adapted: dict[str, Any], bases: dict[str, Path], tmp_path: Path
) -> None:
    jrt.load(str(bases["decoder"]), *methods, device="cpu").save_pretrained(tmp_path / "saved")
    with pytest.raises(InvalidOptionError, match=message.replace("BASE", str(bases["decoder"]))):
        built("infini", adapted["infini"] | {"model": str(tmp_path / "saved"), "method": method})


def test_a_saved_reader_without_methods_is_a_plain_model(adapted: dict[str, Any], tmp_path: Path) -> None:
    jrt.load(adapted["infini"]["model"], device="cpu").save_pretrained(tmp_path / "saved", include_model=True)
    _, model = built("infini", adapted["infini"] | {"model": str(tmp_path / "saved")})
    assert model.method.segment_length == 24
