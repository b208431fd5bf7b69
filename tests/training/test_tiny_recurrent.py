"""The recipe of the embedded model: what it trains on is what users ask, and the same seed gives the same weights."""

from __future__ import annotations

import random

import pytest
import torch

import jrt
from jrt.training.facts import SUBJECTS, documents
from jrt.training.tiny_recurrent import (
    ANSWER,
    FORMATS,
    KNOWS_QUESTION,
    Recipe,
    build_model,
    build_tokenizer,
    losses,
    make_batch,
    train,
)

SMALL = Recipe(batch_size=5, find_steps=2, answer_steps=5)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_text_survives_the_tokenizer(tokenizer) -> None:
    for item in documents(0, 8, 12, "heldout"):
        for prompt in FORMATS.values():
            text = prompt.plan(item.context, item.question).text
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.decode(ids) == text
            assert tokenizer.unk_token_id not in ids


def test_free_text_becomes_unknown_words_and_nothing_breaks(tokenizer) -> None:
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("Mira, lives!\n\nin Oslo")["input_ids"])
    assert tokens == ["Mira", "<unk>", "lives", "<unk>", "\n", "\n", "in", "Oslo"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_batch_is_what_a_reader_sends_and_the_answer_after_it(tokenizer, name: str) -> None:
    batch = make_batch(random.Random(1), tokenizer, name, 6, len(SUBJECTS), SMALL)
    for row in range(SMALL.batch_size):
        ids = batch.ids[row]
        cue = int(batch.cues[row, 0])
        assert tokenizer.convert_ids_to_tokens(int(ids[cue])) == ANSWER
        prompt = tokenizer.decode(ids[: cue + 1])
        before, _, question = prompt.removesuffix(f"\n{ANSWER}").rpartition("Question: ")
        context = before.strip().split("\n")[-1]
        assert prompt == FORMATS[name].plan(context, question).text
        value = tokenizer.decode(ids[cue + 1])
        subject = next(word for word in question.rstrip("?").split() if word in SUBJECTS)
        answered = [sentence for sentence in context.split(".") if subject in sentence.split()]
        assert [sentence.split()[-1] for sentence in answered] == [value]


@pytest.mark.parametrize("name", KNOWS_QUESTION)
def test_the_probe_is_told_the_place_of_the_asked_value(tokenizer, name: str) -> None:
    batch = make_batch(random.Random(2), tokenizer, name, 7, len(SUBJECTS), SMALL)
    assert batch.asked.sum(1).tolist() == [KNOWS_QUESTION[name]] * SMALL.batch_size
    values = batch.ids.gather(1, batch.values)
    answers = batch.ids.gather(1, batch.cues + 1)
    assert bool((values[batch.asked.bool()].view(SMALL.batch_size, -1) == answers).all())


def test_training_sees_no_heldout_fact(tokenizer) -> None:
    heldout = {fact.sentence for item in documents(5, 200, 16, "heldout") for fact in item.facts}
    for name in FORMATS:
        batch = make_batch(random.Random(3), tokenizer, name, 16, len(SUBJECTS), Recipe())
        read = {
            part + "." for text in tokenizer.batch_decode(batch.ids) for part in text.replace("\n", " ").split(". ")
        }
        assert not {sentence.strip() for sentence in read} & heldout


def test_padding_does_not_change_the_loss(tokenizer) -> None:
    torch.manual_seed(0)
    model, probe = build_model(tokenizer).eval(), torch.nn.Linear(64, 1)
    batch = make_batch(random.Random(4), tokenizer, "twice", 5, len(SUBJECTS), SMALL)
    longer = torch.nn.functional.pad(batch.ids, (0, 37), value=tokenizer.pad_token_id)
    padded = type(batch)(longer, batch.cues, batch.values, batch.asked)
    for plain, other in zip(losses(model, probe, batch), losses(model, probe, padded), strict=True):
        assert torch.allclose(plain, other, atol=1e-5)


def test_the_same_seed_gives_the_same_weights_and_another_does_not() -> None:
    before = torch.random.get_rng_state()
    first, _, record = train(SMALL)
    second, _, _ = train(SMALL)
    other, _, _ = train(Recipe(seed=1, batch_size=5, find_steps=2, answer_steps=5))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    assert record["recipe"]["find_steps"] == 2 and record["versions"]["torch"] == torch.__version__
    assert torch.equal(torch.random.get_rng_state(), before), "training left its seed behind"


def test_an_untrained_model_answers_through_a_reader(tokenizer) -> None:
    reader = jrt.wrap(build_model(tokenizer).eval(), jrt.JRTPrompt(), tokenizer=tokenizer)
    assert isinstance(reader.ask("Mira lives in Oslo.", "Where does Mira live?", max_new_tokens=3), str)
