"""What every adapting method gets from the base: shown on one that adds a learned bias to the logits."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

import pytest
import torch
from text import word_tokenizer
from zoo import build

import jrt
from jrt.adapters import AdaptedModel
from jrt.errors import (
    DataFormatError,
    InputNotFoundError,
    InvalidOptionError,
    MethodConflictError,
    StateMismatchError,
    UnsupportedModelError,
)
from jrt.methods import Method
from jrt.prompts import JRTPrompt

DOCUMENT = "mira lives in oslo . tom lives in rome . ada likes tea ."


class BiasedModel(AdaptedModel):
    def __init__(self, base: Any, method: Biased) -> None:
        super().__init__(base, method)
        self.bias = torch.nn.Parameter(torch.full((method.width,), method.start))

    def forward(
        self, input_ids: Any, attention_mask: Any = None, past_key_values: Any = None, use_cache: bool | None = None
    ) -> Any:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        positions = (mask.cumsum(1) - 1).clamp_min(0)[:, -input_ids.shape[1] :]
        output = self.base(
            input_ids=input_ids,
            attention_mask=mask,
            past_key_values=past_key_values,
            position_ids=positions,
            use_cache=use_cache,
        )
        output.logits = (
            output.logits + self.bias.repeat(output.logits.shape[-1] // len(self.bias) + 1)[: output.logits.shape[-1]]
        )
        return output


class Biased(Method):
    kind = "biased"
    width: int = 3
    start: float = 0.0

    def adapt(self, model: Any) -> Any:
        return BiasedModel(model, self)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(jrt.methods.BUILT_IN, "biased", f"{__name__}:Biased")
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or type(sys)(__name__))
    monkeypatch.setattr(sys.modules[__name__], "Biased", Biased, raising=False)


def reader(*methods: Method, **options: Any) -> Any:
    return jrt.wrap(build("llama"), *methods, tokenizer=word_tokenizer(), **options)


def test_an_adapted_model_that_changes_nothing_answers_like_the_model() -> None:
    plain, adapted = reader(), reader(Biased())
    assert isinstance(adapted.model, BiasedModel) and adapted.model.base is adapted.base_model
    for options in ({}, {"num_beams": 3}, {"do_sample": True}):
        texts = []
        for one in (plain, adapted):
            torch.manual_seed(0)
            texts.append(one.ask(DOCUMENT, "who lives in rome ?", max_new_tokens=5, **options))
        assert texts[0] == texts[1]
    questions = ["who lives in rome ?", "what does ada like ?"]
    assert plain.ask_many(DOCUMENT, questions) == adapted.ask_many(DOCUMENT, questions)
    assert adapted.capabilities.continuation == "chunk" and adapted.max_length is None


def test_what_is_learned_is_read() -> None:
    plain, adapted = reader(), reader(Biased(start=0.0))
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        adapted.model.bias.copy_(torch.tensor([1e3, 0.0, 0.0]))
        assert not torch.equal(plain(ids).logits, adapted(ids).logits)
        assert int(adapted.generate(ids, max_new_tokens=1)[0, -1]) % 3 == 0
        assert torch.equal(plain(ids).logits, build("llama")(ids).logits)


def test_other_methods_around_the_same_adapted_model_keep_what_it_learned() -> None:
    adapted = reader(Biased())
    other = adapted.with_methods(JRTPrompt(passes=2), Biased())
    assert other.model is adapted.model
    assert adapted.with_methods(JRTPrompt(passes=2)).model is adapted.base_model
    assert adapted.with_methods(Biased(width=2)).model is not adapted.model


def test_two_methods_that_adapt_are_refused() -> None:
    with pytest.raises(MethodConflictError, match="both keep a memory"):
        reader(Biased(), Biased(width=2))


def test_learned_weights_are_all_but_the_base(tmp_path: Path) -> None:
    adapted = reader(Biased())
    assert list(adapted.model.learned()) == ["bias"]
    groups = adapted.model.parameter_groups(0.1)
    assert sum(len(group["params"]) for group in groups) == len(list(adapted.parameters()))
    assert any(parameter is adapted.model.bias for parameter in groups[1]["params"])
    assert groups[1]["weight_decay"] == 0.0


def test_memories_of_two_kinds_are_refused_before_anything_is_built() -> None:
    with pytest.raises(MethodConflictError, match="both keep a memory"):
        reader(jrt.RMT(2, segment_length=8), jrt.InfiniAttention(8))


@pytest.mark.parametrize("model", [None, "jrt/tiny-rmt", torch.nn.Linear(2, 2), build("llama").config])
def test_what_is_no_model_cannot_be_wrapped(model: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="is no model of transformers"):
        jrt.wrap(model)


def test_a_reader_is_not_wrapped_again() -> None:
    with pytest.raises(InvalidOptionError, match="with_methods"):
        jrt.wrap(reader(Biased()), Biased())


@pytest.mark.usefixtures("known")
def test_a_reader_is_saved_and_loaded(tmp_path: Path) -> None:
    adapted = reader(JRTPrompt(passes=2), Biased())
    with torch.no_grad():
        adapted.model.bias.copy_(torch.tensor([0.5, -2.0, 1.0]))
    whole = adapted.save_pretrained(tmp_path / "whole", include_model=True)
    for again in (jrt.load(str(whole)), jrt.Reader.from_pretrained(whole)):
        assert again.methods == adapted.methods
        assert torch.equal(again.model.bias, adapted.model.bias)
        assert again.ask(DOCUMENT, "who lives in rome ?") == adapted.ask(DOCUMENT, "who lives in rome ?")
    parts = adapted.save_pretrained(tmp_path / "parts")
    assert {path.name for path in parts.iterdir()} - {".lock"} == {"jrt.json", "learned.safetensors"}
    around = jrt.Reader.from_pretrained(parts, adapted.base_model, tokenizer=adapted.tokenizer)
    assert torch.equal(around.model.bias, adapted.model.bias)
    once = jrt.load(str(whole), JRTPrompt(passes=1))
    assert once.prompt.passes == 1 and torch.equal(once.model.bias, adapted.model.bias)


@pytest.mark.usefixtures("known")
def test_saved_readers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = reader(Biased()).save_pretrained(tmp_path / "saved", include_model=True)
    with pytest.raises(StateMismatchError, match="'bias' is 3 in the saved weights and 2"):
        jrt.load(str(folder), Biased(width=2))
    learned = folder / "learned.safetensors"
    content = learned.read_bytes()
    learned.write_bytes(content[:20])
    with pytest.raises(DataFormatError, match="no safetensors file"):
        jrt.load(str(folder))
    learned.unlink()
    with pytest.raises(InputNotFoundError, match=r"no learned\.safetensors"):
        jrt.load(str(folder))
    (folder / "jrt.json").write_text('{"format": 1}')
    with pytest.raises(DataFormatError, match="was not written by this version"):
        jrt.load(str(folder))
    with pytest.raises(InputNotFoundError, match=r"no jrt\.json"):
        jrt.Reader.from_pretrained(tmp_path, build("llama"))
