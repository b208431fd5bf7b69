"""A model and its tokenizer from the files of a folder or of the Hub: as which class, and what is wrong with them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from jrt.errors import DataFormatError, HubUnavailableError, InputNotFoundError, JRTError, UnsupportedModelError

AUTO = "AutoModelForCausalLM"


def read_model(
    source: str,
    name: str,
    dtype: Any,
    options: dict[str, Any],
    *,
    model_class: str | None = None,
    has_tokenizer: bool = True,
) -> tuple[Any, Any]:
    """The model and its tokenizer.

    Args:
        source: a folder or a Hub id.
        name: what the user calls it, for messages.
        dtype: a torch.dtype, or "auto".
        options: what `from_pretrained` takes besides: `revision`, `gguf_file`.
        model_class: the class that the model was saved as; None is the class that its config.json names where that is
            an encoder or another head, and the language model otherwise.
        has_tokenizer: whether there is a tokenizer.

    Raises:
        InputNotFoundError: a file is missing.
        DataFormatError: a file is broken, or weights are missing or have not the shapes that config.json says.
        HubUnavailableError: the Hub does not have it or cannot be reached.
        UnsupportedModelError: transformers has no class for it, or its files hold no weights for what that class says.
    """
    settings = config_of(source, options)
    if settings.get("model_type") == "gpt2" and "alt_mixer" in settings:
        return _released(source, dtype, options, has_tokenizer)
    with explained(source, name):
        if str(settings.get("model_type")).startswith("jrt_"):
            _register_own()
        tokenizer = _tokenizer(source, name, options) if has_tokenizer else None
        owner = _class(model_class or _class_in(settings))
        model, found = owner.from_pretrained(
            source, dtype=dtype, output_loading_info=True, **options, **plain_weights(options)
        )
    _refuse_random(name, settings, model, found["missing_keys"])
    return model, tokenizer


@contextmanager
def explained(source: str, name: str, wanted: str = "causal language model") -> Iterator[None]:
    """Says in our words why transformers could not load a model.

    Args:
        source: a folder or a Hub id.
        name: what the user calls it.
        wanted: what it was loaded as.

    Raises:
        InputNotFoundError, DataFormatError, HubUnavailableError, UnsupportedModelError: as `read_model` does.
    """
    try:
        yield
    except JRTError:  # says what is wrong already; some are OSErrors or ValueErrors too
        raise
    except OSError as error:
        reason = str(error).split("\n", 1)[0]
        if Path(source).exists():
            raise InputNotFoundError(
                f"{name} cannot be loaded: {reason}", "Check that the download is whole."
            ) from error
        raise HubUnavailableError(
            f"{name} is neither a local folder nor could it be had from the Hugging Face Hub: {reason}",
            "Check the name and the network, or use a local folder or the embedded jrt/tiny-recurrent.",
        ) from error
    except ValueError as error:
        raise UnsupportedModelError(
            f"{name} cannot be loaded as a {wanted}: {str(error).split(chr(10), 1)[0]}",
            f"Use a {wanted} that transformers knows; load others yourself and use jrt.wrap.",
        ) from error
    except SafetensorError as error:
        raise DataFormatError(f"The weights of {name} are broken: {error}.", "Download or save them again.") from error
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise DataFormatError(
            f"The weights of {name} have not the shapes that its config.json says.", "Download or save it again."
        ) from error


def plain_weights(options: dict[str, Any]) -> dict[str, Any]:
    """What `from_pretrained` needs besides, for weights of a .gguf file that can be trained and saved like any other.

    Newer versions of transformers leave them packed where they have a kernel, and refuse to save them everywhere.
    """
    import transformers

    packs: Any = getattr(transformers, "GgufConfig", None) if "gguf_file" in options else None
    return {} if packs is None else {"quantization_config": packs(dequantize=True)}


def _tokenizer(source: str, name: str, options: dict[str, Any]) -> Any:
    """The tokenizer.

    Raises:
        OSError: a file is missing.
        DataFormatError: a file is broken.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ImportError):
        raise
    except Exception as error:  # the tokenizers package raises nothing more special
        reason = f"{type(error).__name__}: {error}".split("\n", 1)[0]
        raise DataFormatError(
            f"The tokenizer of {name} cannot be read: {reason}", "Download or save its tokenizer files again."
        ) from error


