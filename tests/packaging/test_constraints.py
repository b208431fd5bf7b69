"""constraints.txt names every package that `pip install -e ".[dev]"` brings, so that nothing comes in untested."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# setuptools builds and runs nothing of ours; a CUDA build of torch brings NVIDIA's packages, which it pins itself.
NOT_PINNED = ("just-read-twice", "setuptools", "nvidia-", "cuda-")


Asked = set[tuple[str, frozenset[str]]]


def own_requirements(pyproject: dict[str, Any]) -> list[str]:
    """What pyproject.toml asks for, in the form of `importlib.metadata`: what is installed may be older."""
    project = pyproject["project"]
    extras = project["optional-dependencies"].items()
    return project["dependencies"] + [
        f"{line} {'and' if ';' in line else ';'} extra == '{extra}'" for extra, lines in extras for line in lines
    ]


def installed_with(name: str, extras: frozenset[str], asked: Asked, own: list[str]) -> set[str]:
    """The names of all that `name[extras]` asks for on this machine, itself included."""
    if (name, extras) in asked:
        return set()
    asked.add((name, extras))
    try:
        lines = own if name == "just-read-twice" else requires(name) or []
    except PackageNotFoundError:
        return {name}
    found = {name}
    for line in lines:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in (extras or {""})):
            found |= installed_with(canonicalize_name(requirement.name), frozenset(requirement.extras), asked, own)
    return found


def constraints(root: Path) -> dict[str, Requirement]:
    lines = (root / "constraints.txt").read_text().splitlines()
    parsed = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert len({canonicalize_name(each.name) for each in parsed}) == len(parsed)
    return {canonicalize_name(each.name): each for each in parsed}


def test_everything_installed_is_named(root: Path, pyproject: dict[str, Any]) -> None:
    needed = installed_with("just-read-twice", frozenset({"dev"}), set(), own_requirements(pyproject))
    assert {"torch", "transformers", "pytest", "ruff", "datasets", "gguf", "sympy"} <= needed
    missing = {name for name in needed if not name.startswith(NOT_PINNED)} - set(constraints(root))
    assert not missing


def test_each_is_one_version(root: Path) -> None:
    """Triton alone has a range: see the head of the file."""
    ranges = {name for name, each in constraints(root).items() if [s.operator for s in each.specifier] != ["=="]}
    assert ranges == {"triton"}


def test_the_tested_versions_satisfy_the_package(root: Path, pyproject: dict[str, Any]) -> None:
    pinned = constraints(root)
    for requirement in map(Requirement, own_requirements(pyproject)):
        name = canonicalize_name(requirement.name)
        versions = [s.version for s in pinned[name].specifier if s.operator != ">="] if name in pinned else []
        assert all(version in requirement.specifier for version in versions), f"{requirement}: {versions}"
