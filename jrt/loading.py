"""From a name to a Reader: an embedded model, a local folder, a .gguf file, or a model of the Hugging Face Hub."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

from jrt.embedded import PREFIX, embedded_folder, embedded_models
from jrt.errors import (
    DataFormatError,
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
MODEL_FILES = ("config.json", "adapter_config.json")
"""One of them is in every folder of a model; the second where it is an adapter of PEFT."""


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
    if gguf_file is not None and Path(name_or_path).expanduser().is_dir():
        name_or_path, gguf_file = str(Path(name_or_path) / gguf_file), None  # the name that finds it again
    source, options = located(name_or_path, revision, gguf_file)
    folder = saved_folder(source, options)
    if folder is not None:
        return _load_saved(
            folder, source, name_or_path, methods, device=device, dtype=dtype, options=options, chat=chat
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


def saved_folder(source: str, options: dict[str, Any]) -> Path | None:
    """The folder of `jrt.json` where a place, as `located` gives it, is a saved reader, and no plain model or file.

    Raises:
        DataFormatError: what a method has learned is there, and not which method.
    """
    if "gguf_file" in options:
        return None
    manifest, learned = (_file_of(source, options, file) for file in (MANIFEST, LEARNED))  # both, to have them here
    if manifest is None and learned is not None:
        raise DataFormatError(
            f"{source} holds {LEARNED}, what a method has learned, and no {MANIFEST} that says which method.",
            f"Save the reader again, or delete {LEARNED} to read with the plain model.",
        )
    return None if manifest is None else manifest.parent


def model_place(name: str, revision: str | None = None) -> tuple[str, dict[str, Any]]:
    """Where the model behind a name is, as `located` gives it: there, or where the saved reader there says it is.

    A saved reader beside a model, which names that model or another reader, is no reason to look further.

    Raises:
        DataFormatError: saved readers name each other, and none has a model.
        InputNotFoundError, UnknownNameError, MissingDependencyError: as `located` does.
    """
    passed: list[Path] = []
    while True:
        source, options = located(name, revision)
        folder = saved_folder(source, options)
        if folder is None or any(_file_of(source, options, file) for file in MODEL_FILES):
            return source, options
        saved = read_saved(folder)
        if saved.model is None:
            return source, options
        if folder.resolve() in passed:
            raise DataFormatError(
                f"The saved readers in {' and '.join(str(path) for path in passed)} name each other as their model, "
                "and none is there.",
                "Pass the model, Reader.from_pretrained(folder, model).",
            )
        passed.append(folder.resolve())
        name, revision = saved.model, saved.revision


def _file_of(source: str, options: dict[str, Any], file: str) -> Path | None:
    """A file of a folder or of the Hub, where there is one."""
    if Path(source).is_dir():
        return Path(source) / file if (Path(source) / file).is_file() else None
    from transformers.utils import cached_file

    found = cached_file(
        source,
        file,
        revision=options.get("revision"),
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return Path(found) if found else None


def _load_saved(
    folder: Path,
    source: str,
    name: str,
    methods: tuple[Method, ...],
    *,
    device: str,
    dtype: str | torch.dtype,
    options: dict[str, Any],
    chat: bool | None,
) -> Reader:
    """A reader that `Reader.save_pretrained` wrote: its model, then its methods and what they have learned."""
    saved = read_saved(folder)
    if saved.model is not None:
        model, tokenizer = _named_model(saved, folder, dtype)
    else:
        if Path(source).is_dir() and not any((folder / file).is_file() for file in MODEL_FILES):
            raise InputNotFoundError(
                f"{name} is a saved reader that holds its model, but there is no config.json.", "Save the reader again."
            )
        model, tokenizer = read_model(
            source,
            name,
            _dtype(dtype),
            options,
            model_class=saved.model_class,
            has_tokenizer=saved.has_tokenizer,
        )
    reader = from_saved(saved, folder, model.to(_device(device)).eval(), tokenizer, methods, chat)
    reader.name, reader.revision = name, options.get("revision")
    return reader


def _named_model(saved: SavedReader, folder: Path, dtype: str | torch.dtype) -> tuple[Any, Any]:
    """The model that a saved reader names, as the class that it was, and its tokenizer."""
    try:
        return _by_name(saved, dtype)
    except (InputNotFoundError, HubUnavailableError, UnknownNameError) as error:
        raise type(error)(
            f"The reader in {folder} was saved without its model, and {saved.model!r} cannot be had: {error.message}",
            "Pass the model, Reader.from_pretrained(folder, model), or save the reader with include_model=True.",
        ) from error


def _by_name(saved: SavedReader, dtype: str | torch.dtype) -> tuple[Any, Any]:
    """Methods of a reader that stands beside that model, or holds it, are its own business."""
    assert saved.model is not None
    source, options = model_place(saved.model, saved.revision)
    folder = saved_folder(source, options)
    beside = None if folder is None else read_saved(folder)
    return read_model(
        source,
        saved.model,
        _dtype(dtype),
        options,
        model_class=saved.model_class,
        has_tokenizer=beside is None or beside.model is not None or beside.has_tokenizer,
    )


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
