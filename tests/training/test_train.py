"""Training from text and from tasks: losses fall, what is saved is what was trained, and bad input is refused."""

from __future__ import annotations

import gzip
import json
import math
import string
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from train_child import TINY

import jrt
from jrt.errors import (
    DataFormatError,
    EmptyInputError,
    InputNotFoundError,
    InvalidOptionError,
    JRTError,
    TokenizerError,
    UnknownNameError,
)
from jrt.evals.training_rows import TaskRows
from jrt.training.kinds import KINDS, kind_class
from jrt.training.run import _Run, train
from jrt.training.settings import with_preset
from jrt.training.text import TextRows, documents, files
from jrt.training.trainer import learning_rate, right_answers

torch.set_num_threads(1)


def settings_of(kind: str, options: dict[str, Any], **changes: Any) -> Any:
    return kind_class(kind).settings_class(**(options | changes))


def test_both_losses_fall_and_the_saved_model_is_the_trained_one(options: dict[str, Any], tmp_path: Path) -> None:
    reports: list[tuple[str, dict[str, float]]] = []
    chosen = settings_of("jrt-rnn", options, steps=60, log_every=20, evaluate_every=60, save_every=60, bf16=True)
    trained = train("jrt-rnn", chosen, tmp_path / "run", report=lambda stage, logged: reports.append((stage, logged)))
    logged = [entry for _, entry in reports if "loss" in entry]
    for name in ("ntp_loss", "mlm_loss"):
        values = [entry[name] for entry in logged]
        assert values[0] > 2.2 and values[-1] < values[0] - 0.4, (name, values)
    for entry in logged:
        assert entry["loss"] == pytest.approx(entry["ntp_loss"] + 0.25 * entry["mlm_loss"], rel=1e-4)
    assert any("eval_ntp_loss" in entry and "eval_mlm_loss" in entry for _, entry in reports)
    reader = jrt.load(str(trained.folder), device="cpu")
    assert reader.model.config.encoder_length == 12 and reader.model.dtype == torch.float32
    assert reader.model.config.mask_token_id >= len(reader.tokenizer)
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert record["kind"] == "jrt-rnn" and record["settings"]["steps"] == 60
    again = train(
        "jrt-rnn", settings_of("jrt-rnn", options, model=str(trained.folder), config={}, steps=1), tmp_path / "on"
    )
    assert again.log["all"][0]["ntp_loss"] < logged[0]["ntp_loss"] - 0.4


def test_causal_training_learns_a_causal_rule(options: dict[str, Any], tmp_path: Path) -> None:
    chosen = settings_of("based", options, steps=60, log_every=10, save_every=60, evaluate_every=60)
    log = train("based", chosen, tmp_path / "run").log["all"]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert losses[0] > 2.5 and losses[-1] < 1.7