def _class_in(settings: dict[str, Any]) -> str:
    """The class for what config.json says: a language model, unless an encoder or another head was saved.

    Generating classes go by transformers' own table, which has the decoder of models of several kinds of input.
    """
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

    named = str((settings.get("architectures") or [AUTO])[0])
    if named in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() or named in MODEL_MAPPING_NAMES.values():
        return AUTO
    found: Any = getattr(transformers, named, None)
    return named if hasattr(found, "can_generate") and not found.can_generate() else AUTO


def _refuse_random(name: str, settings: dict[str, Any], model: Any, missing: set[str]) -> None:
    """Says that the files hold another head, or none, than the model that was made of them, or not all of it.

    Args:
        missing: weights that the files do not hold. Tied ones, and those that transformers does without, are not among
            them (`_keys_to_ignore_on_load_missing`).

    Raises:
        UnsupportedModelError: they hold another model, and what is missing would be random numbers.
        DataFormatError: they hold this model without some of its weights, which would be random numbers.
    """
    named = (settings.get("architectures") or [None])[0]
    if missing and named not in (None, type(model).__name__):
        raise UnsupportedModelError(
            f"{name} holds a {named}; as a {type(model).__name__} it has no weights for {min(missing)}, which would be "
            "random numbers.",
            f"Load it yourself and wrap it: jrt.wrap({named}.from_pretrained(...), ...).",
        )
    refuse_missing(name, model, missing)


def refuse_missing(name: str, model: Any, missing: set[str]) -> None:
    """Says which weights are not in the files of a model.

    Raises:
        DataFormatError: there are such.
    """
    if missing:
        raise DataFormatError(
            f"{name} has no weights for {len(missing)} of the {len(model.state_dict())} parts of a "
            f"{type(model).__name__}, which would be random numbers: {min(missing)}{', ...' * (len(missing) > 1)}.",
            "Check that the download is whole, or save it again.",
        )


def config_of(source: str, options: dict[str, Any]) -> dict[str, Any]:
    """What config.json says; nothing where it cannot be had, which the loading itself then explains."""
    from transformers import PreTrainedConfig

    if "gguf_file" in options:
        return {}  # a format that has none of ours
    try:
        settings, _ = PreTrainedConfig.get_config_dict(source, **options)
    except (OSError, ValueError):
        return {}
    return dict(settings)


def _register_own() -> None:
    """Tells transformers' Auto classes about Based and JRT-RNN."""
    from jrt.models import register

    register()


def _released(source: str, dtype: Any, options: dict[str, Any], has_tokenizer: bool) -> tuple[Any, Any]:
    """A released checkpoint of Based or JRT-RNN, a pickle that transformers takes for a GPT-2.

    Prompts are read as they were when it was evaluated; `jrt convert` has the other way too.
    """
    from jrt.models.conversion import TOKENIZER, tokenizer_of
    from jrt.models.released import load_released

    model, _ = load_released(source, revision=options.get("revision"))
    tokenizer = tokenizer_of(TOKENIZER) if has_tokenizer else None
    return (model if dtype == "auto" else model.to(dtype)), tokenizer


def _class(name: str) -> Any:
    """A model class by name, of transformers or ours.

    Raises:
        UnsupportedModelError: neither has it.
    """
    import transformers

    found = getattr(transformers, name, None) or getattr(importlib.import_module("jrt.models"), name, None)
    if not hasattr(found, "from_pretrained"):
        raise UnsupportedModelError(
            f"transformers {transformers.__version__} has no model class {name}.",
            "Install the version that has it, or load the model yourself: Reader.from_pretrained(folder, model).",
        )
    return found
