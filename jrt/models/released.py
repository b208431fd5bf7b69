"""The released checkpoints of Based and JRT-RNN as models of this package.

They are pickles of a flash-attn model (`pytorch_model.bin`) beside a config.json of nested hydra settings, without a
tokenizer, and transformers takes them for a GPT-2. What a layer is, is read from the tensors; the settings are asked
only for what shapes do not tell (heads, window, prefix). Every key and shape is compared with the model that comes out,
and nothing is loaded unless all of them fit.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jrt.errors import DataFormatError, HubUnavailableError, InputNotFoundError, UnsupportedModelError
from jrt.models.causal_lm import BasedForCausalLM, JRTForCausalLM
from jrt.models.configuration import BasedConfig, JRTConfig

WEIGHTS, SETTINGS = "pytorch_model.bin", "config.json"
_LAYERS = "transformer.layers."
_EMBEDDING, _HEAD = "transformer.embeddings.word_embeddings.weight", "lm_head.weight"


@dataclass(frozen=True)
class Report:
    """What was found in a checkpoint.

    Attributes:
        source: where it came from.
        model: the class that it became.
        mixers: the mixer of every layer.
        tensors: tensors that are weights, the tied head counted.
        parameters: numbers in them, the tied head not counted twice.
        shapes: every weight and its shape.
        dropped: keys that are no weights (counters of the training's metrics).
        settings: the configuration that came out.
        assumed: options that neither the tensors nor config.json tell, with what was taken for them.
    """

    source: str
    model: str
    mixers: list[str]
    tensors: int
    parameters: int
    shapes: dict[str, list[int]]
    dropped: list[str]
    settings: dict[str, Any]
    assumed: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def is_released(settings: Mapping[str, Any]) -> bool:
    """Whether a config.json is one of the released checkpoints, which call themselves GPT-2."""
    return settings.get("model_type") == "gpt2" and any(key in settings for key in ("mixer", "alt_mixer"))


def load_released(
    source: str | Path, *, padding: str = "legacy", sliding_window: int | None = None, revision: str | None = None
) -> tuple[BasedForCausalLM, Report]:
    """A released checkpoint as a model, in the data type of its weights.

    Args:
        source: the folder, the file `pytorch_model.bin`, or a Hub id.
        padding: how JRT-RNN reads prompts shorter than its prefix, see `JRTConfig`.
        sliding_window: tokens before itself that a token sees in softmax attention; None is half of the window_size in
            config.json, as flash-attn was called.
        revision: the Hub revision.

    Raises:
        InputNotFoundError: there is no such file.
        HubUnavailableError: the Hub does not have it or cannot be reached.
        DataFormatError: the pickle is damaged or holds more than tensors.
        UnsupportedModelError: it is another architecture, or keys and shapes do not fit.
    """
    weights_file, settings_file = _files(source, revision)
    settings = json.loads(settings_file.read_text(encoding="utf-8")) if settings_file else {}
    weights, dropped = normalise(_unpickle(weights_file))
    changes = {} if sliding_window is None else {"sliding_window": sliding_window}
    config, assumed = configuration(weights, settings, padding=padding, **changes)
    with torch.device("meta"):
        model = JRTForCausalLM(config) if isinstance(config, JRTConfig) else BasedForCausalLM(config)
    _compare(model, weights)
    model.load_state_dict(weights, strict=True, assign=True)
    model.tie_weights()
    report = Report(
        source=str(source),
        model=type(model).__name__,
        mixers=list(config.mixers or ()),
        tensors=len(weights),
        parameters=model.num_parameters(),
        shapes={name: list(tensor.shape) for name, tensor in weights.items()},
        dropped=dropped,
        settings={name: value for name, value in config.to_diff_dict().items() if name != "mixers"},
        assumed=assumed,
    )
    return model.eval(), report


def normalise(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """The weights under this package's names, and the keys that are none.

    A leading `model.` goes, `conv1` becomes `conv`, metrics are dropped, and a head that is not there is the embedding.
    """
    weights, dropped = {}, []
    for key, tensor in state.items():
        if "metrics" in key or not isinstance(tensor, Tensor):
            dropped.append(key)
            continue
        weights[key.removeprefix("model.").replace(".conv1.", ".conv.")] = tensor
    if _EMBEDDING in weights:
        weights.setdefault(_HEAD, weights[_EMBEDDING])
    return weights, dropped


def mixers_of(weights: Mapping[str, Tensor]) -> list[str]:
    """The mixer of every layer, from its keys.

    Raises:
        UnsupportedModelError: a layer that is none of them, or a model without Taylor attention.
    """
    layers = {int(found[1]) for key in weights if (found := re.match(rf"{re.escape(_LAYERS)}(\d+)\.", key))}
    if not layers or layers != set(range(len(layers))):
        raise UnsupportedModelError(
            f"There are no layers {_LAYERS}0, 1, ... in it; the keys begin with {_some(weights)}.",
            "The Mamba checkpoints load with MambaForCausalLM of transformers once their keys are renamed.",
        )
    mixers = []
    for layer in range(len(layers)):
        keys = {key.removeprefix(f"{_LAYERS}{layer}.mixer.") for key in weights}
        kinds = {
            "prefix": "proj_k_enc.weight",
            "linear": "proj_q.weight",
            "sliding": "Wqkv.weight",
            "conv": "conv.conv.weight",
        }
        kind = next((kind for kind, key in kinds.items() if key in keys), None)
        if kind is None:
            raise UnsupportedModelError(
                f"The mixer of layer {layer} is none that is known.",
                "Known are the layers of Based and JRT-RNN: BaseConv, Taylor attention with or without a prefix, SWA.",
            )
        mixers.append(kind)
    if not {"prefix", "linear"} & set(mixers):
        raise UnsupportedModelError(
            "It has no Taylor attention: this is the Transformer baseline, whose attention has no window.",
            "Only Based and JRT-RNN checkpoints can be converted.",
        )
    return mixers


def configuration(
    weights: Mapping[str, Tensor], settings: Mapping[str, Any], *, padding: str = "legacy", **changes: Any
) -> tuple[BasedConfig, dict[str, Any]]:
    """The configuration that fits the weights, and the options that had to be assumed.

    Args:
        weights: what `normalise` gave.
        settings: the checkpoint's config.json; may be empty.
        padding: see `JRTConfig`; a causal model has none.
        **changes: options that are to be others.
    """
    mixers, assumed = mixers_of(weights), {}

    def ask(option: str, default: Any, *paths: tuple[str, ...]) -> Any:
        for path in paths:
            value: Any = settings
            for name in path:
                value = value.get(name) if isinstance(value, Mapping) else None
            if value is not None:
                return value
        if option not in changes:
            assumed[option] = default
        return default

    taylor = next(index for index, mixer in enumerate(mixers) if mixer in ("prefix", "linear"))
    queries, values = (weights[f"{_LAYERS}{taylor}.mixer.proj_{name}.weight"].shape[0] for name in "qv")
    heads = int(ask("num_attention_heads", 16, ("alt_mixer", "num_heads"), ("n_head",)))
    vocabulary, width = weights[_EMBEDDING].shape
    if queries % heads or values % heads:
        raise UnsupportedModelError(f"{heads} heads do not divide queries of {queries} and values of {values} numbers.")
    options: dict[str, Any] = dict(
        vocab_size=vocabulary,
        hidden_size=width,
        mixers=mixers,
        num_attention_heads=heads,
        feature_dim=queries // heads,
        value_head_dim=values // heads,
        intermediate_size=weights[f"{_LAYERS}0.mlp.fc2.weight"].shape[1],
        rms_norm_eps=float(ask("rms_norm_eps", 1e-5, ("layer_norm_epsilon",))),
        tie_word_embeddings=torch.equal(weights[_HEAD], weights[_EMBEDDING]),
        bos_token_id=settings.get("bos_token_id"),
        eos_token_id=settings.get("eos_token_id"),
    )
    if "conv" in mixers:
        convolution = weights[f"{_LAYERS}{mixers.index('conv')}.mixer.conv.conv.weight"]
        options["conv_kernel"] = convolution.shape[-1]
    if "sliding" in mixers:
        own_heads = int(ask("num_attention_heads", heads, ("alt_mixer_2", "num_heads"), ("n_head",)))
        if own_heads != heads:
            raise UnsupportedModelError(f"Its windows have {own_heads} heads and its Taylor attention has {heads}.")
        window = ask("sliding_window", 256, ("alt_mixer_2", "window_size"))
        options["sliding_window"] = int(window) // 2  # flash-attn was called with (window_size // 2, 0)
        if "sliding_window" in assumed:
            assumed["sliding_window"] = options["sliding_window"]
    if "prefix" not in mixers:
        return BasedConfig(**(options | changes)), assumed
    options["padding"] = padding
    options["encoder_length"] = int(ask("encoder_length", 1024, ("alt_mixer", "enc_length"), ("enc_length",)))
    mask = settings.get("mask_token_id")
    options["mask_token_id"] = int(mask) if mask is not None and 0 <= int(mask) < vocabulary else vocabulary - 1
    return JRTConfig(**(options | changes)), assumed


def _files(source: str | Path, revision: str | None) -> tuple[Path, Path | None]:
    """The file of the weights and, where there is one, of the settings."""
    path = Path(source).expanduser()
    if path.is_file():
        settings = path.with_name(SETTINGS)
        return path, settings if settings.is_file() else None
    if not path.is_dir():
        if str(source).startswith((".", "/", "~")) or str(source).count("/") != 1:
            raise InputNotFoundError(f"There is no checkpoint {source}.", f"Pass a folder with {WEIGHTS}, or a Hub id.")
        path = _download(str(source), revision)
    if not (path / WEIGHTS).is_file():
        raise InputNotFoundError(f"{source} holds no {WEIGHTS}.", "Pass the folder of a released checkpoint.")
    return path / WEIGHTS, path / SETTINGS if (path / SETTINGS).is_file() else None


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[WEIGHTS, SETTINGS]))
    except (OSError, ValueError) as error:
        raise HubUnavailableError(
            f"{name} could not be had from the Hugging Face Hub: {str(error).split(chr(10), 1)[0]}",
            "Check the name and the network, or pass a folder.",
        ) from error


def _unpickle(file: Path) -> dict[str, Any]:
    """The state_dict in a pickle, read without running any code of it."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise DataFormatError(
            f"{file} cannot be read as plain tensors: {str(error).strip().split(chr(10), 1)[0]}",
            "It is damaged, or it holds code, which is never run; download it again from its publisher.",
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise DataFormatError(f"{file} holds a {type(state).__name__} and no state_dict.", "Pass a model's weights.")
    return state


def _compare(model: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Every key and shape of the model against those of the checkpoint.

    Raises:
        UnsupportedModelError: they differ.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    both = expected.keys() & found.keys()
    wrong = [f"{name} is {found[name]} and not {expected[name]}" for name in both if found[name] != expected[name]]
    wrong += [f"{name} is missing" for name in expected.keys() - found.keys()]
    wrong += [f"{name} has no place" for name in found.keys() - expected.keys()]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        decays = any("decay" in text for text in wrong)
        raise UnsupportedModelError(
            f"{len(wrong)} tensors do not fit: {'; '.join(sorted(wrong)[:5])}{more}.",
            "Its Taylor attention decays, and no layer here does." if decays else "It is another architecture.",
        )


def _some(weights: Mapping[str, Tensor]) -> str:
    return ", ".join(sorted({key.split(".", 1)[0] for key in weights})[:3]) or "nothing"
