"""Tasks: the registry, generated items against their definitions, rows of published data sets, windows."""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import WordTokenizer, likes_rows, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from jrt.errors import (
    DataFormatError,
    HubUnavailableError,
    InvalidOptionError,
    MissingDependencyError,
    UnknownNameError,
)
from jrt.evals.tasks import registry
from jrt.evals.tasks.base import Cut, Task
from jrt.evals.tasks.mqar import IGNORED, mqar_arrays
from jrt.evals.tasks.registry import known_tasks, parse_task, parse_tasks
from jrt.methods import parse_method
from jrt.prompts import render
from jrt.training.facts import documents

GENERATED = ["detect", "facts", "kv_retrieval", "memorize", "mqar", "passkey", "reason", "set_disjointness"]
RECALL = ["drop", "fda", "nq", "squad", "swde", "triviaqa"]
PUBLISHED: dict[str, dict[str, Any]] = {
    "fda": {"key": "device name", "value": "Galvo 2", "text": "Purpose: none. Device name: Galvo 2"},
    "swde": {"key": "director", "value": "Ann Lee", "text": "Film. Director: Ann Lee. 1999"},
    "squad": {
        "text": "Oslo is a city in Norway. Oslo is in",
        "value": "Norway",
        "context": "Oslo is a city in Norway.",
        "question": "Where is Oslo?",
    },
    "nq": {
        "context": "Oslo is a city in Norway.",
        "question": "Oslo is in",
        "orig_question": "where is oslo",
        "answers": ["Norway"],
        "tok_pos": 4,
    },
    "triviaqa": {
        "doc_id": "d",
        "context": "[PAR] Oslo is a city in Norway.",
        "question": "Oslo is in",
        "orig_question": "Where is Oslo?",
        "answers": ["Norway", "Kingdom of Norway"],
    },
    "drop": {
        "context": "Oslo is a city in Norway.",
        "question": "Oslo is in",
        "orig_question": "Where is Oslo?",
        "answers": ["Norway"],
    },
}


def test_every_name_gives_its_task() -> None:
    assert sorted(known_tasks()) == sorted(["babilong", "summarisation", *GENERATED, *RECALL])
    for name in known_tasks():
        task = parse_task(name)
        assert task.name == name and task.version >= 1 and task.summary
        assert str(task) == ("babilong:task=qa1" if name == "babilong" else name)


def test_unknown_names_and_options() -> None:
    with pytest.raises(UnknownNameError, match=r"no task 'sqad'\. Did you mean 'squad'"):
        parse_task("sqad")
    with pytest.raises(InvalidOptionError, match=r"passkey has no option 'words'.*'num_words'"):
        parse_task("passkey:words=50")
    with pytest.raises(InvalidOptionError, match="passkey:num_words='many'"):
        parse_task("passkey:num_words=many")
    with pytest.raises(InvalidOptionError, match="nq:tokens=1000"):
        parse_task("nq:tokens=1000")
    with pytest.raises(InvalidOptionError, match="no option"):
        parse_task("passkey:50")
    with pytest.raises(InvalidOptionError, match="given 2 times"):
        parse_tasks(["squad", "nq", "squad"])
    with pytest.raises(InvalidOptionError, match="no task to evaluate"):
        parse_tasks([])


def test_the_shorthand_makes_the_task_again() -> None:
    for text in ("passkey:num_words=50,depth=0.5", "nq:tokens=512", "mqar:num_pairs=3", "facts:num_facts=4"):
        assert str(parse_task(text)) == text
    assert str(parse_task("passkey:num_words=400")) == "passkey"
    for text in ("babilong:length=500", "babilong:task=qa1,length=500"):
        assert str(parse_task(text)) == "babilong:task=qa1,length=500"
    assert [str(task) for task in parse_tasks(["facts:num_facts=4", "facts:num_facts=8"])]


def test_other_packages_add_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("mine", "jrt.evals.tasks.passkey:Passkey", "jrt.tasks")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "jrt.tasks" else [])
    assert isinstance(parse_task("mine"), Task)


@pytest.mark.parametrize("name", GENERATED)
def test_generated_items_depend_on_seed_and_index_only(name: str) -> None:
    task = parse_task(name)
    items = task.items(limit=20, seed=3)
    assert items[:5] == task.items(limit=5, seed=3)
    assert [item.context for item in items] != [item.context for item in task.items(limit=20, seed=4)]
    assert len({item.id for item in items}) == len({item.context for item in items}) == 20
    assert len(task.items()) == 200


@pytest.mark.parametrize("name", GENERATED)
@pytest.mark.parametrize("method", ["once", "context_twice", "twice"])
def test_the_answer_is_in_the_prompt_and_the_cue_is_last(name: str, method: str) -> None:
    task = parse_task(name)
    for item in task.items(limit=5):
        plan = task.plan(item, parse_method(method))
        passes = 1 if method == "once" else 2
        assert plan.text.count(item.context) == passes
        assert item.answers[0] in item.context
        assert item.answers[0] not in plan.suffix
        assert plan.suffix.strip() == plan.parts[-1].text and plan.parts[-1].role == "cue"
        assert item.question in plan.parts[-1].text


