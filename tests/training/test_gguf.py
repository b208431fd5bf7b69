"""A .gguf file that is written here: read, saved as a folder of its own, and trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import jrt
from jrt.errors import DataFormatError, InputNotFoundError, UnsupportedModelError
from jrt.evals.training_rows import TaskRows
from jrt.training.kinds.own_model import load_tokenizer
from jrt.training.kinds.rmt import RMT, RMTSettings
from jrt.training.run import train

gguf = pytest.importorskip("gguf")
torch.set_num_threads(1)
HIDDEN, INNER, HEADS, LAYERS = 64, 96, 2, 2
BYTES = [*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.?,", "Ġ", "Ċ"]
TOKENS = ["<|endoftext|>", *BYTES, "ab"]


def weights() -> dict[str, np.ndarray]:
    """Weights of a small Llama by their names in a .gguf file."""
    generator = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return (generator.standard_normal(shape) * 0.1).astype(np.float32)

    found = {"token_embd.weight": draw(len(TOKENS), HIDDEN), "output_norm.weight": 1 + draw(HIDDEN)}
    for layer in range(LAYERS):
        found |= {f"blk.{layer}.attn_{name}.weight": draw(HIDDEN, HIDDEN) for name in ("q", "k", "v", "output")}
        found |= {f"blk.{layer}.ffn_{name}.weight": draw(INNER, HIDDEN) for name in ("gate", "up")}
        found |= {f"blk.{layer}.{name}_norm.weight": 1 + draw(HIDDEN) for name in ("attn", "ffn")}
        found[f"blk.{layer}.ffn_down.weight"] = draw(HIDDEN, INNER)
    return found


def written(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    """A Llama with matrices of eight bits and a tokenizer of single letters."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (len(TOKENS) - 1))
    writer.add_token_merges(["a b"])
    for token in ("bos", "eos", "unk", "pad"):
        getattr(writer, f"add_{token}_token_id")(0)
    packed = gguf.GGMLQuantizationType.Q8_0
    for name, tensor in tensors.items():
        if tensor.ndim == 1 or name.startswith("token_embd"):
            writer.add_tensor(name, tensor)
        else:
            writer.add_tensor(name, gguf.quants.quantize(tensor, packed), raw_dtype=packed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("gguf") / "small.Q8_0.gguf", weights())


def test_what_is_in_the_file_is_what_is_read(file: Path) -> None:
    reader = jrt.load(str(file), device="cpu", dtype="float32")
    packed = gguf.GGMLQuantizationType.Q8_0
    wanted = weights()["blk.1.ffn_down.weight"]
    wanted = gguf.quants.dequantize(gguf.quants.quantize(wanted, packed), packed)
    model: Any = reader.base_model
    np.testing.assert_array_equal(model.model.layers[1].mlp.down_proj.weight.detach().numpy(), wanted)
    assert reader.tokenizer is not None and reader.tokenizer.decode(reader.tokenizer("Mary.").input_ids) == "Mary."


def test_weights_that_are_not_in_the_file(tmp_path: Path) -> None:
    kept = {name: tensor for name, tensor in weights().items() if not name.startswith("blk.1.ffn")}
    with pytest.raises(DataFormatError, match=r"no weights for 4 of .* LlamaForCausalLM.*model\.layers\.1\.mlp"):
        jrt.load(str(written(tmp_path / "short.gguf", kept)), device="cpu")


def test_a_file_is_saved_as_a_folder(file: Path, tmp_path: Path) -> None:
    reader = jrt.load(str(file), jrt.RMT(num_memory_tokens=2, segment_length=8), device="cpu", dtype="float32")
    ids = torch.arange(1, 21)[None]
    reader.save_pretrained(tmp_path / "saved", include_model=True)
    assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())
    again = jrt.load(str(tmp_path / "saved"), device="cpu")
    torch.testing.assert_close(again(input_ids=ids).logits, reader(input_ids=ids).logits, rtol=0, atol=0)


def test_a_file_beside_a_saved_reader_is_that_file(file: Path, tmp_path: Path) -> None:
    """Whether the reader is one of that file or has a model of its own."""
    place = Path(shutil.copy(file, tmp_path / file.name))
    plain = jrt.load(str(place), device="cpu", dtype="float32")
    memory = jrt.RMT(num_memory_tokens=2, segment_length=8)
    reader = jrt.load(str(place), memory, device="cpu", dtype="float32")
    ids = torch.arange(1, 21)[None]
    for include_model in (False, True):
        reader.save_pretrained(tmp_path, include_model=include_model)
        for again in (jrt.load(str(place)), jrt.load(str(tmp_path), gguf_file=file.name)):
            assert again.methods == () and torch.equal(again(input_ids=ids).logits, plain(input_ids=ids).logits)
        saved = jrt.load(str(tmp_path), device="cpu", dtype="float32")
        assert saved.methods == (memory,) and torch.equal(saved(input_ids=ids).logits, reader(input_ids=ids).logits)


def test_a_file_of_a_folder_is_found_again(file: Path, tmp_path: Path) -> None:
    memory = jrt.RMT(num_memory_tokens=2, segment_length=8)
    reader = jrt.load(str(file.parent), memory, gguf_file=file.name, device="cpu", dtype="float32")
    reader.save_pretrained(tmp_path)
    again, ids = jrt.load(str(tmp_path), device="cpu", dtype="float32"), torch.arange(1, 21)[None]
    assert reader.name == str(file) and torch.equal(again(input_ids=ids).logits, reader(input_ids=ids).logits)
    with pytest.raises(InputNotFoundError, match=r"There is no file .*other\.gguf"):
        jrt.load(str(file.parent), gguf_file="other.gguf")


def test_a_file_is_trained_and_in_bfloat16_on_a_cpu(file: Path, tmp_path: Path) -> None:
    settings = RMTSettings(
        model=str(file),
        task="memorize",
        method="num_memory_tokens=2,segment_length=256",
        segments=1,
        steps=2,
        batch_size=2,
        evaluation_rows=0,
        bf16=True,
    )
    rows = TaskRows("memorize", settings.methods, settings.seed)
    trained = train("rmt", settings, tmp_path / "run", task_rows=rows.with_tokenizer)
    before, after = (jrt.load(str(path), device="cpu", dtype="float32").base_model for path in (file, trained.folder))
    moved = (before.state_dict()["model.norm.weight"] - after.state_dict()["model.norm.weight"]).abs().max()
    assert 0 < moved < 0.1


def test_a_file_that_is_not_there_and_a_head_that_it_has_not(file: Path) -> None:
    with pytest.raises(InputNotFoundError, match=r"There is no file nowhere\.gguf"):
        load_tokenizer("nowhere.gguf")
    settings = RMTSettings(model=str(file), head="classification", task="memorize", segments=1)
    kind = RMT(settings)
    kind.classes, kind.tokenizer = ("garden", "office"), load_tokenizer(str(file))
    with pytest.raises(UnsupportedModelError, match="LlamaForSequenceClassification is a decoder without a language"):
        kind.build()
