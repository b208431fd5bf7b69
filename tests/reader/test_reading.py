"""A kept reading answers as if everything had been read at once, and a saved one as if it had never been saved."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from text import DOCUMENT, word_tokenizer
from zoo import build

import jrt
from jrt.errors import (
    CorruptReadingError,
    EmptyInputError,
    InputNotFoundError,
    InvalidOptionError,
    StateMismatchError,
)

QUESTIONS = ["Where does Mira live?", "Who likes figs and plums?", "What is the capital of Norway?", "Who?"]
SHORT: dict[str, Any] = dict(max_new_tokens=6)


@pytest.mark.parametrize("passes", [1, 2])
def test_asking_a_reading_is_asking_the_whole_prompt(family: Any, tokenizer: Any, passes: int) -> None:
    method = jrt.JRTPrompt(passes, order="context_first")
    reader = jrt.wrap(family, method, tokenizer=tokenizer)
    reading = reader.read(DOCUMENT)
    expected = [reader.ask(DOCUMENT, question, **SHORT) for question in QUESTIONS]
    assert [reading.ask(question, **SHORT) for question in QUESTIONS] == expected
    assert reading.ask_many(QUESTIONS, **SHORT) == expected
    assert reader.ask_many(DOCUMENT, QUESTIONS, **SHORT) == expected
    assert reading.num_tokens == len(tokenizer(method.reading_plan(DOCUMENT).text)["input_ids"])


def test_a_chat_reading_answers_like_ask(llama: Any, chat_tokenizer: Any) -> None:
    reader = jrt.wrap(llama, jrt.JRTPrompt(2, order="context_first"), tokenizer=chat_tokenizer)
    reading = reader.read(DOCUMENT, system="Be brief")
    expected = [reader.ask(DOCUMENT, question, system="Be brief", **SHORT) for question in QUESTIONS]
    assert reading.ask_many(QUESTIONS, **SHORT) == expected


def test_question_first_becomes_context_first(mamba: Any, tokenizer: Any) -> None:
    twice = jrt.wrap(mamba, jrt.JRTPrompt(2), tokenizer=tokenizer)
    kept = jrt.wrap(mamba, jrt.JRTPrompt(2, order="context_first"), tokenizer=tokenizer)
    assert twice.ask_many(DOCUMENT, QUESTIONS, **SHORT) == kept.ask_many(DOCUMENT, QUESTIONS, **SHORT)


def test_appending_is_reading_on(family: Any, tokenizer: Any) -> None:
    reader = jrt.wrap(family, tokenizer=tokenizer)
    reading = reader.read("Mira lives in Oslo.")
    reading.append("Ana likes figs.")
    whole = reader.read("Mira lives in Oslo.\nAna likes figs.")
    assert reading.num_tokens == whole.num_tokens
    assert reading.ask_many(QUESTIONS, **SHORT) == whole.ask_many(QUESTIONS, **SHORT)


def test_appended_text_is_read_as_often_as_the_document(mamba: Any, tokenizer: Any) -> None:
    reading = jrt.wrap(mamba, jrt.JRTPrompt(2), tokenizer=tokenizer).read("Mira lives in Oslo.")
    reading.append("Ana likes figs.")
    text = "Mira lives in Oslo.\nMira lives in Oslo.\nAna likes figs.\nAna likes figs."
    once = jrt.wrap(mamba, tokenizer=tokenizer).read(text)
    assert reading.ask_many(QUESTIONS, **SHORT) == once.ask_many(QUESTIONS, **SHORT)


def test_a_fork_goes_its_own_way(family: Any, tokenizer: Any) -> None:
    reader = jrt.wrap(family, tokenizer=tokenizer)
    reading = reader.read(DOCUMENT)
    before = reading.ask_many(QUESTIONS, **SHORT)
    fork = reading.fork()
    fork.append("Tarek likes plums.")
    assert reading.ask_many(QUESTIONS, **SHORT) == before
    assert fork.num_tokens > reading.num_tokens


def test_two_readers_on_one_model_do_not_disturb_each_other(mamba: Any, tokenizer: Any) -> None:
    once, twice = jrt.wrap(mamba, tokenizer=tokenizer), jrt.wrap(mamba, jrt.JRTPrompt(2), tokenizer=tokenizer)
    first = once.read(DOCUMENT)
    expected = first.ask(QUESTIONS[0], **SHORT)
    second = twice.read("Ana likes figs.")
    second.ask(QUESTIONS[0], **SHORT)
    assert first.ask(QUESTIONS[0], **SHORT) == expected


def test_an_interrupted_append_leaves_the_reading_as_it_was(
    mamba: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = jrt.wrap(mamba, tokenizer=tokenizer).read(DOCUMENT)
    before, tokens = reading.ask(QUESTIONS[0], **SHORT), reading.num_tokens

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("jrt.reading.advance", interrupted)
        reading.append("Ana likes figs.")
    assert (reading.num_tokens, reading.ask(QUESTIONS[0], **SHORT)) == (tokens, before)


def test_empty_input(mamba: Any, tokenizer: Any) -> None:
    reading = jrt.wrap(mamba, tokenizer=tokenizer).read(DOCUMENT)
    for empty in (lambda: reading.ask("  "), lambda: reading.ask_many([]), lambda: reading.append("\n")):
        with pytest.raises(EmptyInputError):
            empty()
    with pytest.raises(InvalidOptionError, match="list of questions"):
        reading.ask_many("Who?")


def test_saving_and_loading(family: Any, tokenizer: Any, tmp_path: Path) -> None:
    reader = jrt.wrap(family, jrt.JRTPrompt(2), tokenizer=tokenizer)
    reading = reader.read(DOCUMENT)
    folder = reading.save(tmp_path / "deep" / "galileo")
    loaded = jrt.Reading.load(folder, reader)
    assert loaded.ask_many(QUESTIONS, **SHORT) == reading.ask_many(QUESTIONS, **SHORT)
    assert (loaded.num_tokens, loaded.nbytes) == (reading.num_tokens, reading.nbytes)
    loaded.append("Ana likes figs.")
    loaded.save(folder)
    assert jrt.Reading.load(folder, reader).num_tokens == loaded.num_tokens
    assert len(list(folder.glob("*.safetensors"))) == 1, "the replaced state must not stay"


@pytest.fixture
def saved(mamba: Any, tokenizer: Any, tmp_path: Path) -> tuple[Any, Path]:
    reader = jrt.wrap(mamba, tokenizer=tokenizer)
    return reader, reader.read(DOCUMENT).save(tmp_path / "reading")


def test_another_model_is_refused_with_the_reason(saved: tuple[Any, Path], llama: Any, tokenizer: Any) -> None:
    _, folder = saved
    with pytest.raises(StateMismatchError, match="class is MambaForCausalLM, this model's is LlamaForCausalLM"):
        jrt.Reading.load(folder, jrt.wrap(llama, tokenizer=tokenizer))
    with pytest.raises(StateMismatchError, match="weights"):
        jrt.Reading.load(folder, jrt.wrap(build("mamba", seed=1), tokenizer=tokenizer))
    with pytest.raises(StateMismatchError, match=r"dtype is torch.float32, this model's is torch.bfloat16"):
        jrt.Reading.load(folder, jrt.wrap(build("mamba", torch.bfloat16), tokenizer=tokenizer))


def test_another_tokenizer_or_method_is_refused(saved: tuple[Any, Path], mamba: Any, tokenizer: Any) -> None:
    _, folder = saved
    with pytest.raises(StateMismatchError, match="tokenizer is another"):
        jrt.Reading.load(folder, jrt.wrap(mamba, tokenizer=word_tokenizer(size=100)))
    with pytest.raises(StateMismatchError, match=r"its methods are none, this reader's are .*passes"):
        jrt.Reading.load(folder, jrt.wrap(mamba, jrt.JRTPrompt(2), tokenizer=tokenizer))


def test_a_truncated_or_tampered_reading_is_refused(saved: tuple[Any, Path]) -> None:
    reader, folder = saved
    manifest, state = folder / "reading.json", next(folder.glob("*.safetensors"))
    good = manifest.read_text(), state.read_bytes()
    changed = json.loads(good[0])
    changed["num_tokens"] = 1
    damage = {
        "truncated or no JSON": lambda: manifest.write_text(good[0][:200]),
        "num_tokens is wrong": lambda: manifest.write_text(json.dumps(changed | {"num_tokens": "many"})),
        "its checksum": lambda: manifest.write_text(json.dumps(changed)),
        "truncated or was changed": lambda: state.write_bytes(good[1][:-8]),
        "was changed: its checksum": lambda: state.write_bytes(good[1][:-1] + bytes([good[1][-1] ^ 1])),
        "is missing": state.unlink,
    }
    for message, break_it in damage.items():
        break_it()
        with pytest.raises(CorruptReadingError, match=message):
            jrt.Reading.load(folder, reader)
        manifest.write_text(good[0])
        state.write_bytes(good[1])
    jrt.Reading.load(folder, reader)


def test_another_format_and_no_reading(saved: tuple[Any, Path], tmp_path: Path) -> None:
    reader, folder = saved
    manifest = folder / "reading.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 9}))
    with pytest.raises(StateMismatchError, match="format 9"):
        jrt.Reading.load(folder, reader)
    with pytest.raises(InputNotFoundError, match="no reading"):
        jrt.Reading.load(tmp_path, reader)


def test_a_folder_of_something_else_is_left_alone(saved: tuple[Any, Path], tmp_path: Path) -> None:
    reader, _ = saved
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(InvalidOptionError, match=r"thesis\.txt"):
        reader.read(DOCUMENT).save(folder)
    with pytest.raises(InvalidOptionError, match="is a file"):
        reader.read(DOCUMENT).save(folder / "thesis.txt")


def test_a_second_writer_is_refused(saved: tuple[Any, Path]) -> None:
    reader, folder = saved
    with FileLock(folder / ".lock"), pytest.raises(InvalidOptionError, match="Another process is writing"):
        reader.read("Ana likes figs.").save(folder)


def test_a_full_disk_leaves_the_old_reading(saved: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    reader, folder = saved
    before = jrt.Reading.load(folder, reader).num_tokens

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    for place in ("jrt.saved_reading.save_file", "jrt.saved_reading.write_text"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
            patch.setattr(place, full)
            reader.read("Ana likes figs.").save(folder)
        assert jrt.Reading.load(folder, reader).num_tokens == before
        assert not list(folder.glob(".*.part"))


def test_a_killed_save_leaves_a_whole_reading(saved: tuple[Any, Path]) -> None:
    """A process that does nothing but save is killed again and again; what it leaves can always be loaded."""
    reader, folder = saved
    script = textwrap.dedent(
        f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parents[1] / "models")!r})
        from text import word_tokenizer
        from zoo import build
        import jrt
        reader = jrt.wrap(build("mamba"), tokenizer=word_tokenizer())
        reading = reader.read("Ana likes figs.")
        print("ready", flush=True)
        while True:
            reading.append("Tarek likes plums.")
            reading.save({str(folder)!r})
        """
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        loaded = 0
        for delay in (0.05, 0.13, 0.21):
            time.sleep(delay)
            process.send_signal(signal.SIGSTOP)
            loaded += jrt.Reading.load(folder, reader).num_tokens > 0
            process.send_signal(signal.SIGCONT)
        process.kill()
    assert loaded == 3
    assert jrt.Reading.load(folder, reader).num_tokens > 0
    reader.read(DOCUMENT).save(folder)
    assert jrt.Reading.load(folder, reader).ask("Who?", **SHORT) == reader.read(DOCUMENT).ask("Who?", **SHORT)