@settings(deadline=None, max_examples=30)
@given(st.integers(20, 500), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(0, 100))
def test_passkey_length_and_depth(num_words: int, depth: float, seed: int) -> None:
    (item,) = parse_task(f"passkey:num_words={num_words},depth={depth}").items(limit=1, seed=seed)
    words = item.context.split()
    assert num_words - 5 < len(words) <= num_words
    (key,) = item.answers
    assert item.context.count(key) == 2 and len(key) == 5
    before = item.context.index(f"The pass key is {key}")
    share = len(item.context[:before].split()) / max(1, len(words) - 12)
    assert share == pytest.approx(depth, abs=5 / max(5, len(words) - 12))


def test_kv_retrieval_is_json_with_unique_keys() -> None:
    for item in parse_task("kv_retrieval:num_pairs=30").items(limit=10):
        pairs = json.loads(item.context)
        assert len(pairs) == 30
        assert item.answers == (pairs[item.question],)
        assert list(pairs.values()).count(item.answers[0]) == 1


def test_mqar_text_has_one_right_value() -> None:
    positions = []
    for item in parse_task("mqar:num_pairs=16,vocab_size=64").items(limit=50):
        symbols = item.context.split()
        assert len(symbols) == len(set(symbols)) == 32
        assert symbols[symbols.index(item.question) + 1] == item.answers[0]
        assert item.context.count(item.answers[0]) == 1  # no value is a part of another symbol
        positions.append(symbols.index(item.question) // 2)
    assert len(set(positions)) > 8


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 8), st.integers(1, 3), st.integers(0, 20), st.integers(0, 99))
def test_mqar_arrays(num_pairs: int, num_passes: int, more: int, seed: int) -> None:
    start = 2 * num_pairs * num_passes
    length = start + 2 * num_pairs + 2 * more
    options = {"num_pairs": num_pairs, "num_passes": num_passes, "length": length, "vocab_size": 40}
    inputs, labels = mqar_arrays(seed, 6, **options)
    again = mqar_arrays(seed, 6, **options)
    assert np.array_equal(inputs, again[0]) and np.array_equal(labels, again[1])
    assert inputs.shape == labels.shape == (6, length)
    for row, label in zip(inputs, labels, strict=True):
        pairs = dict(row[: 2 * num_pairs].reshape(-1, 2).tolist())
        assert len(pairs) == len(set(pairs.values())) == num_pairs
        assert all(0 < key < 20 <= value < 40 for key, value in pairs.items())
        assert np.array_equal(row[:start], np.tile(row[: 2 * num_pairs], num_passes))
        asked = label != IGNORED
        assert not asked[:start].any() and sorted(row[asked]) == sorted(pairs)
        assert [pairs[key] for key in row[asked]] == label[asked].tolist()
        assert (row[start:][~asked[start:]] == 0).all()


def test_mqar_gaps_follow_the_power() -> None:
    """With one query and power 1 its place is uniform; with a small power the first place has its share of 1/x."""
    slots = 20
    for power, share in ((1.0, 1 / slots), (0.01, 1 / sum(x ** (0.01 - 1) for x in range(1, slots + 1)))):
        inputs, _ = mqar_arrays(0, 20_000, num_pairs=1, length=2 + 2 * slots, vocab_size=16, power=power)
        assert (inputs[:, 2] != 0).mean() == pytest.approx(share, abs=0.012)


def test_mqar_refusals() -> None:
    with pytest.raises(InvalidOptionError, match="need 32 tokens; length is 30"):
        mqar_arrays(0, 1, num_pairs=8, length=30)
    with pytest.raises(InvalidOptionError, match="as many keys"):
        mqar_arrays(0, 1, num_pairs=8, length=64, vocab_size=16)
    with pytest.raises(InvalidOptionError, match="as many keys"):
        parse_task("mqar:num_pairs=8,vocab_size=16").items()


def test_facts_are_the_held_out_documents() -> None:
    items = parse_task("facts:num_facts=6").items(limit=4, seed=2)
    drawn = list(documents(seed=2, count=4, num_facts=6, split="heldout"))
    assert [(item.id, item.context, item.answers) for item in items] == [(d.id, d.context, d.answers) for d in drawn]


@pytest.mark.parametrize("name", RECALL)
def test_a_published_row_is_rendered_as_published(name: str, tmp_path: Path) -> None:
    row = PUBLISHED[name]
    (item,) = parse_task(name).items(path=write_rows(tmp_path / "data.jsonl", [row]))
    assert item.id == f"{name}-1"
    assert item.answers == tuple([row["value"]] if "value" in row else row["answers"])
    for method in ("once", "twice"):
        parsed = parse_method(method)
        assert parse_task(name).plan(item, parsed).text == render(name, row, parsed).text


