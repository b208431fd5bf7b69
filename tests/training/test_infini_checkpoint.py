"""The shipped `jrt/tiny-infini`: small, a stock Llama below, and it finds a number far beyond its training length."""

from __future__ import annotations

import random
from importlib.resources import files
from pathlib import Path

import pytest
import torch

import jrt
from jrt.training import passkey_table
from jrt.training.passkeys import QUESTION, document, hidden
from jrt.training.tiny_infini import build_tokenizer

FOLDER = Path(str(files("jrt.checkpoints"))) / "tiny-infini"
torch.set_num_threads(1)


@pytest.fixture
def reader() -> jrt.Reader:
    return jrt.load("jrt/tiny-infini", device="cpu")


def test_it_is_small_and_the_base_is_stock(reader: jrt.Reader) -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 1_000_000
    assert type(reader.model.base).__name__ == "LlamaForCausalLM"
    assert type(reader.model.base).__module__.startswith("transformers.")
    assert sum(weight.numel() for weight in reader.model.parameters()) < 150_000
    assert reader.tokenizer.get_vocab() == build_tokenizer().get_vocab()


def test_it_answers_as_a_user_asks(reader: jrt.Reader) -> None:
    text = "The sky is blue. " * 40 + hidden("47092") + " The grass is green." * 400
    assert str(reader.ask(text, QUESTION)).strip() == "47092"


def test_finds_a_number_in_16_thousand_tokens_with_its_memory_and_not_without(reader: jrt.Reader) -> None:
    items = [passkey_table.draw(depth, 16_384, 0, 77, "varied") for depth in ("start", "middle", "random")]
    assert all(item.place != "local" for item in items)
    assert passkey_table.right(reader.model, reader.tokenizer, items) == [True] * 3
    with torch.no_grad():
        for gate in reader.model.gates.values():
            gate.fill_(passkey_table.SHUT)
    assert passkey_table.right(reader.model, reader.tokenizer, items) == [False] * 3


def test_no_word_writes_what_the_answer_reads_in_at_least_one_head(reader: jrt.Reader) -> None:
    """Why length does not matter: keys of the first layer depend on the word alone, and for each of the two cues and
    the 900 first pieces of a number, some head's sigma(q) sigma(k) is exactly zero for every word that is no number."""
    model, tokenizer = reader.model, reader.tokenizer
    layer = model.base.model.layers[0]
    pieces = [index for token, index in tokenizer.get_vocab().items() if token.strip("#").isdigit()]
    words = torch.tensor(sorted(set(range(len(tokenizer))) - set(pieces) - set(tokenizer.all_special_ids)))

    def of(ids: torch.Tensor, project: torch.nn.Module) -> torch.Tensor:
        states = layer.input_layernorm(model.base.model.embed_tokens(ids))
        return torch.relu(project(states)).unflatten(-1, (4, 16))

    with torch.no_grad():
        leaks = of(words, layer.self_attn.k_proj).sum(0)  # (H, D)
        cues = torch.tensor(tokenizer.convert_tokens_to_ids(["is", "Answer:"]))
        first = of(cues, layer.self_attn.q_proj)
        second = of(torch.tensor(sorted(pieces)[:900]), layer.self_attn.q_proj)
    for queries in (first, second):
        assert bool(((queries * leaks).sum(-1) == 0).any(1).all())


def test_a_reading_keeps_the_number(reader: jrt.Reader) -> None:
    made = document(random.Random(3), 2000, 0.1)
    reading = reader.read(reader.tokenizer.decode(reader.tokenizer.convert_tokens_to_ids(made.tokens)))
    assert str(reading.ask(QUESTION)).strip() == made.key
