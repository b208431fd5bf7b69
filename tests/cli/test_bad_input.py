"""Every bad input has its own message, its hint and its exit code, and nothing on stdout."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jrt.cli.readers import go_offline_without_network

Run = Callable[..., Any]
Q = "Where does Mira live?"


def refused(result: Any, *phrases: str, code: int = 2) -> None:
    """One panel on stderr that says all `phrases`, nothing on stdout."""
    assert result.code == code, result.error
    assert result.out == ""
    assert result.error.count(" Try: ") <= 1
    for phrase in phrases:
        assert phrase in result.error


@pytest.mark.parametrize(
    ("arguments", "phrases"),
    [
        (["ask", "  ", "-c", "x.txt"], ["The question is empty."]),
        (["ask", Q], ["--context FILE or --reading DIR", "neither"]),
        (["ask", Q, "-c", "x.txt", "-r", "kept"], ["not both"]),
        (["ask", Q, "-c", "missing.txt"], ["There is no file missing.txt", "Try: check the path"]),
        (["ask", Q, "-r", "missing"], ["There is no reading in missing", "Try: jrt read FILE --out missing"]),
        (["ask", Q, "-r", "kept", "--explain"], ["--explain does not go with --reading"]),
        (["ask", Q, "-r", "kept", "--system", "Be brief."], ["--system does not go with --reading"]),
        (["ask", Q, "-c", "x.txt", "--method", "twise"], ["no method 'twise'", "Did you mean 'twice'"]),
        (["ask", Q, "-c", "x.txt", "--method", "jrt_prompt:pases=2"], ["no option 'pases'", "Did you mean 'passes'"]),
        (["ask", Q, "-c", "x.txt", "--max-new-tokens", "0"], ["--max-new-tokens", "greater than or equal to 1"]),
        (["ask", Q, "--contxt", "x.txt"], ["no option '--contxt'", "Did you mean '--context'", "Try: jrt ask --help"]),
        (["ask"], ["Missing argument", "Try: jrt ask --help"]),
        (["aks", Q], ["'aks'", "Did you mean 'ask'"]),
        (["read", "missing.txt", "-o", "kept"], ["There is no file missing.txt"]),
        (["eval", "--tasks", "squadd"], ["no task 'squadd'", "Did you mean 'squad'"]),
        (["eval", "--tasks", "facts:num_fact=3"], ["num_fact", "Did you mean 'num_facts'"]),
        (["eval", "--methods", "once,twise"], ["no method 'twise'", "Did you mean 'twice'"]),
        (["eval", "--methods", "once,once"], ["are the same"]),
        (["eval", "--plot"], ["--plot", "Try: add --out DIR"]),
        (["eval", "--data", "missing.jsonl"], ["missing.jsonl"]),
        (["doctor", "--markdown"], ["--architectures"]),
        (["doctor", "x/y", "--architectures"], ["takes no model"]),
        (["doctor", "jrt/tiny-recurent"], ["no embedded model 'jrt/tiny-recurent'"]),
        (["doctor", "./missing"], ["There is no model folder ./missing"]),
        (["doctor", "missing/"], ["There is no model folder missing/"]),
        (["ls", "task"], ["no list of 'task'", "Did you mean 'tasks'"]),
        (["bench", "genrate"], ["no benchmark 'genrate'", "Did you mean 'generate'"]),
    ],
)
def test_what_is_typed_wrong(
    jrt: Run, tmp_path: Path, monkeypatch: Any, arguments: list[str], phrases: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.txt").write_text("Mira lives in Oslo.")
    refused(jrt(*arguments), *phrases)


@pytest.mark.parametrize(
    ("content", "phrases"),
    [
        (b"", ["is empty"]),
        (b" \n\t\n", ["is empty"]),
        (b"Mira lives\nin K\xf6ln.", ["no UTF-8 text: byte 0xf6 in line 2", "iconv"]),
        (b"%PDF-1.7 ...", ["is a PDF", "pdftotext"]),
        (b"a\0b", ["NUL bytes"]),
    ],
)
def test_what_is_no_text(jrt: Run, tmp_path: Path, content: bytes, phrases: list[str]) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(content)
    refused(jrt("ask", Q, "-c", path), "x.txt", *phrases)
    refused(jrt("read", "-", "-o", tmp_path / "kept", stdin=content), "stdin", *phrases)


def test_a_folder_where_a_file_belongs(jrt: Run, tmp_path: Path) -> None:
    refused(jrt("ask", Q, "-c", tmp_path), "is a folder")


def test_folders_that_cannot_be_written(jrt: Run, document: Path, tmp_path: Path, monkeypatch: Any) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "letter.txt").write_text("mine")
    for command in (["read", document], ["eval"]):
        refused(jrt(*command, "-o", full), "is not empty", "letter.txt")
        refused(jrt(*command, "-o", document / "below"), "notes.txt is a file")
        with monkeypatch.context() as patch:
            patch.setattr(os, "access", lambda *_: False)
            refused(jrt(*command, "-o", tmp_path / "new"), "Nothing can be written into")
    assert (full / "letter.txt").read_text() == "mine"


@pytest.mark.parametrize("option", [("--device", "gpu"), ("--dtype", "float31")])
def test_devices_and_data_types(jrt: Run, document: Path, mamba: Path, option: tuple[str, str]) -> None:
    refused(jrt("ask", Q, "-c", document, "-m", mamba, *option), option[1])


def test_a_system_turn_without_a_chat_template(jrt: Run, document: Path, mamba: Path) -> None:
    refused(jrt("ask", Q, "-c", document, "-m", mamba, "--system", "Be brief."), "no system turn")


def test_a_context_longer_than_the_model_reads(jrt: Run, llama: Path) -> None:
    result = jrt("ask", Q, "-c", "-", "-m", llama, stdin="w50 " * 300)
    refused(result, "reads at most 256 tokens", "the context is 300 tokens", "at most 88 tokens")


def test_a_tokenizer_without_a_pad_token(jrt: Run, save_model: Run, tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", "mamba", pad=False)
    short = ("--limit", "4", "--max-new-tokens", "2", "--methods", "once", "--tasks", "facts:num_facts=2")
    assert jrt("eval", "-m", model, *short).code == 0
    data = tmp_path / "facts.jsonl"
    rows = [{"id": str(i), "context": "Mira lives in Oslo. " * i, "question": Q, "answers": ["Oslo"]} for i in (1, 2)]
    data.write_text("\n".join(map(json.dumps, rows)))
    result = jrt("eval", "-m", model, "--data", data, "--max-new-tokens", "2", "--batch-size", "2", "--methods", "once")
    refused(result, "no padding token", "tokenizer.pad_token")


def test_a_reading_of_another_model(jrt: Run, document: Path, mamba: Path, llama: Path, tmp_path: Path) -> None:
    assert jrt("read", document, "-o", tmp_path / "kept", "-m", mamba).code == 0
    refused(jrt("ask", Q, "-r", tmp_path / "kept", "-m", llama), "MambaForCausalLM", "LlamaForCausalLM")
    refused(jrt("ask", Q, "-r", tmp_path / "kept", "--method", "once"), "its methods are")


def test_a_reading_whose_model_has_moved(jrt: Run, save_model: Run, document: Path, tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", "mamba")
    assert jrt("read", document, "-o", tmp_path / "kept", "-m", model).code == 0
    model.rename(tmp_path / "moved")
    refused(jrt("ask", Q, "-r", tmp_path / "kept"), "belongs to the model", "--model")
    assert jrt("ask", Q, "-r", tmp_path / "kept", "-m", tmp_path / "moved", "--max-new-tokens", "2").code == 0


def test_a_reading_that_was_truncated_or_changed(jrt: Run, document: Path, mamba: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    assert jrt("read", document, "-o", kept, "-m", mamba).code == 0
    state = next(kept.glob("state-*"))
    whole, manifest = state.read_bytes(), (kept / "reading.json").read_text()
    state.write_bytes(whole[:-100])
    refused(jrt("ask", Q, "-r", kept), "truncated or was changed")
    state.write_bytes(whole)
    (kept / "reading.json").write_text(manifest.replace('"num_tokens": ', '"num_tokens": 1'))
    refused(jrt("ask", Q, "-r", kept), "checksum")
    (kept / "reading.json").write_text(manifest[:-50])
    refused(jrt("ask", Q, "-r", kept), "truncated or no JSON")


def test_a_data_file_with_a_broken_line(jrt: Run, mamba: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    good = json.dumps({"id": "1", "context": "Mira lives in Oslo.", "question": Q, "answers": ["Oslo"]})
    path.write_text(f"{good}\n{good[:-9]}\n")
    refused(jrt("eval", "-m", mamba, "--tasks", "squad", "--data", path), "line 2")


def test_no_network(jrt: Run, document: Path, mamba: Path) -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    refused(jrt("ask", Q, "-c", document, "-m", "nobody/nothing"), "nobody/nothing", "Hub", "Try: check", code=3)


def test_goes_offline_at_once_when_the_hub_cannot_be_reached(monkeypatch: Any) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("HF_HUB_OFFLINE", "")
        go_offline_without_network()  # nobody listens yet
        assert os.environ["HF_HUB_OFFLINE"] == "1"
        monkeypatch.setenv("HF_HUB_OFFLINE", "")
        server.listen()
        go_offline_without_network()
        assert os.environ["HF_HUB_OFFLINE"] == ""


def test_an_unexpected_error_is_a_panel_and_a_traceback_only_when_asked(
    jrt: Run, document: Path, mamba: Path, monkeypatch: Any
) -> None:
    from jrt.reader import Reader

    def answer(*_: Any, **__: Any) -> None:
        raise RuntimeError("the sky fell")

    monkeypatch.setattr(Reader, "answer", answer)
    result = jrt("ask", Q, "-c", document, "-m", mamba)
    refused(result, "RuntimeError: the sky fell", "--debug", code=1)
    assert "Traceback" not in result.error
    assert "Traceback" in jrt("ask", Q, "-c", document, "-m", mamba, "--debug").error
    monkeypatch.setenv("JRT_DEBUG", "1")
    assert "Traceback" in jrt("ask", Q, "-c", document, "-m", mamba).error


def test_a_full_disk(jrt: Run, document: Path, mamba: Path, tmp_path: Path, monkeypatch: Any) -> None:
    import errno

    def full(self: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "mkdir", full)
    refused(jrt("read", document, "-o", tmp_path / "kept", "-m", mamba), "No space left on device")
