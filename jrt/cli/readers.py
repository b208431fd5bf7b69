"""From the options of a command to a Reader or a saved Reading."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from jrt.cli.options import DEFAULT_METHOD
from jrt.errors import InputNotFoundError
from jrt.methods import PRESETS, Method, parse_method

SMALL = 1_000_000
"""Parameters below which a model runs on one CPU thread; the embedded models have fewer."""

if TYPE_CHECKING:
    from jrt.reader import Reader
    from jrt.reading import Reading


def parse_methods(methods: Sequence[str] | None) -> list[Method]:
    """The methods as they were typed; before anything is loaded, so that a typing error costs no time."""
    return [parse_method(method) for method in methods or [DEFAULT_METHOD]]


def open_reader(
    model: str,
    methods: Sequence[Method] = (),
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    chat: bool | None = None,
) -> Reader:
    """The reader that a command's options describe."""
    local = model.startswith("jrt/") or Path(model).expanduser().exists()
    if not local:
        go_offline_without_network()
    from transformers.utils import logging

    import jrt

    if local:
        logging.disable_progress_bar()  # kept for downloads, which take long enough to want one
    reader = jrt.load(model, *methods, device=device, dtype=dtype, revision=revision, chat=chat)
    _one_thread_for_small_models(reader)
    return reader


def _one_thread_for_small_models(reader: Reader) -> None:
    """Threads only wait for each other in matrices this small, and on a busy machine they wait long."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ and reader.device.type == "cpu":
        parameters = sum(parameter.numel() for parameter in reader.model.parameters())
        if parameters < SMALL:
            torch.set_num_threads(1)


def go_offline_without_network() -> None:
    """Puts the Hub's client into offline mode when the Hub cannot be reached, before that client is imported.

    What is in the cache then loads at once and what is not fails at once; the client alone retries for a minute first.
    """
    if os.environ.get("HF_HUB_OFFLINE") or any(name.lower().endswith("_proxy") for name in os.environ):
        return
    address = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=5).close()
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"


def method_name(method: Method) -> str:
    """What a method is called where it is printed: the preset that it equals, else its shorthand."""
    return next((name for name in PRESETS if parse_method(name) == method), str(method))


def open_reading(
    folder: Path,
    *,
    model: str | None = None,
    methods: Sequence[Method] | None = None,
    device: str = "auto",
    dtype: str | None = None,
    revision: str | None = None,
) -> Reading:
    """A saved reading with the model, methods and data type that it was made with, unless others are given.

    Raises:
        InputNotFoundError: there is no reading, or the model it names is not there any more.
        StateMismatchError: the model or methods that were given are not the reading's own.
    """
    from jrt.reading import Reading
    from jrt.saved_reading import read_manifest

    if not (folder / "reading.json").is_file():
        raise InputNotFoundError(f"There is no reading in {folder}.", f"jrt read FILE --out {folder}")
    manifest = read_manifest(folder)
    if methods is None:
        methods = [Method.from_dict(method) for method in manifest.methods]
    try:
        reader = open_reader(
            model or manifest.model,
            methods,
            device=device,
            dtype=dtype or manifest.model_identity["dtype"].removeprefix("torch."),
            revision=revision or (manifest.revision if model is None else None),
            chat=manifest.chat,
        )
    except InputNotFoundError as error:
        if model is not None:
            raise
        raise InputNotFoundError(
            f"The reading in {folder} belongs to the model {manifest.model}. {error.message}",
            "If the model has moved, say where it is with --model.",
        ) from None
    return Reading.load(folder, reader)