@pytest.mark.parametrize("name", RECALL)
def test_a_plain_row_is_read_too(name: str, tmp_path: Path) -> None:
    (item,) = parse_task(name).items(path=write_rows(tmp_path / "data.jsonl", likes_rows(1)))
    text = parse_task(name).plan(item, parse_method("once")).text
    assert text == f"{item.context}\nQuestion: {item.question}\nAnswer:"


@pytest.mark.parametrize("name", RECALL)
def test_a_row_that_is_neither_is_refused(name: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", [{"id": "1", "context": "whole document"}])
    with pytest.raises(DataFormatError, match=f"line 1: the row has the columns id, context, which {name} cannot read"):
        parse_task(name).items(path=path)


@pytest.mark.parametrize("rule", ["compat", "strict"])
@pytest.mark.parametrize("name", RECALL)
def test_a_cut_document_holds_the_answer(name: str, rule: Any, tmp_path: Path) -> None:
    answer = "Norway"
    row = {
        "id": "1",
        "context": "before " * 150 + f"It is in {answer}, you know. " + "after " * 150,
        "question": "Country:" if name in ("fda", "swde") else "Where is Oslo?",
        "answers": [answer],
    }
    tokenizer = WordTokenizer()
    cut = Cut(rule, 100, encode=lambda text: tokenizer(text)["input_ids"], decode=tokenizer.decode)
    task = parse_task(name)
    (item,) = task.items(path=write_rows(tmp_path / "data.jsonl", [row]))
    short = task.cut(item, cut)
    assert short is not None and short.id == item.id and short.question == item.question
    assert len(tokenizer(short.context)["input_ids"]) <= 50
    reads_head = rule == "compat" and name in ("drop", "triviaqa")
    assert (answer in short.context) != reads_head


def test_the_published_window_drops_answers_of_one_character(tmp_path: Path) -> None:
    rows = [{**row, "answers": ["2"]} for row in likes_rows(1)]
    tokenizer = WordTokenizer()
    cut = Cut("compat", 100, encode=lambda text: tokenizer(text)["input_ids"], decode=tokenizer.decode)
    task = parse_task("squad")
    (item,) = task.items(path=write_rows(tmp_path / "data.jsonl", rows))
    assert task.cut(item, cut) is None
    assert task.cut(item, cut._replace(rule="strict")) is not None


@pytest.mark.parametrize("name", GENERATED)
def test_generated_documents_are_not_cut(name: str) -> None:
    task = parse_task(name)
    with pytest.raises(InvalidOptionError, match="not cut") as caught:
        task.cut(task.items(limit=1)[0], Cut("strict", 100, encode=lambda text: [], decode=lambda ids: ""))
    assert next(iter(type(task).model_fields)) in caught.value.hint


class FakeDatasets:
    """Stands for the package `datasets`: rows, or the error that it raises."""

    def __init__(self, rows: list[dict[str, Any]] | Exception) -> None:
        self.rows, self.asked = rows, ("", "")

    def load_dataset(self, name: str, split: str) -> list[dict[str, Any]]:
        self.asked = (name, split)
        if isinstance(self.rows, Exception):
            raise self.rows
        return self.rows


@pytest.mark.parametrize("name", RECALL)
def test_rows_of_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeDatasets([PUBLISHED[name]] * 30)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    task = parse_task(name)
    items = task.items(limit=10)
    assert len({item.id for item in items}) == 10 and items[0].id.startswith(f"{name}-")
    assert task.source == f"hub:{fake.asked[0]}" and fake.asked[1] == "validation"


def test_the_published_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [parse_task(name).source.removeprefix("hub:hazyresearch/") for name in [*RECALL, "nq:tokens=2048"]]
    assert names == [
        "based_drop", "based-fda", "based_nq_1024", "based-squad", "based-swde-v2", "based_triviaqa", "based_nq_2048"
    ]  # fmt: skip


@pytest.mark.parametrize("error", [ConnectionError("offline"), FileNotFoundError("no such data set"), RuntimeError()])
def test_no_network_is_said(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", FakeDatasets(error))
    with pytest.raises(HubUnavailableError, match="hazyresearch/based-fda") as caught:
        parse_task("fda").items(limit=1)
    assert "--data fda=FILE" in caught.value.hint


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r"just-read-twice\[evals\]") as caught:
        parse_task("squad").items(limit=1)
    assert "--data squad=FILE" in caught.value.hint


def test_the_real_package_offline() -> None:
    """conftest sets HF_HUB_OFFLINE, so the installed package answers as it does without a network."""
    pytest.importorskip("datasets")
    with pytest.raises(HubUnavailableError):
        parse_task("drop").items(limit=1)


def test_names_and_summaries_load_no_torch() -> None:
    import subprocess

    code = (
        "import sys; from jrt.evals import known_tasks, parse_task; [parse_task(name) for name in known_tasks()];"
        "print([name for name in ('torch', 'transformers', 'datasets', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
