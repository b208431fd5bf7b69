"""The Reader says what the plain model says to the same prompt, and refuses what it cannot do."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from encoders import build_encoder
from text import DOCUMENT, word_tokenizer

import jrt
from jrt.answers import cut, groups
from jrt.errors import (
    ContextTooLongError,
    EmptyInputError,
    InvalidOptionError,
    MethodConflictError,
    TokenizerError,
    UnsupportedModelError,
)
from jrt.prompts import Plan

QUESTION = "Where does Mira live?"
SHORT: dict[str, Any] = dict(max_new_tokens=8)


def plain_answer(model: Any, tokenizer: Any, prompt: str, new_tokens: int = 8, special: bool = True) -> str:
    """What repeated full forwards of the unwrapped model say to a prompt, up to the first newline."""
    ids = tokenizer(prompt, add_special_tokens=special, return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    with torch.no_grad():
        for _ in range(new_tokens):
            token = model(input_ids=ids, use_cache=False).logits[:, -1].argmax(dim=-1)
            if token.item() == tokenizer.eos_token_id:
                break
            ids = torch.cat([ids, token[None]], dim=1)
    return str(tokenizer.decode(ids[0, start:], skip_special_tokens=True)).lstrip().split("\n")[0].strip()


@pytest.mark.parametrize(
    "method",
    [
        jrt.JRTPrompt(1),
        jrt.JRTPrompt(2),
        jrt.JRTPrompt(2, order="repeat"),
        jrt.JRTPrompt(3, order="context_first"),
    ],
)
def test_ask_is_the_plain_model_on_the_planned_prompt(family: Any, tokenizer: Any, method: jrt.JRTPrompt) -> None:
    reader = jrt.wrap(family, method, tokenizer=tokenizer)
    prompt = method.plan(DOCUMENT, QUESTION).text
    assert reader.ask(DOCUMENT, QUESTION, **SHORT) == plain_answer(family, tokenizer, prompt)


def test_no_method_reads_once(mamba: Any, tokenizer: Any) -> None:
    once = jrt.wrap(mamba, jrt.JRTPrompt(1), tokenizer=tokenizer)
    assert jrt.wrap(mamba, tokenizer=tokenizer).explain(DOCUMENT, QUESTION) == once.explain(DOCUMENT, QUESTION)


def test_a_batch_of_prompts_answers_like_one_by_one(family: Any, tokenizer: Any) -> None:
    reader = jrt.wrap(family, tokenizer=tokenizer)
    plans = [reader.plan(DOCUMENT, "Who?"), reader.plan("Ana likes figs.", QUESTION), reader.plan(DOCUMENT, QUESTION)]
    together = reader.answer_plans(plans, batch_size=3, **SHORT)
    alone = [reader.answer_plans([plan], **SHORT)[0] for plan in plans]
    assert [answer.raw for answer in together] == [answer.raw for answer in alone]
    assert [answer.prompt_tokens for answer in together] == [len(tokenizer(plan.text)["input_ids"]) for plan in plans]


def test_chat_repeats_the_document_and_not_the_system_turn(llama: Any, chat_tokenizer: Any) -> None:
    reader = jrt.wrap(llama, jrt.JRTPrompt(2), tokenizer=chat_tokenizer)
    plan = reader.plan(DOCUMENT, QUESTION, system="Be brief")
    assert plan.text == (
        f"system: Be brief\nuser: {QUESTION}\n{DOCUMENT}\n{DOCUMENT}\n{QUESTION}\nassistant: "
    )  # fmt: skip
    assert isinstance(reader.ask(DOCUMENT, QUESTION, system="Be brief", **SHORT), str)


def test_chat_can_be_switched_off(llama: Any, chat_tokenizer: Any) -> None:
    reader = jrt.wrap(llama, tokenizer=chat_tokenizer, chat=False)
    assert reader.plan(DOCUMENT, QUESTION).text == f"{DOCUMENT}\nQuestion: {QUESTION}\nAnswer:"
    with pytest.raises(InvalidOptionError, match="no system turn"):
        reader.ask(DOCUMENT, QUESTION, system="Be brief")


def test_explain_counts_tokens_and_runs_nothing(mamba: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    @functools.wraps(type(mamba).forward)
    def forward(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr(type(mamba), "forward", forward)
    explanation = jrt.wrap(mamba, jrt.JRTPrompt(2), tokenizer=tokenizer).explain(DOCUMENT, QUESTION)
    roles = [part.role for part in explanation.parts]
    assert roles == ["question", "separator", "context", "separator", "context", "separator", "cue"]
    assert sum(part.tokens for part in explanation.parts) == explanation.prompt_tokens
    assert explanation.prompt_tokens == len(tokenizer(explanation.prompt)["input_ids"])
    assert explanation.fits


@pytest.mark.parametrize("passes", [1, 2])
def test_generate_is_the_models_own(family: Any, tokenizer: Any, passes: int) -> None:
    """With the boundary given, ids are read in the order of the method and come back as they were given."""
    reader = jrt.wrap(family, jrt.JRTPrompt(passes), tokenizer=tokenizer)
    context, question = tokenizer("Ana likes figs.")["input_ids"], tokenizer("\nWhere?")["input_ids"]
    ids = torch.tensor([context + question])
    options = dict(do_sample=False, max_new_tokens=5, pad_token_id=0, eos_token_id=None)
    ours = reader.generate(ids, context_length=len(context), **options)
    newline = tokenizer("\n")["input_ids"]
    read = context + question if passes == 1 else question + newline + context + newline + context + question
    expected = torch.tensor([read])
    with torch.no_grad():
        for _ in range(5):
            token = family(input_ids=expected, use_cache=False).logits[:, -1].argmax(dim=-1, keepdim=True)
            expected = torch.cat([expected, token], dim=1)
    assert ours.tolist() == [context + question + expected[0, len(read) :].tolist()]


def test_generate_needs_the_boundary_or_the_literal_order(mamba: Any, tokenizer: Any) -> None:
    ids = torch.tensor([tokenizer(DOCUMENT)["input_ids"]])
    with pytest.raises(InvalidOptionError, match="where the context ends"):
        jrt.wrap(mamba, jrt.JRTPrompt(2), tokenizer=tokenizer).generate(ids, max_new_tokens=2)
    repeat = jrt.wrap(mamba, jrt.JRTPrompt(2, order="repeat"), tokenizer=tokenizer)
    assert repeat.generate(ids, max_new_tokens=2, max_length=None).shape == (1, ids.shape[1] + 2)


def test_max_length_counts_from_the_prompt_as_given(mamba: Any, tokenizer: Any) -> None:
    reader = jrt.wrap(mamba, jrt.JRTPrompt(2, order="repeat"), tokenizer=tokenizer)
    ids = torch.tensor([tokenizer(DOCUMENT)["input_ids"]])
    assert reader.generate(ids, max_length=ids.shape[1] + 3, eos_token_id=None).shape == (1, ids.shape[1] + 3)


def test_forward_is_the_models_own(mamba: Any) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.allclose(jrt.wrap(mamba)(input_ids=ids).logits, mamba(input_ids=ids).logits, atol=1e-5)


def test_nothing_stays_on_the_model(mamba: Any, tokenizer: Any) -> None:
    before = {name: set(vars(module)) for name, module in mamba.named_modules()}
    jrt.wrap(mamba, jrt.JRTPrompt(2), tokenizer=tokenizer).ask(DOCUMENT, QUESTION, **SHORT)
    assert {name: set(vars(module)) for name, module in mamba.named_modules()} == before


def test_the_scan_of_a_reader_continues_in_chunks(mamba: Any, tokenizer: Any) -> None:
    assert jrt.probe(mamba).continuation == "step"
    assert jrt.wrap(mamba, tokenizer=tokenizer).capabilities.continuation == "chunk"


@pytest.mark.parametrize(
    ("document", "question", "what"), [("", "a?", "context"), (" \n", "a?", "context"), ("a", "", "question")]
)
def test_empty_input(mamba: Any, tokenizer: Any, document: str, question: str, what: str) -> None:
    with pytest.raises(EmptyInputError, match=f"{what} is empty"):
        jrt.wrap(mamba, tokenizer=tokenizer).ask(document, question)


def test_a_context_longer_than_the_model_reads(llama: Any, tokenizer: Any) -> None:
    document = " ".join(["figs"] * 120)
    once, twice = (jrt.wrap(llama, jrt.JRTPrompt(passes), tokenizer=tokenizer) for passes in (1, 2))
    assert isinstance(once.ask(document, QUESTION), str)
    with pytest.raises(ContextTooLongError, match=r"reads at most 256 tokens; the context is 120 .* passes=1"):
        twice.ask(document, QUESTION)
    with pytest.raises(ContextTooLongError, match="at most 256"):
        twice.read(document + " " + document)
    with pytest.raises(ContextTooLongError, match="at most 256"):
        once.generate(torch.full((1, 250), 9), max_new_tokens=20)


def test_a_tokenizer_without_pad_token(llama: Any) -> None:
    reader = jrt.wrap(llama, tokenizer=word_tokenizer(pad=False))
    plans = [reader.plan(DOCUMENT, "Who?"), reader.plan(DOCUMENT, QUESTION)]
    assert len(reader.answer_plans(plans, **SHORT)) == 2, "one by one needs no padding"
    with pytest.raises(TokenizerError, match=r"no padding token.*pad_token = tokenizer.eos_token"):
        reader.answer_plans(plans, batch_size=2, **SHORT)


def test_unknown_options(mamba: Any, tokenizer: Any) -> None:
    reader = jrt.wrap(mamba, tokenizer=tokenizer)
    with pytest.raises(InvalidOptionError, match=r"no generation option 'temprature'.*'temperature'"):
        reader.ask(DOCUMENT, QUESTION, temprature=0.5)
    with pytest.raises(InvalidOptionError, match="max_new_tokens=0"):
        reader.ask(DOCUMENT, QUESTION, max_new_tokens=0)
    with pytest.raises(InvalidOptionError, match="tokenizer= by name"):
        jrt.wrap(mamba, tokenizer)


def test_two_prompts_are_refused(mamba: Any) -> None:
    with pytest.raises(MethodConflictError, match="both decide the order"):
        jrt.wrap(mamba, jrt.JRTPrompt(1), jrt.JRTPrompt(2))


def test_text_needs_a_tokenizer(mamba: Any) -> None:
    with pytest.raises(TokenizerError, match="tokenizer="):
        jrt.wrap(mamba).ask(DOCUMENT, QUESTION)


def test_sampling_settings_of_a_checkpoint_do_not_leak(llama: Any, tokenizer: Any) -> None:
    reader = jrt.wrap(llama, tokenizer=tokenizer)
    expected = reader.ask(DOCUMENT, QUESTION, **SHORT)
    llama.generation_config.do_sample, llama.generation_config.temperature = True, 5.0
    try:
        assert all(reader.ask(DOCUMENT, QUESTION, **SHORT) == expected for _ in range(3))
    finally:
        llama.generation_config.do_sample, llama.generation_config.temperature = None, None


def test_a_callers_stopping_criteria_are_kept(llama: Any, tokenizer: Any) -> None:
    class AfterTwo:
        def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            return torch.full((len(input_ids),), input_ids.shape[1] >= start + 2)

    reader = jrt.wrap(llama, tokenizer=tokenizer)
    start = reader.explain(DOCUMENT, QUESTION).prompt_tokens
    assert reader.answer(DOCUMENT, QUESTION, stopping_criteria=[AfterTwo()], **SHORT).new_tokens == 2


def test_cut() -> None:
    assert cut("\n Oslo \nand more", "\n") == "Oslo"
    assert cut(" two\nlines ", None) == "two\nlines"
    assert cut("\n\n", "\n") == ""


def test_groups_mix_what_may_be_mixed() -> None:
    assert groups([3, 1, 3, 2], 2, lambda a, b: True) == [[1, 3], [0, 2]]
    assert groups([3, 1, 3, 2], 9, lambda a, b: a == b) == [[1], [3], [0, 2]]


def test_a_plan_of_ones_own(mamba: Any, tokenizer: Any) -> None:
    from jrt.prompts import Part

    reader = jrt.wrap(mamba, tokenizer=tokenizer)
    answer = reader.answer_plans([Plan((Part("context", "Mira lives in"),))], stop="\n", **SHORT)[0]
    assert answer.text == plain_answer(mamba, tokenizer, "Mira lives in")


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForMaskedLM", "ForQuestionAnswering", "Model"])
def test_what_writes_no_text_is_not_asked(head: str) -> None:
    encoder = build_encoder("bert", head)
    for methods in ((), (jrt.RMT(num_memory_tokens=2, segment_length=8),)):
        reader = jrt.wrap(encoder, *methods, tokenizer=word_tokenizer(size=64))
        for call in (reader.ask, reader.answer):
            with pytest.raises(UnsupportedModelError, match=rf"Bert{head} .*writes no text"):
                call(DOCUMENT, "Where does Mira live?")
        with pytest.raises(UnsupportedModelError, match="writes no text"):
            reader.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=2)
