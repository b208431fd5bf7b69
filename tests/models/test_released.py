"""Released checkpoints: synthetic ones with the published keys at reduced width, and a real one where there is one.

Set JRT_RELEASED_CHECKPOINT to a folder with pytorch_model.bin and config.json to test a real one.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from released import random_ids, released_logits
from text import word_tokenizer

import jrt
from jrt.errors import (
    DataFormatError,
    HubUnavailableError,
    InputNotFoundError,
    InvalidOptionError,
    UnsupportedModelError,
)
from jrt.models import BasedForCausalLM, JRTForCausalLM, convert
from jrt.models.released import is_released, load_released

WIDTH, HEADS, VOCABULARY, ENCODER = 32, 4, 300, 12
SCHEDULE = ["conv", "prefix", "sliding", "conv"]
SETTINGS: dict[str, Any] = {
    "model_type": "gpt2",
    "n_embd": WIDTH,
    "n_head": HEADS,
    "n_layer": 4,
    "layer_norm_epsilon": 1e-5,
    "alt_mixer_layers": [1],
    "alt_mixer_2_layers": [2],
    "mixer": {"_target_": "src.models.mixers.base_conv.BaseConvWithSiLU4", "kernel_sizes": [3], "expand_proj": 4},
    "alt_mixer": {
        "_target_": "based.models.mixers.prefix_linear_attention.PrefixLinearAttention",
        "num_heads": HEADS,
        "feature_dim": 4,
        "enc_length": ENCODER,
    },
    "alt_mixer_2": {"_target_": "src.models.mixers.slide_fa2.SlidingsMHA", "window_size": 10, "num_heads": HEADS},
}


def shapes(kind: str, width: int, heads: int, feature: int) -> dict[str, tuple[int, ...]]:
    """The tensors of one released layer, [out, in]."""
    keys = heads * feature
    taylor = {
        "mixer.proj_q.weight": (keys, width),
        "mixer.proj_k.weight": (keys, width),
        "mixer.proj_v.weight": (width, width),
        "mixer.out_proj.weight": (width, width),
    }
    mixer: dict[str, dict[str, tuple[int, ...]]] = {
        "conv": {
            "mixer.in_proj.weight": (4 * width, width),
            "mixer.in_proj.bias": (4 * width,),
            "mixer.conv.conv.weight": (2 * width, 1, 3),
            "mixer.out_proj.weight": (width, 2 * width),
            "mixer.out_proj.bias": (width,),
        },
        "prefix": taylor | {"mixer.proj_k_enc.weight": (keys, width), "mixer.proj_v_enc.weight": (width, width)},
        "linear": taylor,
        "sliding": {"mixer.Wqkv.weight": (3 * width, width), "mixer.out_proj.weight": (width, width)},
    }
    both = {"norm1.weight": (width,), "norm2.weight": (width,)}
    return mixer[kind] | both | {"mlp.fc1.weight": (4 * width, width), "mlp.fc2.weight": (width, 2 * width)}


def checkpoint(schedule: list[str], width: int = WIDTH, heads: int = HEADS, feature: int = 4) -> dict[str, Tensor]:
    """A random state_dict as a training run wrote it: the prefix `model.`, and counters among the weights."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}
    for layer, kind in enumerate(schedule):
        for key, shape in shapes(kind, width, heads, feature).items():
            scale = 1.0 if len(shape) == 1 else shape[-1] ** -0.5
            state[f"model.transformer.layers.{layer}.{key}"] = torch.randn(shape, generator=generator) * scale
    embedding = torch.randn(VOCABULARY, width, generator=generator)
    state["model.transformer.embeddings.word_embeddings.weight"] = state["model.lm_head.weight"] = embedding
    state["model.transformer.ln_f.weight"] = torch.ones(width)
    state["train_metrics.num-tokens.count"] = torch.tensor(5)
    return state


def write(folder: Path, state: Any, settings: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / "pytorch_model.bin")
    if settings is not None:
        (folder / "config.json").write_text(json.dumps(settings))
    return folder


def plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("model."): tensor for key, tensor in state.items()}