def test_training_leaves_no_trace(options: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    train("based", settings_of("based", options, steps=1), tmp_path / "run")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("accelerator", [False, True])
def test_a_run_takes_its_device_from_its_own_options(
    accelerator: bool, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate import PartialState

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator)
    for device in ("auto", "cpu", "auto"):
        PartialState().device = torch.device("cpu" if device == "auto" else "meta")  # as a run before has left it
        arguments = arguments_of(settings_of("based", options, device=device, bf16=True), tmp_path)
        assert arguments.use_cpu == (device == "cpu" or not accelerator)
    trained = train("based", settings_of("based", options, device="auto", bf16=True, steps=1), tmp_path / "run")
    assert trained.log["all"]


def test_one_process_has_one_device(options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers would take every GPU that there is for the one process, and a batch for each."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    arguments = arguments_of(settings_of("based", options, device="auto", batch_size=6), tmp_path)
    assert arguments.n_gpu == 1 and arguments.train_batch_size == arguments.eval_batch_size == 6


def arguments_of(chosen: Any, out: Path) -> Any:
    """What transformers is told of a run."""
    run = _Run(kind_class("based")(chosen), out, None)
    return run._arguments(run.kind.stages()[0], 0, False)


def test_a_task_as_data(tmp_path: Path) -> None:
    chosen = settings_of(
        "jrt-rnn",
        {"task": "set_disjointness:short=2,long=3,vocab_size=20", "config": TINY | {"mixers": ["conv", "prefix"] * 2}},
        steps=120,
        batch_size=32,
        learning_rate=1e-2,
        log_every=40,
        evaluate_every=120,
        save_every=120,
        device="cpu",
    )
    rows = TaskRows(chosen.task, chosen.methods, chosen.seed)
    log = train("jrt-rnn", chosen, tmp_path / "run", task_rows=rows.with_tokenizer).log["all"]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert losses[-1] < losses[0] - 0.5 and "mlm_loss" not in log[0]
    assert 0 < log[-1].get("eval_accuracy", log[-2].get("eval_accuracy", -1)) <= 1
    from jrt.evals import evaluate

    result = evaluate(jrt.load(str(tmp_path / "run" / "model"), device="cpu"), [chosen.task], ["once"], limit=4)
    assert result.settings.tasks[0].items == 4


def test_task_rows_are_the_prompts_of_an_evaluation() -> None:
    rows, tokenizer = TaskRows("mqar:num_pairs=4,vocab_size=32", "once,context_twice", 0).with_tokenizer(None)
    for index in range(4):
        row = rows("train", index, 0)
        words = tokenizer.convert_ids_to_tokens(row.input_ids)
        pairs = words[:8]
        values = dict(zip(pairs[::2], pairs[1::2], strict=True))
        asked = row.labels != -100
        answers = tokenizer.decode(row.labels[asked]).split()
        assert answers[-1] == "<eos>" and len(answers) == 5
        assert [values[words[place - 1]] for place in np.flatnonzero(asked)[:-1]] == answers[:-1]
        assert np.array_equal(row.labels[asked], row.input_ids[asked])
        assert row.prefix_length == np.flatnonzero(asked)[0] == (9 if index % 2 == 0 else 18)
        again = rows("train", index, 0)
        assert np.array_equal(again.input_ids, row.input_ids)
        assert not np.array_equal(rows("validation", index, 0).input_ids, row.input_ids)


def test_rows_with_answers_of_many_tokens_are_no_longer_than_asked() -> None:
    """A tokenizer of letters: an answer such as ` bathroom` and its end are 10 tokens, and 3 are always kept free."""
    rows, tokenizer = TaskRows("memorize", "once", 0).with_tokenizer(letters())
    fitted = []
    for index in range(30):
        pieces = 257
        while len(text := rows._prompt(rows._item("train", index, pieces), index)) > 257:  # the rule of 3
            pieces = min(pieces - 1, pieces * 257 // len(text))
        row = rows("train", index, 260)
        assert len(row.input_ids) <= 260 and row.prefix_length + len(str(row.answer)) + 2 == len(row.input_ids)
        answer = tokenizer.decode(row.labels[row.prefix_length :])
        assert answer == f" {row.answer}<eos>" and (row.labels[: row.prefix_length] == -100).all()
        fitted.append(len(text) + 2 + len(str(row.answer)) <= 260)
        assert not fitted[-1] or tokenizer.decode(row.input_ids[: row.prefix_length]) == text, "it is as it was"
    assert 0 < sum(fitted) < len(fitted)


def letters() -> Any:
    """A tokenizer of letters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<eos>": 0} | {letter: number for number, letter in enumerate(string.printable, 1)}
    made = Tokenizer(models.WordLevel(vocabulary, "<eos>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>")


def test_tasks_that_cannot_be_trained_on() -> None:
    with pytest.raises(InvalidOptionError, match=r"squad has a fixed set of questions.*set_disjointness"):
        TaskRows("squad", "once", 0)
    with pytest.raises(TokenizerError, match="--tokenizer"):
        TaskRows("passkey", "once", 0).with_tokenizer(None)


@settings(deadline=None, max_examples=40)
@given(st.integers(20, 300), st.integers(2, 9), st.integers(0, 50))
def test_every_window_once_a_turn(tmp_path_factory: pytest.TempPathFactory, count: int, length: int, seed: int) -> None:
    path = tmp_path_factory.mktemp("tokens") / "tokens.bin"
    np.arange(count, dtype="<u4").tofile(path)
    rows = TextRows(path, seed, 0.2, length)
    number, held_out = rows.rows("train", length), max(round(0.2 * count), length)
    turns = [[rows("train", turn * number + place, length) for place in range(number)] for turn in range(2)]
    for turn in turns:
        assert sorted(row.input_ids[0] for row in turn) == [length * place for place in range(number)]
        assert all(np.array_equal(row.input_ids, row.input_ids[0] + np.arange(length)) for row in turn)
        assert max(row.input_ids[-1] for row in turn) < count - held_out
    kept = [rows("validation", place, length).input_ids for place in range(rows.rows("validation", length))]
    assert min(ids.min() for ids in kept) == count - held_out
    again = TextRows(path, seed, 0.2, length)("train", 2 * number - 1, length)
    assert np.array_equal(again.input_ids, turns[1][-1].input_ids)


def test_documents_of_files(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "c.jsonl").write_text('{"text": "third"}\n\n{"text": "fourth"}\n')
    with gzip.open(tmp_path / "d.jsonl.gz", "wt") as file:
        file.write('{"text": "fifth"}\n')
    given_files = SimpleNamespace(dataset=None, text=[str(tmp_path / "*.txt"), str(tmp_path / "*")], column="text")
    assert list(documents(given_files)) == ["first", "second", "third", "fourth", "fifth"]
    with pytest.raises(InputNotFoundError, match=r"no file .*nothing\.txt"):
        files([str(tmp_path / "nothing.txt")])
    with pytest.raises(InputNotFoundError, match=rf"is a folder\..*--text '{tmp_path}/\*\.txt'"):
        files([str(tmp_path)])
    with pytest.raises(DataFormatError, match=r"c\.jsonl, line 1: there is no text 'body'; it has text"):
        list(documents(SimpleNamespace(dataset=None, text=[str(tmp_path / "c.jsonl")], column="body")))
    (tmp_path / "c.jsonl").write_text("{]")
    with pytest.raises(DataFormatError, match=r"c\.jsonl, line 1"):
        list(documents(given_files))
    (tmp_path / "e.txt").write_bytes("Café".encode("latin-1"))
    with pytest.raises(DataFormatError, match=r"e\.txt is no text in UTF-8: .* iconv -f LATIN1"):
        list(documents(SimpleNamespace(dataset=None, text=[str(tmp_path / "e.txt")], column="text")))


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_learning_rate(schedule: str) -> None:
    told = SimpleNamespace(
        warmup_steps=10, warmup_share=0.05, schedule=schedule, learning_rate=2.0, final_learning_rate=0.2
    )
    rates = [learning_rate(told, step, 110) for step in range(111)]
    assert rates[0] == pytest.approx(1 / 11) and rates[10] == 1
    middle, last = {"constant": (1, 1), "linear": (0.55, 0.1), "cosine": (0.55, 0.1)}[schedule]
    assert rates[60] == pytest.approx(middle) and rates[110] == pytest.approx(last)
    quarter = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4))
    assert rates[35] == pytest.approx({"constant": 1, "linear": 0.775, "cosine": quarter}[schedule])


def test_right_answers() -> None:
    labels = torch.tensor([[-100, 3, 1, 9], [-100, -100, 2, 9]])
    logits = torch.zeros(2, 4, 10)
    for row, place, token in ((0, 0, 3), (0, 1, 5), (0, 2, 9), (1, 1, 2), (1, 2, 0)):
        logits[row, place, token] = 1
    assert right_answers(logits, labels, end=9).tolist() == [2, 3]
    assert right_answers(logits, labels, end=None).tolist() == [3, 5]
    assert right_answers(torch.eye(3), torch.tensor([0, 2, 2]), end=None).tolist() == [2, 3]


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("based", {"text": []}, "one source of data: --text, --dataset or --task; given: none"),
        ("based", {"task": "mqar"}, "given: --text, --task"),
        ("based", {"stepz": 3}, r"no option 'stepz'\. Did you mean 'steps'"),
        ("based", {"steps": 0}, "steps=0: Input should be greater than or equal to 1"),
        ("based", {"config": "{"}, "config='{': no JSON"),
        ("based", {"config": "gone.json"}, "gone.json cannot be read"),
        (
            "based",
            {"config": {"hidden_dim": 3}},
            "has no option 'hidden_dim'. Did you mean 'hidden_size'",
        ),
        ("based", {"config": {"mixers": ["prefix"]}}, "no mixer 'prefix'"),
        ("based", {"size": "7b"}, "no published size '7b'"),
        ("based", {"tokenizer": "/nowhere"}, "/nowhere holds no tokenizer"),
        ("based", {"tokenizer": None}, "needs a tokenizer"),
        ("based", {"model": "/nowhere"}, "no model folder /nowhere"),
        (
            "based",
            {"block_size": 5000, "validation_share": 0.5},
            "6001 tokens; .* a row of 5000 beside the 5000 to evaluate",
        ),
        (
            "jrt-rnn",
            {"config": TINY | {"encoder_length": 8}},
            "prefix of 12 tokens .* encoder_length is 8",
        ),
        ("jrt-rnn", {"dataset": "/nowhere/data", "text": []}, "data set /nowhere/data cannot be had"),
    ],
)
def test_refusals(kind: str, changes: dict[str, Any], message: str, options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(JRTError, match=message):
        train(kind, settings_of(kind, options, **changes), tmp_path / "run")


def test_no_text_and_no_such_kind(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(EmptyInputError, match="text to train on is empty"):
        train("based", settings_of("based", options, text=[str(tmp_path / "empty.txt")]), tmp_path / "run")
    with pytest.raises(UnknownNameError, match=r"no kind of training 'jrtrnn'\. Did you mean 'jrt-rnn'"):
        kind_class("jrtrnn")
    with pytest.raises(UnknownNameError, match="no preset '360'"):
        with_preset(kind_class("based").settings_class, kind_class("based").presets, "360", options)


@pytest.mark.parametrize("kind", KINDS)
def test_every_preset_is_valid(kind: str) -> None:
    owner = kind_class(kind)
    assert owner.name == kind
    for name, options in owner.presets.items():
        extra = {} if "task" in options else {"text": ["a.txt"]}
        if "method" in owner.settings_class.model_fields:
            extra = extra | {"model": "bert-base-cased"}
        chosen = with_preset(owner.settings_class, owner.presets, name, extra)
        assert all(getattr(chosen, option) == value for option, value in options.items())
        if chosen.task is not None:
            TaskRows(chosen.task, chosen.methods, chosen.seed)
