"""What a user installs: the sdist and the wheel hold every module and data file, and work away from the source tree."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tarfile
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple

import pytest

IN_THE_SOURCE_TREE = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "MANIFEST.in", "constraints.txt")
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


class Builds(NamedTuple):
    """The two files that are published, and the folders that they were installed to."""

    sdist: Path
    wheel: Path
    from_sdist: Path
    from_wheel: Path


def build(kind: str, tree: Path, destination: Path) -> Path:
    """Call setuptools as a build front end does, without a network, in `tree`."""
    destination.mkdir()
    subprocess.run(
        [sys.executable, "-c", BUILD, f"build_{kind}", str(destination)], cwd=tree, check=True, capture_output=True
    )
    (file,) = destination.iterdir()
    return file


def install(wheel: Path, target: Path) -> Path:
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*command, "--target", str(target), str(wheel)], check=True, capture_output=True)
    return target


@pytest.fixture(scope="module")
def builds(root: Path, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Builds:
    """Built once, from a copy: a build leaves files in the source tree, and a second worker may build too."""
    work = tmp_path_factory.mktemp("build")
    tree = work / "tree"
    junk = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*_cache")
    for folder in folders.values():
        shutil.copytree(folder, tree / folder.name, ignore=junk)
    for name in IN_THE_SOURCE_TREE:
        shutil.copy(root / name, tree)
    sdist = build("sdist", tree, work / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(work / "unpacked", filter="data")
    (unpacked,) = (work / "unpacked").iterdir()
    wheel = build("wheel", tree, work / "wheel")
    second_wheel = build("wheel", unpacked, work / "second_wheel")
    return Builds(sdist, wheel, install(second_wheel, work / "from_sdist"), install(wheel, work / "from_wheel"))


def expected_files(folders: dict[str, Path]) -> set[str]:
    """Every file of the source but what only a reader of the repository needs: documents, pictures and results."""
    return {
        str(Path(*package.split(".")) / file.relative_to(folder))
        for package, folder in folders.items()
        for file in folder.rglob("*")
        if file.is_file()
        and file.suffix not in (".md", ".png", ".pyc")
        and not {"results", "__pycache__"} & set(file.relative_to(folder).parts)
    }


@pytest.mark.parametrize("which", ["from_sdist", "from_wheel"])
def test_every_module_and_data_file_is_installed(builds: Builds, folders: dict[str, Path], which: str) -> None:
    target: Path = getattr(builds, which)
    installed = {str(file.relative_to(target)) for file in (target / "jrt").rglob("*") if file.is_file()}
    missing = expected_files(folders) - installed
    assert not missing
    assert {"jrt/kernels/__init__.py", "jrt/checkpoints/tiny-recurrent/model.safetensors"} <= installed


@pytest.mark.parametrize(
    ("which", "code"),
    [
        ("from_sdist", "import jrt, jrt.evals, jrt.kernels, jrt.cli.app; print(jrt.JRTPrompt(passes=3).model_dump())"),
        ("from_wheel", "import jrt, jrt.evals, jrt.kernels, jrt.adapters; print(jrt.JRTPrompt(passes=3).model_dump())"),
    ],
)
def test_it_works_from_another_folder(builds: Builds, run_python, tmp_path: Path, which: str, code: str) -> None:
    """`-S` leaves out the path files of the environment, so that the editable installation cannot stand in."""
    target = str(getattr(builds, which))
    before = f"import sys; sys.path[:0] = [{target!r}]; sys.path.append({sysconfig.get_path('purelib')!r})\n"
    after = (
        "\nours = [module.__file__ for name, module in sys.modules.items() if name.split('.')[0] == 'jrt']"
        f"\nassert all(file.startswith({target!r}) for file in ours), ours"
    )
    assert "'passes': 3" in run_python("-S", "-P", "-c", before + code + after, cwd=tmp_path).stdout


@pytest.mark.parametrize("which", ["from_sdist", "from_wheel"])
def test_the_metadata(builds: Builds, pyproject: dict[str, Any], which: str) -> None:
    (distribution,) = distributions(path=[str(getattr(builds, which))])
    assert distribution.name == "just-read-twice"
    assert distribution.version == pyproject["project"]["version"]
    assert {(entry.name, entry.value) for entry in distribution.entry_points} == {("jrt", "jrt.cli:main")}
    assert {"triton", "cuda", "evals", "plot", "train", "dev"} <= set(distribution.metadata.get_all("Provides-Extra"))
    assert any(str(file).endswith("licenses/LICENSE") for file in distribution.files or ())
    assert "jrt.wrap" in distribution.metadata["Description"] or "jrt.load" in distribution.metadata["Description"]


def test_the_sdist_says_how_it_is_tested(builds: Builds) -> None:
    with tarfile.open(builds.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {*IN_THE_SOURCE_TREE} <= names


def test_the_wheel_is_small(builds: Builds) -> None:
    """The embedded checkpoints are tiny models: a forgotten large file would show here."""
    assert builds.wheel.stat().st_size < 12_000_000