@torch.no_grad()
@pytest.mark.parametrize("length", [5, 17])
@pytest.mark.parametrize("padding", ["legacy", "strict"])
def test_a_released_checkpoint_computes_what_it_did(tmp_path: Path, padding: str, length: int) -> None:
    state = checkpoint(SCHEDULE)
    convert(write(tmp_path / "in", state, SETTINGS), tmp_path / "out", padding=padding, tokenizer=None)
    model = JRTForCausalLM.from_pretrained(tmp_path / "out").double().eval()
    ids = random_ids(1, length)
    filled = max(0, ENCODER - length) if padding == "legacy" else 0
    row = torch.cat([torch.full((filled,), 220), ids[0]])
    expected = released_logits(plain(state), row, heads=HEADS, window=5, prefix=ENCODER, filled=filled)[filled:]
    assert float((model(ids).logits[0] - expected).abs().max() / expected.abs().max()) < 1e-12


def test_the_report_says_what_was_found(tmp_path: Path) -> None:
    source = write(tmp_path / "in", checkpoint(SCHEDULE), SETTINGS)
    model, report = load_released(source)
    assert report.mixers == SCHEDULE and report.model == "JRTForCausalLM"
    assert report.tensors == 3 + 4 * 4 + 2 * 5 + 6 + 2 == len(report.shapes)
    assert report.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert report.dropped == ["train_metrics.num-tokens.count"] and report.assumed == {}
    config = model.config
    assert (config.sliding_window, config.encoder_length, config.padding) == (5, ENCODER, "legacy")
    assert (config.feature_dim, config.mask_token_id, config.conv_kernel) == (4, VOCABULARY - 1, 3)
    assert model.lm_head.weight is model.transformer.embeddings.word_embeddings.weight
    assert load_released(source, sliding_window=7)[0].config.sliding_window == 7


def test_layers_are_found_without_settings_and_what_is_assumed_is_said(tmp_path: Path) -> None:
    state = checkpoint(["conv", "linear", "sliding"], width=64, heads=16)
    state = {key.replace("mixer.conv.", "mixer.conv1."): tensor for key, tensor in state.items()}
    model, report = load_released(write(tmp_path / "in", state))
    assert type(model) is BasedForCausalLM and report.mixers == ["conv", "linear", "sliding"]
    assert report.assumed == {"num_attention_heads": 16, "rms_norm_eps": 1e-5, "sliding_window": 128}
    with torch.no_grad():
        expected = released_logits(
            {key.replace("conv1", "conv"): tensor for key, tensor in plain(state).items()},
            random_ids(1, 9)[0], heads=16, window=128, prefix=0,
        )  # fmt: skip
        assert float((model(random_ids(1, 9)).logits[0] - expected).abs().max() / expected.abs().max()) < 1e-4


def test_the_published_schedule_has_the_published_number_of_tensors() -> None:
    from jrt.models import JRTConfig

    for size, tensors in (("360m", 227), ("1.3b", 313)):
        assert 3 + sum(len(shapes(kind, 32, 4, 4)) for kind in JRTConfig.preset(size).mixers) == tensors


def test_a_converted_folder_is_a_model_like_any_other(tmp_path: Path) -> None:
    word_tokenizer(size=VOCABULARY).save_pretrained(tmp_path / "words")
    source = write(tmp_path / "in", checkpoint(SCHEDULE), SETTINGS)
    convert(source, tmp_path / "out", tokenizer=str(tmp_path / "words"))
    assert {entry.suffix for entry in (tmp_path / "out").iterdir()} <= {".json", ".safetensors", ".jinja"}
    reader = jrt.load(str(tmp_path / "out"))
    assert type(reader.model) is JRTForCausalLM
    assert isinstance(reader.ask("Mira lives in Oslo.", "Where does Mira live?", max_new_tokens=3), str)


