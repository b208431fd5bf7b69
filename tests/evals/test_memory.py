"""`python -m jrt.evals.memory` writes a report, and says in one line what it cannot do and whom it cannot ask."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import jrt
from jrt.errors import UnsupportedModelError
from jrt.evals.memory import answered, main, token_ids
from jrt.evals.memory_table import runs
from jrt.evals.tasks.registry import parse_task
from jrt.training.place_batches import SEGMENT_LENGTH
from jrt.training.tiny_rmt import build_model, build_tokenizer
from jrt.training.tiny_rmt_recipe import Recipe


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["memory", *arguments])
    main()


def test_the_report_is_what_the_tables_are_made_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "new" / "run-2.json")
    options = ["--tasks", "detect,detect", "--segments", "2,2", "--limit", "3", "--split", "train"]
    run(monkeypatch, "jrt/tiny-rmt", *options, "--out", out)
    (record,) = json.loads(Path(out).read_text())["results"]
    assert record["all"]["of"] == 3 and len(capsys.readouterr().out.splitlines()) == 1
    assert runs(tmp_path / "new") == {"run": {("detect", "train", 2): record}}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--segments", "a"], "'a' is no list of positive numbers such as 64,512"),
        (["--segments", ""], "is no list of positive numbers"),
        (["--segments", "4,0"], "'4,0' is no list of positive numbers"),
        (["--limit", "0"], "'0' is no list of positive numbers"),
        (["--limit", "3,4"], "'3,4' is no positive number"),
        (["--tasks", "memorise"], "there is no task 'memorise' here; there are memorize, detect, reason"),
        (["--out", "."], "is a folder; name a file in it"),
    ],
)
def test_bad_options_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "jrt/tiny-rmt", "--out", "report-1.json", *arguments)
    assert caught.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("jrt/tiny-recurrent", "jrt/tiny-recurrent is no classifier of places that reads in segments."),
        ("jrt/tiny-infini", "jrt/tiny-infini is no classifier of places that reads in segments."),
        ("nowhere/", "There is no model folder nowhere/."),
    ],
)
def test_other_models_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: str, said: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, model, "--out", "report-1.json")
    assert caught.value.code == 2 and said in capsys.readouterr().err


SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


def sub_words(vocabulary: list[str], *, lowercase: bool = False) -> Any:
    """A tokenizer as BERT has: pieces of words, or `[UNK]` for a word that the pieces do not make."""
    ids = {piece: index for index, piece in enumerate([*SPECIAL.values(), *vocabulary])}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


def untrained(tokenizer: Any) -> jrt.Reader:
    """A classifier of places with random weights that reads with a tokenizer."""
    torch.manual_seed(0)
    model = build_model(tokenizer, Recipe())
    return jrt.Reader(model, [model.method], tokenizer)


WORDS = sorted(word for word in build_tokenizer().get_vocab() if not word.startswith("["))


@pytest.mark.parametrize(
    ("vocabulary", "words"),
    [
        ([*(word for word in WORDS if word != "bathroom"), "bath", "##room"], "'bathroom'"),  # two tokens
        ([word for word in WORDS if word not in ("bathroom", "garden")], "'bathroom', 'garden'"),  # unknown
    ],
)
def test_a_model_whose_tokens_are_no_words_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    vocabulary: list[str],
    words: str,
) -> None:
    folder = tmp_path / "model"
    untrained(sub_words(vocabulary)).save_pretrained(folder, include_model=True)
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, str(folder), "--segments", "2", "--limit", "2", "--out", str(tmp_path / "run-2.json"))
    said = capsys.readouterr().err
    assert caught.value.code == 2 and f"has no single token for {words};" in said
    assert "jrt eval" in said and not (tmp_path / "run-2.json").exists()


def test_texts_are_the_tokens_that_the_tokenizer_gives() -> None:
    """Also where it changes words, as BERT without capitals does."""
    tokenizer = sub_words(sorted({word.lower() for word in WORDS}), lowercase=True)
    task: Any = parse_task(f"reason:num_segments=3,segment_length={SEGMENT_LENGTH}")
    for reader in (untrained(tokenizer), untrained(build_tokenizer())):
        table = token_ids(reader, task)
        for _, generator in task.sources(4, 0):
            pieces = task.passage(generator).pieces
            text = reader.need_tokenizer()(task.passages.text(pieces), add_special_tokens=False)
            assert table[pieces].tolist() == text["input_ids"]


def test_a_word_is_the_same_token_at_the_beginning_of_a_text() -> None:
    """Where it is not, as in RoBERTa, the first word of every text would be another one."""
    names = [*SPECIAL.values(), *WORDS, *(f"\u2581{word}" for word in WORDS)]
    tokenizer = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    reader = untrained(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL))
    with pytest.raises(UnsupportedModelError, match="has no single token for 'The', 'quiet', 'letter' and others"):
        token_ids(reader, parse_task("detect"))  # type: ignore[arg-type]


def test_words_of_a_text_may_be_unknown(tmp_path: Path) -> None:
    """A model of words reads a text of its user's, where it knows the words of the fact alone."""
    (tmp_path / "book.txt").write_text("Whales swallow xylophones whenever nobody plays.", encoding="utf-8")
    task: Any = parse_task(f"detect:num_segments=2,segment_length={SEGMENT_LENGTH},text={tmp_path / 'book.txt'}")
    assert len(answered(untrained(build_tokenizer()), task, limit=3)) == 3
    with pytest.raises(UnsupportedModelError, match="no single token"):
        answered(untrained(sub_words([*WORDS, "Wh", "##ales"])), task, limit=3)
