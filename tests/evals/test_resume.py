"""A run folder whatever happens to its process: killed, cut in half, written twice, disk full, other settings."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeReader, likes_rows, write_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jrt.errors import DataFormatError, InvalidOptionError, WriteError
from jrt.evals import EvalResult, evaluate, load_result
from jrt.evals.run_folder import differences
from jrt.files import only_writer
from jrt.prompts import JRTPrompt

TASKS, METHODS = ["squad", "nq"], ["once", "twice"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_rows(tmp_path / "squad.jsonl", likes_rows(11))
    write_rows(tmp_path / "nq.jsonl", likes_rows(6))
    return tmp_path


def run(data: Path, out: Path | None, reader: FakeReader | None = None, **options: Any) -> EvalResult:
    options = {"tasks": TASKS, "methods": METHODS, "data": data, "command": "jrt eval", "out": out} | options
    return evaluate(reader or FakeReader(), **options)


def numbers(result: EvalResult) -> dict[str, Any]:
    return result.model_dump(exclude={"created"})


def without_seconds(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) | {"seconds": 0} for line in (folder / "samples.jsonl").read_text().splitlines()]


def in_any_order(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(row) for row in rows)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_run_killed_again_and_again_gives_the_same_numbers(data: Path, batch_size: int) -> None:
    whole = run(data, data / "whole", batch_size=batch_size)
    script = [sys.executable, str(Path(__file__).parent / "killed_run.py"), str(data), str(data / "out")]
    for kill_after in (3, 9):
        done = subprocess.run([*script, str(batch_size), str(kill_after)], capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
        assert not (data / "out" / "result.json").exists()
        with (data / "out" / "samples.jsonl").open("a") as file:
            file.write('{"task": "squad", "method": "on')  # what a process leaves that is killed while it writes
    reader = FakeReader()
    resumed = run(data, data / "out", reader, batch_size=batch_size)
    assert numbers(resumed) == numbers(whole) == numbers(load_result(data / "out"))
    assert in_any_order(without_seconds(data / "out")) == in_any_order(without_seconds(data / "whole"))
    assert 0 < sum(reader.batches) < 34 - 5  # only what was missing


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keep=st.floats(0, 1), batch_size=st.integers(1, 5))
def test_samples_cut_at_any_byte_give_the_same_numbers(data: Path, keep: float, batch_size: int) -> None:
    folder = data / f"cut-{batch_size}"
    whole = run(data, folder, batch_size=batch_size)
    samples = folder / "samples.jsonl"
    everything = samples.read_bytes()
    os.truncate(samples, int(keep * len(everything)))
    assert numbers(run(data, folder, batch_size=batch_size)) == numbers(whole)
    assert samples.read_bytes().splitlines().sort() == everything.splitlines().sort()
    assert sorted(samples.read_bytes().splitlines()) == sorted(everything.splitlines())


def test_a_finished_run_is_not_run_again(data: Path) -> None:
    first = run(data, data / "out")
    reader = FakeReader()
    seen: list[Any] = []
    assert numbers(run(data, data / "out", reader, progress=seen.append)) == numbers(first)
    assert reader.batches == [] and seen[0].resumed == seen[0].done == seen[0].total == 34


def test_an_interrupted_run_leaves_whole_lines(data: Path) -> None:
    def answer(plan: Any, method: JRTPrompt) -> str:
        if "thing7" in plan.text:
            raise KeyboardInterrupt
        return "thing1"

    with pytest.raises(KeyboardInterrupt):
        run(data, data / "out", FakeReader(answer))
    assert len(without_seconds(data / "out")) == 7
    assert run(data, data / "out").scores  # the lock is free


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1, "limit": 5}, ["limit is nothing there and 5 here", "seed is 0 there and 1 here"]),
        ({"max_new_tokens": 8}, ["max_new_tokens is 48 there and 8 here"]),
        ({"batch_size": 2}, ["batch_size is 1 there and 2 here"]),
        ({"methods": ["once", "repeat"]}, ["methods[1].label is twice there and repeat here"]),
        ({"methods": ["once"]}, ["methods is once,twice there and once here"]),
        ({"tasks": ["squad"]}, ["tasks is squad,nq there and squad here"]),
        ({"context_length": 500}, ["context_length is nothing there and 500 here"]),
        ({"reader": FakeReader(name="other")}, ["model.name is fake there and other here"]),
        ({"reader": FakeReader(revision="abc")}, ["model.revision is nothing there and abc here"]),
    ],
)
def test_another_run_is_refused_with_the_reason(data: Path, change: dict[str, Any], said: list[str]) -> None:
    run(data, data / "out")
    reader = change.pop("reader", FakeReader())
    before = (data / "out" / "samples.jsonl").read_bytes()
    with pytest.raises(InvalidOptionError, match="other settings") as caught:
        run(data, data / "out", reader, **change)
    for words in said:
        assert words in str(caught.value)
    assert reader.batches == [] and (data / "out" / "samples.jsonl").read_bytes() == before


def test_changed_data_and_versions_are_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(data, data / "out")
    rows = likes_rows(11)
    rows[4]["context"] += " More."
    write_rows(data / "squad.jsonl", rows)
    with pytest.raises(InvalidOptionError, match=r"tasks\[0\].sha256"):
        run(data, data / "out")
    write_rows(data / "squad.jsonl", likes_rows(11))
    monkeypatch.setattr("jrt.__version__", "99")
    with pytest.raises(InvalidOptionError, match=r"versions.jrt is 0.* there and 99 here"):
        run(data, data / "out")


def test_changed_weights_are_refused(data: Path) -> None:
    import torch

    class Model(torch.nn.Linear):
        dtype = torch.float32

    class OnCPU(FakeReader):
        device = torch.device("cpu")

        def with_methods(self, *methods: Any) -> FakeReader:
            return FakeReader(methods=methods)

    torch.manual_seed(0)
    run(data, data / "out", OnCPU(model=Model(3, 3)))
    with pytest.raises(InvalidOptionError, match=r"model.fingerprint.weights"):
        run(data, data / "out", OnCPU(model=Model(3, 3)))


def test_changed_prompts_are_refused(data: Path) -> None:
    run(data, data / "out")
    samples = data / "out" / "samples.jsonl"
    lines = samples.read_text().splitlines()
    row = json.loads(lines[2]) | {"prompt_sha256": "0" * 64}
    samples.write_text("\n".join([*lines[:2], json.dumps(row), *lines[3:]]) + "\n")
    with pytest.raises(InvalidOptionError, match="another prompt for item 'row-2' of squad by once"):
        run(data, data / "out")


def test_a_broken_line_inside_is_named(data: Path) -> None:
    run(data, data / "out")
    samples = data / "out" / "samples.jsonl"
    lines = samples.read_text().splitlines()
    samples.write_text("\n".join([*lines[:4], lines[4][:40], *lines[5:]]) + "\n")
    with pytest.raises(DataFormatError, match=r"samples\.jsonl, line 5"):
        run(data, data / "out")


def test_folders_that_hold_something_else(data: Path) -> None:
    run(data, data / "out")
    settings_file = data / "out" / "run.json"
    settings_file.write_text(settings_file.read_text()[:100])
    with pytest.raises(DataFormatError, match=r"run\.json holds no settings"):
        run(data, data / "out")
    settings_file.unlink()
    with pytest.raises(InvalidOptionError, match=r"samples without run\.json"):
        run(data, data / "out")
    with pytest.raises(WriteError, match="cannot be made"):
        run(data, data / "squad.jsonl" / "out")


def test_two_writers_are_refused(data: Path) -> None:
    (data / "out").mkdir()
    with only_writer(data / "out"), pytest.raises(InvalidOptionError, match="Another process is writing"):
        run(data, data / "out")
    assert run(data, data / "out").scores


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Makes every file fail to grow beyond `size` bytes, as on a full disk: the last write is a partial one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_whole_lines_and_the_run_goes_on(data: Path) -> None:
    whole = run(data, data / "whole")
    size = (data / "whole" / "run.json").stat().st_size
    with largest_file(size + 100), pytest.raises(WriteError, match="could not be written") as caught:
        run(data, data / "out")
    assert "run the same command again" in caught.value.hint
    content = (data / "out" / "samples.jsonl").read_bytes()
    assert content.endswith(b"\n") and 0 < len(without_seconds(data / "out")) < 34
    assert numbers(run(data, data / "out")) == numbers(whole)


def test_a_full_disk_at_the_end_leaves_the_samples(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(data, data / "whole")
    result = (data / "whole" / "result.json").stat().st_size
    (data / "out").mkdir()
    samples = (data / "whole" / "samples.jsonl").stat().st_size
    monkeypatch.setattr(EvalResult, "to_json", lambda self: " " * (samples + result))
    with largest_file(samples + 100), pytest.raises(WriteError, match=r"result\.json could not be written"):
        run(data, data / "out")
    assert sorted(path.name for path in (data / "out").iterdir()) == ["run.json", "samples.jsonl"]
    monkeypatch.undo()
    assert numbers(run(data, data / "out")) == numbers(whole)


def test_differences_are_named_by_their_path() -> None:
    there = {"a": {"b": 1, "c": [1, 2]}, "d": None}
    assert differences(there, there) == []
    assert differences(there, {"a": {"b": 2, "c": [1, 3]}, "d": "x", "e": 5}) == [
        "a.b is 1 there and 2 here",
        "a.c[1] is 2 there and 3 here",
        "d is nothing there and x here",
        "e is nothing there and 5 here",
    ]
