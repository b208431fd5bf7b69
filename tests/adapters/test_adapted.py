"""What every adapting method gets from the base: shown on one that adds a learned bias to the logits."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

import pytest
import torch
from infini_families import build as build_infini
from text import word_tokenizer
from zoo import build, random_ids

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
from jrt.methods import Method, parse_method
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
    assert {path.name for path in parts.iterdir()} == {"jrt.json", "learned.safetensors"}
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


def test_wrapping_and_probing_leave_every_module_in_its_mode() -> None:
    for method in (jrt.RMT(2, 6), jrt.InfiniAttention(6)):
        model = build("llama").train()
        model.model.layers[0].eval()
        wrapped = jrt.wrap(model, method)
        wrapped.generate(random_ids(1, 9), max_new_tokens=1)
        assert model.training and not model.model.layers[0].training and not model.model.layers[0].mlp.training
        assert wrapped.training and wrapped.model.training
        assert not jrt.wrap(build("llama"), method).training


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(
    "method",
    [jrt.RMT(2, 6, update="gated"), parse_method("armt:num_memory_tokens=2,segment_length=6"),
     jrt.InfiniAttention(6, write_gate=True, gate_init=0.0)],
    ids=lambda method: method.kind,
)  # fmt: skip
@torch.no_grad()
def test_a_model_may_be_moved_to_another_type_after_it_is_adapted(method: Method, dtype: torch.dtype) -> None:
    model, ids = method.adapt(build_infini("llama")), random_ids(1, 20)
    expected = model(ids).logits
    found = model.to(dtype)(ids).logits
    assert found.dtype == dtype
    assert float((found - expected).abs().max() / expected.abs().max()) < 40 * torch.finfo(dtype).eps + 1e-6
    model.generate(ids, max_new_tokens=9)


@pytest.mark.parametrize("method", [jrt.RMT(2, 6), jrt.InfiniAttention(6)], ids=lambda method: method.kind)
def test_weights_that_accelerate_keeps_elsewhere_are_fetched(method: Method) -> None:
    accelerate = pytest.importorskip("accelerate")
    plain = method.adapt(build("llama"))
    model = method.adapt(accelerate.cpu_offload(build("llama"), execution_device=torch.device("cpu")))
    assert model.base.device.type == "meta" and model.device.type == "cpu"
    model.load_learned(plain.learned())
    ids = random_ids(1, 20)
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, plain(ids).logits, rtol=0, atol=0)
    assert torch.equal(model.generate(ids, max_new_tokens=3), plain.generate(ids, max_new_tokens=3))


def test_a_compiled_model_is_compiled_after_it_is_adapted() -> None:
    compiled = torch.compile(build("llama"), backend="eager")
    for method in (jrt.RMT(2, 6), jrt.InfiniAttention(6)):
        with pytest.raises(UnsupportedModelError, match=r"compiled already.*torch\.compile\(jrt\.wrap"):
            jrt.wrap(compiled, method)


def test_what_passes_a_method_by_says_what_to_do() -> None:
    model = jrt.RMT(2, 6).adapt(build("llama"))
    with pytest.raises(AttributeError, match="put PEFT around the base model"):
        model.prepare_inputs_for_generation  # noqa: B018
    with pytest.raises(AttributeError, match=r"Reader\.save_pretrained"):
        model.save_pretrained("here")
    with pytest.raises(InvalidOptionError, match="no input_ids"):
        model.generate(inputs_embeds=torch.zeros(1, 4, 64))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks for it
def test_an_adapter_of_peft_comes_back_or_is_missed(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = build("llama")
    base.save_pretrained(tmp_path / "base"), word_tokenizer().save_pretrained(tmp_path / "base")
    base = type(base).from_pretrained(tmp_path / "base")
    lora = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    tuned = peft.get_peft_model(base, lora).eval()
    kept, ids = jrt.wrap(tuned, jrt.RMT(2, 6)), random_ids(1, 13)
    whole, parts = (
        kept.save_pretrained(tmp_path / "whole", include_model=True),
        kept.save_pretrained(tmp_path / "parts"),
    )
    with torch.no_grad():
        for again in (jrt.load(str(whole), device="cpu"), jrt.Reader.from_pretrained(parts, tuned)):
            torch.testing.assert_close(again(ids).logits, kept(ids).logits, rtol=0, atol=0)
    with pytest.raises(StateMismatchError, match="with an adapter of PEFT"):
        jrt.load(str(parts), device="cpu")
