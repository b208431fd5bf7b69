"""Which local file belongs to which task: what `--data` means.

- `squad=FILE` gives one task its file; any number of them.
- a file alone is for the only task that is evaluated.
- a folder is searched (not its sub-folders) for `.jsonl` and `.jsonl.gz` files. A file belongs to a task when its name
  is the task's name, or begins with it and `_`, `-` or `.`. `squad.jsonl` wins over `squad_dev.jsonl`; of several
  others those count whose first row the task can read, and if that leaves more than one, the choice is yours.

A task without a file uses its own source if it is generated; a recall task is then an error, because whoever names a
folder does not want a download.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jrt.errors import DataFormatError, InputNotFoundError, InvalidOptionError, UnknownNameError, did_you_mean
from jrt.evals.items import read_items
from jrt.evals.tasks.base import Task

Data = str | Path | Mapping[str, str | Path] | Sequence[str | Path]
SUFFIXES = (".jsonl.gz", ".jsonl")


def resolve_data(tasks: Sequence[Task], data: Data | None) -> dict[str, Path]:
    """The file of every task that has one, by the task's name.

    Args:
        tasks: what is evaluated.
        data: a file, a folder, a mapping of task name to file, or a list of `name=FILE` and at most one path.

    Raises:
        InputNotFoundError: the path, or the file of a task in the folder, is not there.
        InvalidOptionError: one file for several tasks, or several candidates for one.
        UnknownNameError: a file is given for a task that is not evaluated.
    """
    files, path = _split(data)
    names = list(dict.fromkeys(task.name for task in tasks))
    for name, file in files.items():
        if name not in names:
            raise UnknownNameError(
                f"A data file is given for {name!r}, which is not evaluated.{did_you_mean(name, names)}"
            )
        if not file.is_file():
            raise InputNotFoundError(f"There is no data file {file} (for the task {name}).", "Check the path.")
    if path is None:
        return files
    if path.is_dir():
        found = {task.name: _in_folder(task, path) for task in tasks if task.name not in files}
        return files | {name: file for name, file in found.items() if file is not None}
    if not path.is_file():
        raise InputNotFoundError(f"There is no data file or folder {path}.", "Check the path.")
    left = [name for name in names if name not in files]
    if len(left) != 1:
        raise InvalidOptionError(
            f"{path} is one file for {len(left)} tasks: {', '.join(left)}.",
            "Say whose it is: --data " + " --data ".join(f"{name}=FILE" for name in left or names) + ".",
        )
    return files | {left[0]: path}


def _split(data: Data | None) -> tuple[dict[str, Path], Path | None]:
    """`data` as files by task and one path that is for no task in particular."""
    if data is None:
        return {}, None
    if isinstance(data, Mapping):
        return {name: Path(file).expanduser() for name, file in data.items()}, None
    files: dict[str, Path] = {}
    path: Path | None = None
    for value in [data] if isinstance(data, str | Path) else data:
        name, equals, file = str(value).partition("=")
        if equals and name.isidentifier() and not Path(value).exists():
            if name in files:
                raise InvalidOptionError(f"The task {name} is given two data files.", "Give it one.")
            files[name] = Path(file).expanduser()
        elif path is not None:
            raise InvalidOptionError(f"Two paths are given as data: {path} and {value}.", "Write task=FILE for each.")
        else:
            path = Path(value).expanduser()
    return files, path


def _in_folder(task: Task, folder: Path) -> Path | None:
    """The file of a task in a folder; None where the task needs none."""
    files = sorted(file for file in folder.iterdir() if file.name.endswith(SUFFIXES) and file.is_file())
    candidates = [file for file in files if _stem(file) == task.name]
    candidates = candidates or [file for file in files if _stem(file).startswith(tuple(task.name + c for c in "_-."))]
    if len(candidates) > 1:
        candidates = [file for file in candidates if _readable(task, file)] or candidates
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise InvalidOptionError(
            f"{folder} has {len(candidates)} files for the task {task.name}: "
            f"{', '.join(file.name for file in candidates)}.",
            f"Choose one: --data {task.name}={candidates[0]}.",
        )
    if task.source.startswith("hub:"):
        raise InputNotFoundError(
            f"{folder} has no file for the task {task.name}: none is called {task.name}*.jsonl or "
            f"{task.name}*.jsonl.gz among {', '.join(file.name for file in files) or 'its files'}.",
            f"Name it: --data {task.name}=FILE.",
        )
    return None


def _stem(file: Path) -> str:
    return next(file.name.removesuffix(suffix) for suffix in SUFFIXES if file.name.endswith(suffix))


def _readable(task: Task, file: Path) -> bool:
    """Whether the task can read the first row."""
    try:
        next(read_items(file, task.item))
    except DataFormatError:
        return False
    return True
