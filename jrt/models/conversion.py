"""A released checkpoint as a folder that `from_pretrained` and `jrt.load` take: safetensors, config and tokenizer."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

from jrt.errors import HubUnavailableError, InvalidOptionError
from jrt.models.released import Report, load_released

TOKENIZER = "gpt2"
"""What the released models were trained with; their repositories hold none."""


def convert(
    source: str | Path,
    out: str | Path,
    *,
    padding: str = "legacy",
    sliding_window: int | None = None,
    tokenizer: str | None = TOKENIZER,
    revision: str | None = None,
) -> Report:
    """Writes a released checkpoint in transformers' format.

    The folder appears when everything is in it; a conversion that fails or is stopped leaves none.

    Args:
        source: a folder, a `pytorch_model.bin`, or a Hub id such as "hazyresearch/JRT-360M-30B".
        out: the folder to write; it must be empty or not there.
        padding: how JRT-RNN reads prompts shorter than its prefix: "legacy" as they were evaluated, "strict" as they
            are.
        sliding_window: tokens before itself that a token sees in softmax attention; None is what the checkpoint says.
        tokenizer: a Hub id or folder of the tokenizer; None writes none.
        revision: the Hub revision of the checkpoint.

    Returns:
        What was found: layers, keys, shapes, and what had to be assumed.

    Raises:
        InvalidOptionError: the folder is not empty, or there is no such padding.
        HubUnavailableError: checkpoint or tokenizer cannot be had.
        InputNotFoundError, DataFormatError, UnsupportedModelError: see `load_released`.

    Example:
        >>> convert("hazyresearch/JRT-360M-30B", "jrt-360m/").mixers.count("prefix")
        5
    """
    folder = Path(out).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidOptionError(f"{folder} is there already.", "Pass a new or an empty folder.")
    words = None if tokenizer is None else tokenizer_of(tokenizer)
    model, report = load_released(source, padding=padding, sliding_window=sliding_window, revision=revision)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
    try:
        model.save_pretrained(part)
        if words is not None:
            words.save_pretrained(part)
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return report


def tokenizer_of(name: str) -> Any:
    """The tokenizer `name`, a Hub id or folder.

    Raises:
        HubUnavailableError: it cannot be had.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise HubUnavailableError(
            f"The tokenizer {name} cannot be had: {str(error).split(chr(10), 1)[0]}",
            "Pass the folder of a GPT-2 tokenizer, or write none and keep the tokenizer yourself.",
        ) from error
