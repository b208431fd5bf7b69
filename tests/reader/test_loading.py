"""From a name to a Reader, and every way in which that fails."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from encoders import build_encoder, random_text
from safetensors.torch import load_file, save_file
from text import DOCUMENT, word_tokenizer
from zoo import build

import jrt
from jrt.errors import (
    DataFormatError,
    HubUnavailableError,
    InputNotFoundError,
    InvalidOptionError,
    MissingDependencyError,
    UnknownNameError,
    UnsupportedModelError,
    WriteError,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mamba2")
    build("mamba2").save_pretrained(path)
    word_tokenizer().save_pretrained(path)
    return path


def test_a_local_folder(folder: Path) -> None:
    reader = jrt.load(str(folder), jrt.JRTPrompt(2), device="cpu")
    wrapped = jrt.wrap(build("mamba2"), jrt.JRTPrompt(2), tokenizer=word_tokenizer())
    question = "Where does Mira live?"
    assert reader.ask(DOCUMENT, question, max_new_tokens=6) == wrapped.ask(DOCUMENT, question, max_new_tokens=6)
    assert (reader.name, reader.model.training) == (str(folder), False)


def test_a_reading_knows_the_folder_it_came_from(folder: Path, tmp_path: Path) -> None:
    reader = jrt.load(str(folder))
    saved = reader.read(DOCUMENT).save(tmp_path / "reading")
    assert jrt.Reading.load(saved, jrt.load(str(folder))).num_tokens == reader.read(DOCUMENT).num_tokens


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_dtype(folder: Path, dtype: Any) -> None:
    assert jrt.load(str(folder), dtype=dtype).dtype == torch.bfloat16


def test_bad_names(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no embedded model 'jrt/tiny-recurent'"):
        jrt.load("jrt/tiny-recurent")
    with pytest.raises(InputNotFoundError, match="no model folder"):
        jrt.load("./nowhere")
    with pytest.raises(InputNotFoundError, match=r"no config\.json"):
        jrt.load(str(tmp_path))
    with pytest.raises(InputNotFoundError, match="no file"):
        jrt.load("nowhere.gguf")
    with pytest.raises(InvalidOptionError, match="device 'cuda:99'"):
        jrt.load(str(folder), device="cuda:99")
    with pytest.raises(InvalidOptionError, match=r"no data type 'bfloat61'.*'bfloat16'"):
        jrt.load(str(folder), dtype="bfloat61")


def test_a_folder_that_is_not_whole(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(InputNotFoundError, match="cannot be loaded"):
        jrt.load(str(tmp_path))


def test_no_network() -> None:
    with pytest.raises(HubUnavailableError, match=r"nobody/nothing is neither a local folder .*jrt/tiny-recurrent"):
        jrt.load("nobody/nothing")


def test_a_model_that_generates_nothing(tmp_path: Path) -> None:
    small = dict(vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    hf.T5ForConditionalGeneration(hf.T5Config(**small)).save_pretrained(tmp_path)
    word_tokenizer(size=64).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="causal language model"):
        jrt.load(str(tmp_path))


def test_gguf_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "gguf" else find(name, *rest))
    with pytest.raises(MissingDependencyError, match=r"just-read-twice\[gguf\]"):
        jrt.load(str(file))


def test_top_level_names() -> None:
    assert set(jrt.__all__) <= set(dir(jrt))
    assert all(getattr(jrt, name) is not None for name in jrt.__all__)
    with pytest.raises(AttributeError, match=r"no attribute 'Raeder'.*'Reader'"):
        _ = jrt.Raeder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bert_classifier")
    build_encoder("bert", "ForSequenceClassification").save_pretrained(path)
    word_tokenizer(size=64).save_pretrained(path)
    return path


def test_an_encoder_is_loaded_with_the_head_that_was_saved(classifier: Path, tmp_path: Path) -> None:
    memory = jrt.RMT(num_memory_tokens=2, segment_length=8)
    model = hf.AutoModelForSequenceClassification.from_pretrained(classifier)
    reader = jrt.wrap(model, memory, tokenizer=word_tokenizer(size=64))
    reader.save_pretrained(tmp_path / "memory")
    reader.save_pretrained(tmp_path / "whole", include_model=True)
    ids = random_text(1, 20)
    expected = reader(ids).logits
    assert expected.shape == (1, 3)
    for name in ("memory", "whole"):
        loaded = jrt.load(str(tmp_path / name))
        assert type(loaded.base_model) is hf.BertForSequenceClassification
        assert torch.equal(loaded(ids).logits, expected)
    assert type(jrt.load(str(classifier), memory).base_model) is hf.BertForSequenceClassification


def test_the_class_of_config_json(tmp_path: Path) -> None:
    """A head that is no language model is loaded as it is; a body alone only where it has all that writing needs."""
    sizes: dict[str, Any] = dict(vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1)
    sizes |= dict(num_attention_heads=2, num_key_value_heads=2)
    for tied, owner in ((True, hf.LlamaModel), (False, hf.LlamaModel), (False, hf.LlamaForSequenceClassification)):
        path = tmp_path / f"{owner.__name__}-{tied}"
        owner(hf.LlamaConfig(**sizes, tie_word_embeddings=tied, pad_token_id=0)).save_pretrained(path)
        word_tokenizer(size=64).save_pretrained(path)
    assert type(jrt.load(str(tmp_path / "LlamaModel-True")).model) is hf.LlamaForCausalLM
    headed = jrt.load(str(tmp_path / "LlamaForSequenceClassification-False"))
    assert type(headed.model) is hf.LlamaForSequenceClassification
    with pytest.raises(UnsupportedModelError, match=r"holds a LlamaModel.*no weights for lm_head\.weight"):
        jrt.load(str(tmp_path / "LlamaModel-False"))


def test_a_saved_class_that_nobody_has(classifier: Path, tmp_path: Path) -> None:
    jrt.load(str(classifier), jrt.RMT(num_memory_tokens=2, segment_length=8)).save_pretrained(tmp_path)
    manifest = tmp_path / "jrt.json"
    manifest.write_text(manifest.read_text().replace("BertForSequenceClassification", "MyBert"))
    with pytest.raises(UnsupportedModelError, match=r"no model class MyBert.*Reader\.from_pretrained\(folder, model\)"):
        jrt.load(str(tmp_path))


@pytest.fixture
def whole(classifier: Path, tmp_path: Path) -> Path:
    reader = jrt.load(str(classifier), jrt.RMT(num_memory_tokens=2, segment_length=8))
    return reader.save_pretrained(tmp_path / "whole", include_model=True)


def test_a_saved_reader_is_for_everyone(whole: Path) -> None:
    (whole / "plain").write_text("")
    assert {path.stat().st_mode for path in whole.iterdir()} == {(whole / "plain").stat().st_mode}
    assert not (whole / ".lock").exists()


def test_the_base_is_found_from_another_folder(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(classifier.parent)
    saved = jrt.load(classifier.name, jrt.RMT(num_memory_tokens=2, segment_length=8)).save_pretrained(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    assert type(jrt.load(str(saved)).base_model) is hf.BertForSequenceClassification


RMT_OF_TWO = jrt.RMT(num_memory_tokens=2, segment_length=8)


def copy_of(folder: Path, place: Path) -> Path:
    return Path(shutil.copytree(folder, place))


def with_memory(place: str | Path, **options: Any) -> jrt.Reader:
    """A reader whose memory is nothing that a new one would have."""
    reader = jrt.load(str(place), RMT_OF_TWO, device="cpu", **options)
    with torch.no_grad():
        for number, tensor in enumerate(reader.model.learned().values()):
            tensor.fill_(0.5 + number)
    return reader


def reads_alike(one: jrt.Reader, other: jrt.Reader) -> bool:
    ids = random_text(1, 20)
    return bool(torch.equal(one(ids).logits, other(ids).logits))


@pytest.mark.parametrize("named", ["the folder", "a link to it"])
def test_a_reader_saved_beside_its_model(classifier: Path, tmp_path: Path, named: str) -> None:
    place = copy_of(classifier, tmp_path / "m")
    reader = with_memory(place)
    reader.save_pretrained(place)
    if named == "a link to it":
        (tmp_path / "link").symlink_to(place, target_is_directory=True)
        place = tmp_path / "link"
    again = jrt.load(str(place), device="cpu")
    assert again.methods == (RMT_OF_TWO,) and reads_alike(again, reader)
    again.save_pretrained(tmp_path / "elsewhere")
    assert reads_alike(jrt.load(str(tmp_path / "elsewhere"), device="cpu"), reader)


def test_readers_that_name_each_other(classifier: Path, tmp_path: Path) -> None:
    """Where one of them stands beside the model, that is the model of both."""
    place, other = copy_of(classifier, tmp_path / "m"), tmp_path / "other"
    reader = with_memory(place)
    reader.save_pretrained(other)
    jrt.load(str(other), device="cpu").save_pretrained(place)
    assert json.loads((place / "jrt.json").read_text())["model"] == str(other)
    assert all(reads_alike(jrt.load(str(folder), device="cpu"), reader) for folder in (place, other))
    (place / "config.json").unlink()
    with pytest.raises(DataFormatError, match=r"name each other.*Reader\.from_pretrained\(folder, model\)"):
        jrt.load(str(other))


def test_what_a_reader_on_a_saved_reader_reads_with_is_its_own(whole: Path, tmp_path: Path) -> None:
    """Another memory, or none, than that of the saved reader whose model it has."""
    saved = jrt.load(str(whole), device="cpu")
    other = jrt.load(str(whole), jrt.RMT(num_memory_tokens=2, segment_length=6), device="cpu")
    once = saved.with_methods(jrt.JRTPrompt(1))
    for number, reader in enumerate((other, once)):
        again = jrt.load(str(reader.save_pretrained(tmp_path / str(number))), device="cpu")
        assert again.methods == reader.methods and reads_alike(again, reader)


def test_a_memory_of_the_given_model_is_saved_too(whole: Path, tmp_path: Path) -> None:
    reader = jrt.wrap(with_memory(whole).model, jrt.JRTPrompt(2))
    again = jrt.load(str(reader.save_pretrained(tmp_path / "saved")), device="cpu")
    assert again.methods == (jrt.JRTPrompt(2), RMT_OF_TWO) and reads_alike(again, reader)


def test_a_base_without_a_name_can_be_given(tmp_path: Path) -> None:
    model = build("llama")
    saved = jrt.wrap(model, jrt.RMT(num_memory_tokens=2, segment_length=8)).save_pretrained(tmp_path / "saved")
    with pytest.raises(HubUnavailableError, match=r"without its model, and 'LlamaForCausalLM'") as caught:
        jrt.load(str(saved))
    assert "from_pretrained(folder, model)" in caught.value.hint and "include_model=True" in caught.value.hint
    assert jrt.Reader.from_pretrained(saved, model).base_model is model


@pytest.mark.parametrize(
    ("file", "content", "error", "message"),
    [
        ("model.safetensors", 1000, DataFormatError, "weights of .* are broken"),
        ("config.json", None, InputNotFoundError, r"no config\.json"),
        ("config.json", '"hidden_size": 16', DataFormatError, "weights of .* have not the shapes"),
        ("config.json", "{", InputNotFoundError, "not a valid JSON"),
        ("tokenizer.json", 100, DataFormatError, "tokenizer of .* cannot be read: JSONDecodeError"),
        ("tokenizer.json", "{}", DataFormatError, "tokenizer of .* cannot be read"),
    ],
)
def test_broken_files(whole: Path, file: str, content: Any, error: type[Exception], message: str) -> None:
    path = whole / file
    if content is None:
        path.unlink()
    elif isinstance(content, int):
        path.write_bytes(path.read_bytes()[:content])
    elif content.startswith('"'):
        path.write_text(path.read_text().replace('"hidden_size": 32', content))
    else:
        path.write_text(content)
    with pytest.raises(error, match=message):
        jrt.load(str(whole))


@pytest.mark.parametrize("named", [True, False])
def test_weights_that_are_not_there(tmp_path: Path, named: bool) -> None:
    """A second layer that is missing would be random, whether config.json says of which class the model is or not."""
    hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=64, n_embd=16, n_head=2, n_layer=2)).save_pretrained(tmp_path)
    word_tokenizer(size=64).save_pretrained(tmp_path)
    if not named:
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": None}))
    assert jrt.load(str(tmp_path), device="cpu").base_model.config.n_layer == 2
    tensors = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in tensors, "the weights of the embeddings"
    kept = {name: tensor for name, tensor in tensors.items() if ".h.1." not in name}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    message = rf"no weights for {len(tensors) - len(kept)} of the 29 parts of a GPT2LMHeadModel.*transformer\.h\.1\."
    with pytest.raises(DataFormatError, match=message):
        jrt.load(str(tmp_path), device="cpu")


def test_a_place_that_cannot_be_written(classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"could not be written to .*: Not a directory"):
        jrt.load(str(classifier)).save_pretrained(tmp_path / "file" / "saved")


def test_what_a_method_learned_without_its_name_is_no_plain_model(tmp_path: Path) -> None:
    reader = jrt.load("jrt/tiny-rmt", device="cpu")
    reader.save_pretrained(tmp_path, include_model=True)
    (tmp_path / "jrt.json").unlink()
    with pytest.raises(DataFormatError, match=r"learned\.safetensors, what a method has learned, and no jrt\.json"):
        jrt.load(str(tmp_path))
