"""The models that come with the package, by name; nothing heavy is imported."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

PREFIX = "jrt/"


def embedded_models() -> list[str]:
    """The names of the models that come with the package."""
    return sorted(PREFIX + entry.name for entry in _folder().iterdir() if (entry / "config.json").is_file())


def embedded_folder(name: str) -> Path:
    """Where the files of an embedded model are."""
    return _folder() / name.removeprefix(PREFIX)


def _folder() -> Path:
    return Path(str(files("jrt.checkpoints")))
