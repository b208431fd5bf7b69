"""The recipe of `jrt/tiny-infini`: documents, tokenizer, training steps, and the table of what it finds."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jrt.errors import InvalidOptionError
from jrt.training import passkey_table
from jrt.training.passkeys import QUESTION, STOCK, Passkey, document, hidden, sentence, tokens_of
from jrt.training.tiny_infini import (
    END,
    IGNORED,
    Recipe,
    Trainer,
    build_tokenizer,
    endings,
    make_batch,
    save,
)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@settings(deadline=None, max_examples=30)
@given(
    length=st.integers(17, 400),
    depth=st.none() | st.floats(0, 1),
    seed=st.integers(0, 9),
    filler=st.sampled_from(["cycle", "varied"]),
)
def test_a_document_hides_its_number_once_where_it_says(length: int, depth: float | None, seed: int, filler) -> None:
    made = document(random.Random(seed), length, depth, filler)
    assert len(made.tokens) == length
    assert made.tokens[made.start : made.start + made.length] == tokens_of(hidden(made.key))
    assert "".join(made.tokens).count(made.key[:3]) == 2 and 10_000 <= int(made.key) <= 99_999
    if depth is not None:
        assert abs(made.start - depth * (length - made.length)) <= 20
    assert made.start == 0 or made.tokens[made.start - 1] == "." or made.start + made.length == length


def test_a_document_that_is_too_short_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="at least 17"):
        document(random.Random(0), 16)


def test_sentences_vary() -> None:
    source = random.Random(0)
    drawn = [sentence(source) for _ in range(300)]
    assert len(set(drawn) - set(STOCK)) > 250 and set(STOCK) <= set(drawn)


def test_the_tokenizer_cuts_as_the_generator_does(tokenizer) -> None:
    source = random.Random(1)
    text = " ".join([*(sentence(source) for _ in range(200)), hidden("47092")]) + "".join(endings()) + " 10000 99999"
    assert tokenizer.tokenize(text) == tokens_of(text)
    assert tokenizer.unk_token not in tokenizer.tokenize(text)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.tokenize("Zebra 12") == [tokenizer.unk_token] * 2


def test_a_batch_is_scored_on_the_number_and_the_end_only(tokenizer) -> None:
    ids, labels = make_batch(random.Random(0), tokenizer, 100, 4)
    assert ids.shape == labels.shape == (4, 100)
    assert (labels[:, :-3] == IGNORED).all() and torch.equal(labels[:, -3:], ids[:, -3:])
    for row in ids:
        key = tokenizer.decode(row[-3:-1])
        assert hidden(key) in tokenizer.decode(row[:-3]) and QUESTION in tokenizer.decode(row[-20:-3])
        assert tokenizer.convert_ids_to_tokens([row[-1]]) == [END]


def test_the_same_seed_trains_the_same_weights_and_another_seed_others() -> None:
    def weights(seed: int) -> torch.Tensor:
        trainer = Trainer(Recipe(seed=seed, steps=20, batch_size=2))
        for number in range(2):
            trainer.step(number, 2)
        return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])

    assert torch.equal(weights(0), weights(0)) and not torch.equal(weights(0), weights(1))


def test_writing_costs_nothing_then_a_little_then_its_full_price(monkeypatch: pytest.MonkeyPatch) -> None:
    """Levels pass when the loss says so; the plain recipe never pays."""
    for plain, expected in ((False, [0.0, 0.1, 1.0]), (True, [0.0])):
        trainer = Trainer(Recipe(plain=plain, steps=90, longest=2, penalty_from=70))
        prices: list[float] = []

        def step(number: int, segments: int, trainer: Trainer = trainer, prices: list[float] = prices) -> float:
            prices.append(trainer.model.write_penalty)
            return 0.01

        monkeypatch.setattr(trainer, "step", step)
        assert len(trainer.run()) == 2
        assert list(dict.fromkeys(prices)) == expected


def test_the_table_counts_what_a_model_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the command, on an untrained model: no hit, every row counted, the first table kept."""
    trainer = Trainer(Recipe())
    save(trainer.model.eval(), trainer.tokenizer, tmp_path / "model")
    out = tmp_path / "table.json"
    for options in (["--memory", "on"], ["--memory", "off"], ["--depths", "start", "random"]):
        command = ["x", str(tmp_path / "model"), "--tokens", "200", "--count", "2", *options]
        monkeypatch.setattr(sys, "argv", [*command, "--out", str(out)])
        passkey_table.main()
    first, second, third = json.loads(out.read_text())
    assert list(third["depths"]) == ["start", "random"] and third["of"] == 4
    assert (first["memory"], second["memory"]) == ("on", "off") and first["of"] == 8 and first["right"] == 0
    assert (
        sum(count for _, count in first["places"].values()) == sum(count for _, count in first["depths"].values()) == 8
    )


class Knows:
    """A model that has the answer when it has read `key` pieces in the stream, whatever the chunks."""

    def __init__(self, ids: torch.Tensor, size: int) -> None:
        self.answers, self.size, self.chunks = ids, size, list[int]()

    def __call__(self, ids: torch.Tensor, past_key_values: int | None, use_cache: bool, logits_to_keep: int):
        seen = (past_key_values or 0) + ids.shape[1]
        self.chunks.append(ids.shape[1])
        following = self.answers[:, seen - logits_to_keep + 1 : seen + 1]
        logits = torch.nn.functional.one_hot(following, self.size).float()
        return type("Output", (), {"past_key_values": seen, "logits": logits})


@pytest.mark.parametrize("length", [98, 99, 100, 101, 102, 103, 150])
def test_the_last_chunk_holds_all_answers(length: int, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passkey_table, "CHUNK", 50)
    items = [passkey_table.draw("random", length, index, 0, "varied") for index in range(3)]
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(item.tokens) for item in items])
    model = Knows(ids, len(tokenizer))
    assert passkey_table.right(model, tokenizer, items) == [True] * 3
    assert sum(model.chunks) == length - 1 and min(model.chunks) >= 3


@pytest.mark.parametrize(
    ("start", "length", "place"),
    [(0, 300, "inside"), (50, 300, "straddling"), (270, 300, "local"), (250, 300, "local")],
)
def test_where_a_number_is_hidden(start: int, length: int, place: str) -> None:
    item = passkey_table.Item("random", Passkey([], "12345", start, 17), ["x"] * length)
    assert item.place == place
