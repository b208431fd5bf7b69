"""pyproject.toml lists the packages by hand, since discovery does not know the mapping: the list equals the folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def packages_on_disk(folders: dict[str, Path]) -> set[str]:
    """The name of every folder that holds Python files or folders with some."""
    return {
        ".".join((package, *file.parent.relative_to(folder).parts))
        for package, folder in folders.items()
        for file in folder.rglob("*.py")
    }


def test_the_list_equals_the_folders(pyproject: dict[str, Any], folders: dict[str, Path]) -> None:
    listed = pyproject["tool"]["setuptools"]["packages"]
    assert len(listed) == len(set(listed))
    assert set(listed) == packages_on_disk(folders)


def test_every_package_has_an_init_file(folders: dict[str, Path]) -> None:
    missing = {
        file.parent
        for folder in folders.values()
        for file in folder.rglob("*.py")
        if not (file.parent / "__init__.py").is_file()
    }
    assert not missing


def test_no_mapped_folder_says_a_version(folders: dict[str, Path]) -> None:
    """transformers would read `__version__` in `kernels/` as the version of Hugging Face's package of that name."""
    assert not [
        name for name in folders if name != "jrt" and "__version__" in (folders[name] / "__init__.py").read_text()
    ]
