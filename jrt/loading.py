"""From a name to a Reader: an embedded model, a local folder, a .gguf file, or a model of the Hugging Face Hub."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

from jrt.embedded import PREFIX, embedded_folder, embedded_models
from jrt.errors import (
    HubUnavailableError,
    InputNotFoundError,
    InvalidOptionError,
    MissingDependencyError,
    UnknownNameError,
    did_you_mean,
)
from jrt.methods import Method
from jrt.model_files import read_model
from jrt.pretrained import LEARNED, MANIFEST, SavedReader, from_saved, read_saved
from jrt.reader import Reader, wrap

DEFAULT_MODEL = "jrt/tiny-recurrent"
ADAPTER = "adapter_config.json"


def load(
    name_or_path: str,
    *methods: Method,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
    gguf_file: str | None = None,
    chat: bool | None = None,
) -> Reader:
    """A Reader for a model, its tokenizer and methods in one call.

    Args:
        name_or_path: an embedded model ("jrt/tiny-recurrent"), a local folder, a .gguf file, or a Hub id.
        *methods: how it reads, outermost first; none means once.
        device: where it runs; "auto" is cuda, then mps, then cpu.
        dtype: the weights' data type; "auto" is the checkpoint's own.
        revision: the Hub revision.
        gguf_file: the .gguf file inside a folder or Hub repository.
        chat: whether `ask` uses the chat template; None means where there is one.

    Raises:
        UnknownNameError: no embedded model is called so.
        InputNotFoundError: the folder or file is not there or holds no model.
        DataFormatError: a file of it is broken.
        HubUnavailableError: the Hub does not have it or cannot be reached.
        UnsupportedModelError: transformers has no class for it that reads alone (encoder-decoder models).

    Example:
        >>> reader = jrt.load("state-spaces/mamba-370m-hf", jrt.JRTPrompt(passes=2))
    """
    source, options = located(name_or_path, revision, gguf_file)
    folder = _saved_reader(source, revision)
    if folder is not None:
        return _load_saved(
            folder, source, name_or_path, methods, device=device, dtype=dtype, revision=revision, chat=chat
        )
    model, tokenizer = read_model(source, name_or_path, _dtype(dtype), options)
    reader = wrap(model.to(_device(device)).eval(), *methods, tokenizer=tokenizer, chat=chat)
    reader.name = name_or_path
    reader.revision = getattr(model.config, "_commit_hash", None) or revision
    return reader


def located(name: str, revision: str | None = None, gguf_file: str | None = None) -> tuple[str, dict[str, Any]]:
    """Where a model's files are, as transformers' `from_pretrained` takes it: a folder or Hub id, and its options.

    Raises:
        UnknownNameError: no embedded model is called so.
        InputNotFoundError: the folder or file is not there or holds no model.
        MissingDependencyError: it is a .gguf file, and the package that reads one is not installed.
    """
    source, gguf_file = _source(name, gguf_file)
    options: dict[str, Any] = {} if revision is None else {"revision": revision}
    if gguf_file is not None:
        if importlib.util.find_spec("gguf") is None:
            raise MissingDependencyError(
                "Reading .gguf files needs the package gguf.", 'Type pip install "just-read-twice[gguf]".'
            )
        options["gguf_file"] = gguf_file
    return source, options


def _saved_reader(source: str, revision: str | None) -> Path | None:
    """The folder of `jrt.json` where a name stands for a saved reader, and for no plain model."""
    if Path(source).is_dir():
        return Path(source) if (Path(source) / MANIFEST).is_file() else None
    from transformers.utils import cached_file

    found = [
        cached_file(
            source,
            name,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
        for name in (MANIFEST, LEARNED)
    ]
    return Path(found[0]).parent if found[0] else None


def _load_saved(
    folder: Path,
    source: str,
    name: str,
    methods: tuple[Method, ...],
    *,
    device: str,
    dtype: str | torch.dtype,
    revision: str | None,
    chat: bool | None,
) -> Reader:
    """A reader that `Reader.save_pretrained` wrote: its model, then its methods and what they have learned."""
    saved = read_saved(folder)
    if saved.model is not None:
        model, tokenizer = _named_model(saved, folder, device, dtype)
    else:
        if Path(source).is_dir() and not any((folder / file).is_file() for file in ("config.json", ADAPTER)):
            raise InputNotFoundError(
                f"{name} is a saved reader that holds its model, but there is no config.json.", "Save the reader again."
            )
        model, tokenizer = read_model(
            source,
            name,
            _dtype(dtype),
            {} if revision is None else {"revision": revision},
            model_class=saved.model_class,
            has_tokenizer=saved.has_tokenizer,
        )
    reader = from_saved(saved, folder, model.to(_device(device)).eval(), tokenizer, methods, chat)
    reader.name, reader.revision = name, revision
    return reader


def _named_model(saved: SavedReader, folder: Path, device: str, dtype: str | torch.dtype) -> tuple[Any, Any]:
    """The model that a saved reader names, as the class that it was, and its tokenizer."""
    try:
        return _by_name(saved, device, dtype)
    except (InputNotFoundError, HubUnavailableError, UnknownNameError) as error:
        raise type(error)(
            f"The reader in {folder} was saved without its model, and {saved.model!r} cannot be had: {error.message}",
            "Pass the model, Reader.from_pretrained(folder, model), or save the reader with include_model=True.",
        ) from error


def _by_name(saved: SavedReader, device: str, dtype: str | torch.dtype) -> tuple[Any, Any]:
    assert saved.model is not None
    source, options = located(saved.model, saved.revision)
    if _saved_reader(source, saved.revision) is not None:
        inner = load(saved.model, device=device, dtype=dtype, revision=saved.revision)
        return inner.model, inner.tokenizer
    return read_model(source, saved.model, _dtype(dtype), options, model_class=saved.model_class)


def _source(name: str, gguf_file: str | None) -> tuple[str, str | None]:
    """Where the weights are: a folder or Hub id, and the .gguf file in it."""
    if name.startswith(PREFIX) and not Path(name).exists():
        if name not in embedded_models():
            raise UnknownNameError(f"There is no embedded model {name!r}.{did_you_mean(name, embedded_models())}")
        return str(embedded_folder(name)), gguf_file
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputNotFoundError(f"There is no file {name}.", "Check the path.")
        return str(path.parent), path.name
    if path.is_dir():
        if gguf_file is None and not any((path / file).is_file() for file in ("config.json", MANIFEST)):
            raise InputNotFoundError(
                f"{name} holds no model: there is no config.json.", "Pass the folder that save_pretrained wrote."
            )
        return str(path), gguf_file
    if path.is_file() or name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1:
        raise InputNotFoundError(
            f"There is no model folder {name}.",
            f"Pass a folder, a .gguf file, a Hub id (owner/name) or {DEFAULT_MODEL}.",
        )
    return name, gguf_file


def _device(device: str) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InvalidOptionError(
            f"The device {device!r} cannot be used: {str(error).split(chr(10), 1)[0]}", 'Use device="auto" or "cpu".'
        ) from None
    return found


def _dtype(dtype: str | torch.dtype) -> Any:
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    found = getattr(torch, dtype, None)
    names = ["auto", "float32", "bfloat16", "float16"]
    if not isinstance(found, torch.dtype):
        raise InvalidOptionError(f"There is no data type {dtype!r}.{did_you_mean(dtype, names)}")
    return found
