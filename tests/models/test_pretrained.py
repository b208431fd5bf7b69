"""Based and JRT-RNN as models of transformers: loading, saving, training modes, data types, the Reader."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parent))
from released import build, random_ids
from text import DOCUMENT, word_tokenizer

import jrt
from jrt.errors import InvalidOptionError, UnknownNameError
from jrt.models import BasedConfig, JRTConfig, JRTForCausalLM, register

KINDS = ("based", "jrt")
QUESTIONS = ["Where does Mira live?", "What is the capital of Norway, and what does Ana like?"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_saved_and_loaded_by_the_auto_classes(kind: str, tmp_path: Path) -> None:
    model = build(kind, dtype=torch.float32, sliding_window=3)
    model.save_pretrained(tmp_path)
    register()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert loaded.config.mixers == model.config.mixers and loaded.config.sliding_window == 3
    assert torch.equal(loaded(random_ids(1, 9)).logits, model(random_ids(1, 9)).logits)
    assert AutoConfig.from_pretrained(tmp_path).to_dict() == loaded.config.to_dict()
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in list(file.keys()), "the tied head is written once"


def test_weights_start_small_where_layers_write_into_the_stream() -> None:
    config = JRTConfig(vocab_size=64, hidden_size=128, num_attention_heads=2, mixers=["conv", "prefix", "sliding"] * 4)
    model = JRTForCausalLM(config)
    layer = model.transformer.layers[1]
    assert float(layer.mixer.proj_q.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert float(layer.mixer.out_proj.weight.detach().std()) == pytest.approx(0.02 / 24**0.5, rel=0.05)
    assert model.lm_head.weight is model.transformer.embeddings.word_embeddings.weight


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_gives_the_same_gradients(kind: str) -> None:
    plain, ids = build(kind).train(), random_ids(2, 14)
    options: dict[str, Any] = {} if kind == "based" else {"prefix_length": 6}
    checkpointed = copy.deepcopy(plain)
    checkpointed.activation_checkpointing_enable()
    losses = [model(ids, labels=ids, **options).loss for model in (plain, checkpointed)]
    for loss in losses:
        loss.backward()
    assert torch.equal(*losses)
    for (name, a), (_, b) in zip(plain.named_parameters(), checkpointed.named_parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=0, atol=1e-12 * float(a.grad.abs().max() + 1)), name
    memory = plain.eval()(ids).past_key_values
    with pytest.raises(InvalidOptionError, match="checkpointing"):
        checkpointed(ids, past_key_values=memory)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    model, ids = build(kind).train(), random_ids(1, 10)
    options: dict[str, Any] = {} if kind == "based" else {"prefix_length": 4}
    model(ids, labels=ids, **options).loss.backward()
    for name, parameter in model.named_parameters():
        flat, index = parameter.data.view(-1), parameter.grad.abs().argmax()
        before, steps = float(flat[index]), []
        for step in (1e-5, -1e-5):
            flat[index] = before + step
            steps.append(float(model(ids, labels=ids, **options).loss.detach()))
        flat[index] = before
        assert (steps[0] - steps[1]) / 2e-5 == pytest.approx(float(parameter.grad.view(-1)[index]), rel=1e-4), name


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_stay_float32_and_do_not_lose_late_tokens(kind: str, dtype: torch.dtype) -> None:
    model, ids = build(kind, dtype=dtype), random_ids(1, 300)
    memory = model(ids).past_key_values
    layer = memory.layers[1]
    assert layer.sums.dtype == layer.normalizer.dtype == torch.float32
    assert layer.keys is None and memory.layers[2].keys.dtype == dtype
    constant, before = 4 * 5 // 2 + 4, layer.normalizer.clone()
    model(ids[:, :1], past_key_values=memory)
    assert float(layer.normalizer[0, 0, constant] - before[0, 0, constant]) == 1, "in bf16 this +1 would be lost"
    assert float(before[0, 0, constant]) == 300 + (12 if kind == "jrt" else 0)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_and_autocast_are_close(kind: str) -> None:
    model, ids = build(kind, dtype=torch.float32), random_ids(2, 20)
    expected = model(ids).logits
    half = copy.deepcopy(model).to(torch.bfloat16)(ids).logits.float()
    assert float((half - expected).norm() / expected.norm()) < 0.05
    with torch.autocast("cpu", torch.bfloat16):
        cast = model(ids).logits.float()
    assert float((cast - expected).norm() / expected.norm()) < 0.05


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_it_compiles_to_one_graph(kind: str) -> None:
    model, ids = build(kind, dtype=torch.float32), random_ids(2, 13)
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    found = compiled(ids, attention_mask=mask, use_cache=False).logits
    assert torch.allclose(found, model(ids, attention_mask=mask).logits, atol=1e-5)
    memory = compiled(ids).past_key_values
    step = compiled(ids[:, :1], past_key_values=memory).logits
    assert torch.allclose(step, model(ids[:, :1], past_key_values=model(ids).past_key_values).logits, atol=1e-5)


@torch.no_grad()
def test_transformers_options() -> None:
    model, ids = build("jrt"), random_ids(2, 9)
    whole = model(ids, output_hidden_states=True)
    assert len(whole.hidden_states) == 7
    assert torch.equal(whole.logits, model.lm_head(whole.hidden_states[-1]))
    embedded = model(inputs_embeds=model.get_input_embeddings()(ids))
    assert torch.equal(embedded.logits, whole.logits)
    assert torch.allclose(model(ids, logits_to_keep=2).logits, whole.logits[:, -2:], rtol=0, atol=1e-13)
    some = model(ids, logits_to_keep=torch.tensor([3, 5])).logits
    assert torch.allclose(some, whole.logits[:, [3, 5]], rtol=0, atol=1e-13)
    assert isinstance(model(ids, return_dict=False), tuple)
    assert model(ids, use_cache=False).past_key_values is None
    produced = model.generate(
        inputs_embeds=model.get_input_embeddings()(ids), max_new_tokens=4, do_sample=False, eos_token_id=None
    )
    expected = model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert torch.equal(produced, expected[:, 9:])


@pytest.mark.parametrize("padding", ["strict", "legacy"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_reader_asks_and_keeps_what_it_read(kind: str, padding: str, tmp_path: Path) -> None:
    if kind == "based" and padding == "legacy":
        return
    options: dict[str, Any] = {} if kind == "based" else {"padding": padding}
    model = build(kind, vocab_size=128, **options)
    tokenizer = word_tokenizer()
    reader = jrt.wrap(model, tokenizer=tokenizer)
    ids = tokenizer(reader.plan(DOCUMENT, QUESTIONS[0]).text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = model.generate(ids, max_new_tokens=5, do_sample=False)[0, ids.shape[1] :]
    answer = tokenizer.decode(expected, skip_special_tokens=True).split("\n", 1)[0].strip()
    assert reader.ask(DOCUMENT, QUESTIONS[0], max_new_tokens=5, do_sample=False) == answer
    reading = reader.read(DOCUMENT)
    answers = reading.ask_many(QUESTIONS, max_new_tokens=5)
    assert answers == [reading.ask(question, max_new_tokens=5) for question in QUESTIONS]
    assert answers == reader.ask_many(DOCUMENT, QUESTIONS, max_new_tokens=5)
    reading.save(tmp_path / "reading")
    assert jrt.Reading.load(tmp_path / "reading", reader).ask_many(QUESTIONS, max_new_tokens=5) == answers


def test_a_document_is_the_prefix_of_what_is_asked_about_it() -> None:
    model, tokenizer = build("jrt", vocab_size=128, encoder_length=1000), word_tokenizer()
    reading = jrt.wrap(model, tokenizer=tokenizer).read(DOCUMENT)
    document = reading.state.ids
    more = random_ids(1, 4)
    with torch.no_grad():
        found = model(more, past_key_values=reading.state.fork().cache).logits
        expected = model(torch.cat([document, more], 1), prefix_length=document.shape[1]).logits[:, -4:]
    assert float((found - expected).abs().max()) < 1e-10


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (BasedConfig, dict(mixers=["prefix"]), "has no mixer 'prefix'"),
        (JRTConfig, dict(mixers=["prefixx"]), "Did you mean 'prefix'"),
        (JRTConfig, dict(padding="loose"), "no padding 'loose'"),
        (JRTConfig, dict(hidden_size=30, num_attention_heads=4), "heads"),
        (JRTConfig, dict(vocab_size=100, padding="legacy"), "filler_token is 220"),
        (JRTConfig, dict(num_hidden_layers=9), "num_hidden_layers is 9"),
        (JRTConfig, dict(encoder_length=-1), "encoder_length"),
        (BasedConfig, dict(conv_kernel=1), "conv_kernel"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(config: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        config(**options)
    with pytest.raises(UnknownNameError, match=r"360m"):
        config.preset("360")
