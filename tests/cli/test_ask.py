"""`jrt ask` and `jrt read` print what the library answers, on a pipe, as JSON and at a terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from text import DOCUMENT, word_tokenizer

import jrt as library

QUESTION = "Where does Mira live?"
SHORT = ("--max-new-tokens", 6)


@pytest.fixture(scope="module")
def expected(mamba: Path) -> Any:
    """The library's answer for each number of passes."""

    def answer(document: Path, passes: int) -> str:
        reader = library.load(str(mamba), library.JRTPrompt(passes=passes))
        return reader.ask(document.read_text(), QUESTION, max_new_tokens=6)

    return answer


@pytest.mark.parametrize(("method", "passes"), [("once", 1), ("jrt_prompt:passes=3", 3), (None, 2)])
def test_prints_the_answer_alone(
    jrt: Callable[..., Any], mamba: Path, document: Path, expected: Any, method: str | None, passes: int
) -> None:
    chosen = ("--method", method) if method else ()
    result = jrt("ask", QUESTION, "--context", document, "--model", mamba, *SHORT, *chosen)
    assert (result.code, result.out, result.error) == (0, expected(document, passes) + "\n", "")


def test_without_a_model_the_embedded_one_answers(jrt: Callable[..., Any]) -> None:
    told = "Mira lives in Oslo. Tarek likes plums. Ana plays chess."
    assert jrt("ask", "What does Tarek like?", "--context", "-", stdin=told).out == "plums\n"