class Code:
    """What a hostile pickle does when it is opened without care."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda state: state.pop("model.transformer.layers.0.mlp.fc1.weight"), UnsupportedModelError, "is missing"),
        (lambda state: state.update({"model.extra.weight": torch.ones(1)}), UnsupportedModelError, "has no place"),
        (
            lambda state: state.update({"model.transformer.decay.decay": torch.ones(1)}),
            UnsupportedModelError,
            "decays, and no layer here does",
        ),
        (
            lambda state: state.update({"model.transformer.layers.2.mixer.Wqkv.weight": torch.ones(32, 32)}),
            UnsupportedModelError,
            r"is \(32, 32\) and not \(96, 32\)",
        ),
        (
            lambda state: [state.pop(key) for key in list(state) if ".layers.1.mixer" in key],
            UnsupportedModelError,
            "mixer of layer 1",
        ),
        (
            lambda state: [state.pop(key) for key in list(state) if ".layers.1." in key],
            UnsupportedModelError,
            "no layers",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_and_nothing_is_written(
    tmp_path: Path, damage: Any, error: type[Exception], message: str
) -> None:
    state = checkpoint(SCHEDULE)
    damage(state)
    with pytest.raises(error, match=message):
        convert(write(tmp_path / "in", state, SETTINGS), tmp_path / "out", tokenizer=None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


def test_other_architectures_and_bad_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformer = checkpoint(["sliding", "sliding"])
    with pytest.raises(UnsupportedModelError, match="no Taylor attention"):
        load_released(write(tmp_path / "attention", transformer))
    with pytest.raises(UnsupportedModelError, match="begin with backbone"):
        load_released(write(tmp_path / "mamba", {"backbone.layers.0.mixer.A_log": torch.ones(2)}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataFormatError, match="plain tensors"):
        load_released(write(tmp_path / "code", {"a": Code()}))
    (tmp_path / "code" / "pytorch_model.bin").write_bytes(pickle.dumps(Code()))
    with pytest.raises(DataFormatError, match="plain tensors"):
        load_released(tmp_path / "code")
    assert not (tmp_path / "ran").exists(), "code of a pickle was run"
    with pytest.raises(DataFormatError, match="no state_dict"):
        load_released(write(tmp_path / "list", [1]))
    with pytest.raises(InputNotFoundError, match="holds no pytorch_model"):
        load_released(tmp_path)
    with pytest.raises(InputNotFoundError, match="no checkpoint"):
        load_released(tmp_path / "nowhere")
    with pytest.raises(HubUnavailableError, match="could not be had"):
        load_released("nobody/nothing")
    with pytest.raises(InvalidOptionError, match="no padding"):
        load_released(write(tmp_path / "good", checkpoint(SCHEDULE), SETTINGS), padding="loose")
    with pytest.raises(InvalidOptionError, match="is there already"):
        convert(tmp_path / "good", tmp_path / "code", tokenizer=None)
    with pytest.raises(HubUnavailableError, match="tokenizer"):
        convert(tmp_path / "good", tmp_path / "out", tokenizer="nobody/nothing")


def test_a_stopped_conversion_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, folder: Path) -> None:
        folder.mkdir()
        raise OSError("no space left on device")

    monkeypatch.setattr(JRTForCausalLM, "save_pretrained", full)
    with pytest.raises(OSError, match="no space"):
        convert(write(tmp_path / "in", checkpoint(SCHEDULE), SETTINGS), tmp_path / "out", tokenizer=None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


def test_released_settings_are_told_from_a_gpt2() -> None:
    assert is_released(SETTINGS)
    assert not is_released({"model_type": "gpt2", "n_embd": 768}) and not is_released({"model_type": "jrt_rnn"})


@pytest.mark.skipif("JRT_RELEASED_CHECKPOINT" not in os.environ, reason="JRT_RELEASED_CHECKPOINT names no checkpoint")
def test_a_real_checkpoint() -> None:
    model, report = load_released(os.environ["JRT_RELEASED_CHECKPOINT"])
    assert (report.tensors, report.parameters) in ((227, 356_578_304), (313, 1_375_143_168))
    with torch.no_grad():
        logits = model(torch.arange(100, 130)[None]).logits
    assert bool(logits.isfinite().all())


def test_jrt_load_takes_a_released_folder_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "JRT-360M-30B", checkpoint(SCHEDULE), SETTINGS)
    with pytest.raises(HubUnavailableError, match="tokenizer gpt2"):
        jrt.load(str(source))  # no network here, and the repositories hold no tokenizer
    monkeypatch.setattr("jrt.models.conversion.TOKENIZER", str(tmp_path / "words"))
    word_tokenizer(size=VOCABULARY).save_pretrained(tmp_path / "words")
    reader = jrt.load(str(source), dtype="bfloat16")
    assert type(reader.model) is JRTForCausalLM and reader.model.config.padding == "legacy"
    assert reader.model.dtype == torch.bfloat16
    assert isinstance(reader.ask("Mira lives in Oslo.", "Where does Mira live?", max_new_tokens=3), str)
