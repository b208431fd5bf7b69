"""Which file a task gets from `--data`."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import likes_rows, write_rows

from jrt.errors import InputNotFoundError, InvalidOptionError, UnknownNameError
from jrt.evals.sources import resolve_data
from jrt.evals.tasks.registry import parse_tasks

ROWS = likes_rows(2)
DOCUMENTS = [{"id": "K1", "context": "a whole document", "attributes": {"key": "value"}}]


def test_a_file_is_for_the_only_task(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "any name.jsonl", ROWS)
    assert resolve_data(parse_tasks(["squad"]), path) == {"squad": path}
    assert resolve_data(parse_tasks(["squad"]), [str(path)]) == {"squad": path}
    with pytest.raises(InvalidOptionError, match="one file for 2 tasks: squad, nq") as caught:
        resolve_data(parse_tasks(["squad", "nq"]), path)
    assert "--data squad=FILE --data nq=FILE" in caught.value.hint


def test_pairs_name_their_task(tmp_path: Path) -> None:
    one, other = write_rows(tmp_path / "a.jsonl", ROWS), write_rows(tmp_path / "b.jsonl.gz", ROWS)
    tasks = parse_tasks(["squad", "fda"])
    assert resolve_data(tasks, [f"squad={one}", f"fda={other}"]) == {"squad": one, "fda": other}
    assert resolve_data(tasks, {"squad": one}) == {"squad": one}
    assert resolve_data(tasks, [f"fda={other}", str(one)]) == {"squad": one, "fda": other}
    with pytest.raises(UnknownNameError, match=r"'sqaud'.*Did you mean 'squad'"):
        resolve_data(tasks, [f"sqaud={one}"])
    with pytest.raises(InvalidOptionError, match="two data files"):
        resolve_data(tasks, [f"fda={one}", f"fda={other}"])
    with pytest.raises(InvalidOptionError, match="Two paths"):
        resolve_data(tasks, [one, other])
    with pytest.raises(InputNotFoundError, match=r"nothing\.jsonl \(for the task fda\)"):
        resolve_data(tasks, [f"fda={tmp_path}/nothing.jsonl"])
    with pytest.raises(InputNotFoundError, match="no data file or folder"):
        resolve_data(tasks, tmp_path / "nothing")


def test_a_path_with_an_equals_sign_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "squad=1.jsonl", ROWS)
    assert resolve_data(parse_tasks(["squad"]), ["squad=1.jsonl"]) == {"squad": Path("squad=1.jsonl")}


def test_a_folder_is_searched_by_the_tasks_name(tmp_path: Path) -> None:
    squad = write_rows(tmp_path / "squad_v1_dev.jsonl.gz", ROWS)
    write_rows(tmp_path / "squadron.jsonl", ROWS)
    write_rows(tmp_path / "other.jsonl", ROWS)
    (tmp_path / "squad_notes.txt").write_text("no data")
    assert resolve_data(parse_tasks(["squad", "facts"]), tmp_path) == {"squad": squad}
    with pytest.raises(InputNotFoundError, match=r"no file for the task nq.*other\.jsonl"):
        resolve_data(parse_tasks(["squad", "nq"]), tmp_path)


def test_of_several_files_the_readable_one_is_taken(tmp_path: Path) -> None:
    right = write_rows(tmp_path / "fda_510k.jsonl.gz", ROWS)
    write_rows(tmp_path / "fda_510k_docs.jsonl.gz", DOCUMENTS)
    assert resolve_data(parse_tasks(["fda"]), tmp_path) == {"fda": right}
    second = write_rows(tmp_path / "fda_more.jsonl", ROWS)
    with pytest.raises(InvalidOptionError, match=f"2 files for the task fda: {right.name}, {second.name}"):
        resolve_data(parse_tasks(["fda"]), tmp_path)
    exact = write_rows(tmp_path / "fda.jsonl", ROWS)
    assert resolve_data(parse_tasks(["fda"]), tmp_path) == {"fda": exact}
    assert resolve_data(parse_tasks(["fda"]), [str(tmp_path), f"fda={second}"]) == {"fda": second}


def test_a_generated_task_takes_a_file_of_the_folder(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "kv_retrieval_75keys.jsonl", ROWS)
    assert resolve_data(parse_tasks(["kv_retrieval", "passkey"]), tmp_path) == {"kv_retrieval": path}


def test_no_data() -> None:
    assert resolve_data(parse_tasks(["squad", "fda"]), None) == {}