@pytest.mark.parametrize(("variable", "threads"), [(None, 1), ("2", 2)])
def test_small_models_run_on_one_thread_unless_told(
    jrt: Callable[..., Any], mamba: Path, document: Path, monkeypatch: pytest.MonkeyPatch, variable: Any, threads: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    torch.set_num_threads(2)
    try:
        assert jrt("ask", QUESTION, "-c", document, "-m", mamba, *SHORT).code == 0
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(1)


def test_reads_stdin(jrt: Callable[..., Any], mamba: Path, document: Path, expected: Any) -> None:
    windows = document.read_bytes().replace(b"\n", b"\r\n")
    result = jrt("ask", QUESTION, "-c", "-", "-m", mamba, *SHORT, stdin=b"\xef\xbb\xbf" + windows)
    assert result.out.strip() == expected(document, 2)


def test_json_is_one_document(jrt: Callable[..., Any], mamba: Path, document: Path, expected: Any) -> None:
    found = jrt("ask", QUESTION, "-c", document, "-m", mamba, *SHORT, "--json").json
    assert found["answer"] == expected(document, 2)
    assert found["methods"] == ["twice"]
    assert found["new_tokens"] == 6
    assert found["model"] == str(mamba)


def test_explain_shows_the_exact_prompt_and_does_not_run_the_model(
    jrt: Callable[..., Any], mamba: Path, document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import MambaForCausalLM

    def forward(*_: Any, **__: Any) -> None:
        raise AssertionError("the model ran")

    monkeypatch.setattr(MambaForCausalLM, "forward", forward)
    plan = library.JRTPrompt(passes=2).plan(document.read_text(), QUESTION)
    shown = jrt("ask", QUESTION, "-c", document, "-m", mamba, "--explain")
    assert (shown.code, shown.error) == (0, "")
    assert shown.out.startswith(plan.text + "\n")
    found = jrt("ask", QUESTION, "-c", document, "-m", mamba, "--explain", "--json").json
    assert found["prompt"] == plan.text
    assert found["fits"] is True


def test_a_saved_reading_answers_like_the_document(
    jrt: Callable[..., Any], mamba: Path, document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mamba.parent)
    made = jrt("read", document, "--out", tmp_path / "kept", "--model", "mamba", "--json").json
    reader = library.load(str(mamba), library.JRTPrompt(passes=2))
    assert made["tokens"] == reader.read(document.read_text()).num_tokens
    monkeypatch.chdir(tmp_path)  # the reading knows where its model is
    document.unlink()
    direct = reader.read(DOCUMENT).ask(QUESTION, max_new_tokens=6)
    assert jrt("ask", QUESTION, "--reading", "kept", *SHORT).out == direct + "\n"


def test_a_reading_is_asked_in_the_data_type_it_was_made_in(
    jrt: Callable[..., Any], mamba: Path, document: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    assert jrt("read", document, "-o", kept, "-m", mamba, "--dtype", "bfloat16", "--method", "once").code == 0
    assert jrt("ask", QUESTION, "-r", kept, *SHORT).code == 0
    refused = jrt("ask", QUESTION, "-r", kept, *SHORT, "--dtype", "float32")
    assert refused.code == 2
    assert "bfloat16" in refused.error


def test_read_replaces_a_reading_only_when_told(
    jrt: Callable[..., Any], mamba: Path, document: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    assert jrt("read", document, "-o", kept, "-m", mamba).code == 0
    before = (kept / "reading.json").read_bytes()
    refused = jrt("read", "-", "-o", kept, "-m", mamba, stdin="Ana likes figs.")
    assert (refused.code, (kept / "reading.json").read_bytes()) == (2, before)
    assert "--overwrite" in refused.error
    assert jrt("read", "-", "-o", kept, "-m", mamba, "--overwrite", stdin="Ana likes figs.").code == 0
    assert json.loads((kept / "reading.json").read_text())["num_tokens"] < json.loads(before)["num_tokens"]


def test_reading_shows_how_far_it_is(
    jrt: Callable[..., Any], mamba: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []

    @contextmanager
    def bar() -> Iterator[Any]:
        update = lambda _, completed, total: told.append((completed, total))  # noqa: E731
        yield SimpleNamespace(add_task=lambda name, total: 0, update=update)

    monkeypatch.setattr("jrt.cli.read.progress", bar)
    outcome = jrt("read", "-", "-o", tmp_path / "kept", "-m", mamba, "--method", "once", "--json", stdin="w50 " * 3000)
    tokens = outcome.json["tokens"]
    assert told == [(2048, tokens), (tokens, tokens)] and 3000 <= tokens < 4096


def test_nothing_is_left_behind_when_reading_fails(jrt: Callable[..., Any], llama: Path, tmp_path: Path) -> None:
    assert jrt("read", "-", "-o", tmp_path / "kept", "-m", llama, stdin="w50 " * 300).code == 2
    assert not (tmp_path / "kept").exists()


def test_a_terminal_gets_the_answer_as_it_is_made(mamba: Path, document: Path, expected: Any) -> None:
    main, side = pty.openpty()
    command = [sys.executable, "-m", "jrt.cli", "ask", QUESTION, "-c", str(document), "-m", str(mamba)]
    with subprocess.Popen([*command, "--max-new-tokens", "6"], stdout=side, stderr=subprocess.PIPE) as process:
        assert process.wait(timeout=120) == 0
        os.close(side)
    written = b""
    while chunk := _read(main):
        written += chunk
    os.close(main)
    assert written.decode().replace("\r\n", "\n").strip() == expected(document, 2)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux's way of saying that the other side is closed
        return b""


@pytest.mark.parametrize(
    ("pieces", "stop", "printed"),
    [
        (["\n ", "Os", "lo\n", "Question: "], "\n", "Oslo\n"),
        (["\n\n", "Oslo"], "\n", "Oslo\n"),
        (["a\n", "b"], None, "a\nb\n"),
    ],
)
def test_streams_what_the_answer_will_be(
    pieces: list[str], stop: str | None, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from jrt.answers import cut
    from jrt.cli.streaming import AnswerStreamer

    streamer = AnswerStreamer(word_tokenizer(), stop)
    for index, piece in enumerate(pieces):
        streamer.on_finalized_text(piece, stream_end=index == len(pieces) - 1)
    assert capsys.readouterr().out == printed == cut("".join(pieces), stop) + "\n"
