"""What cannot work is refused, with the reason and what to type instead."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
sys.path.insert(0, str(Path(__file__).parent))

import pytest
import torch
import transformers
from encoders import build_encoder, random_text
from rmt_models import build_decoder, decoder
from text import word_tokenizer
from zoo import build, random_ids

import jrt
from jrt.adapters.rmt import RMT
from jrt.errors import EmptyInputError, InvalidOptionError, StateMismatchError, UnsupportedModelError
from jrt.methods import parse_method


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_memory_tokens=-1), "num_memory_tokens=-1"),
        (dict(segment_length=0), "segment_length=0"),
        (dict(bptt_segments=-2), "bptt_segments=-2"),
        (dict(update="gatd"), "update='gatd'"),
        (dict(segment_len=7), "Did you mean 'segment_length'"),
        (dict(write_penalty=0.1), "update='gated'"),
        (dict(write_penalty=float("inf"), update="gated"), "write_penalty=inf"),
        (dict(initial_std=float("inf")), "initial_std=inf"),
    ],
)
def test_options_that_do_not_exist_or_mean_nothing(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message.replace("(", r"\(")):
        RMT(**options)


def test_a_segment_and_its_memory_must_fit_the_positions() -> None:
    bert, roberta = build_encoder("bert", "Model"), build_encoder("roberta", "Model")
    special = dict(cls_token_id=3, sep_token_id=4)
    with pytest.raises(InvalidOptionError, match=r"has 64 positions.*RMT\(segment_length=51\)"):
        RMT(num_memory_tokens=10, segment_length=52, **special).adapt(bert)
    assert RMT(num_memory_tokens=10, **special).adapt(bert).segment_length == 64 - 10 - 3
    assert RMT(num_memory_tokens=0, **special).adapt(bert).segment_length == 64 - 2
    whole = RMT(num_memory_tokens=4).adapt(roberta)
    assert whole.segment_length == 60, "66 positions, of which the first two are for padding"
    whole(random_text(1, 120))
    with pytest.raises(InvalidOptionError, match=r"has 256 positions.*RMT\(segment_length=236\)"):
        RMT(num_memory_tokens=10, segment_length=237).adapt(build("gpt2"))
    with pytest.raises(InvalidOptionError, match="fewer memory tokens"):
        RMT(num_memory_tokens=200).adapt(build("opt"))
    longest = RMT(num_memory_tokens=10, segment_length=236).adapt(build("opt"))
    longest(random_ids(1, 240))


def test_special_tokens_that_a_model_does_not_have() -> None:
    for option in ("cls_token_id", "sep_token_id"):
        with pytest.raises(
            InvalidOptionError, match=rf"RMT\({option}=64\): BertModel has the tokens 0 to 63.*for_tokenizer"
        ):
            RMT(segment_length=8, **{option: 64}).adapt(build_encoder("bert", "Model"))
        with pytest.raises(InvalidOptionError, match=f"{option}.*LlamaForCausalLM is a decoder"):
            RMT(segment_length=8, **{option: 3}).adapt(build("llama"))


def test_an_encoder_writes_no_text() -> None:
    reader = jrt.wrap(build_encoder("bert", "ForMaskedLM"), RMT(2, 8), tokenizer=word_tokenizer())
    for call in (lambda: reader.generate(random_text(1, 9)), lambda: reader.ask("mira lives in oslo .", "where ?"),
                 lambda: reader.model.generate(random_text(1, 9))):  # fmt: skip
        with pytest.raises(UnsupportedModelError, match="BertForMaskedLM is an encoder"):
            call()


def test_models_without_a_place_for_memory() -> None:
    t5 = transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    )
    with pytest.raises(UnsupportedModelError, match="encoder-decoder"):
        jrt.wrap(t5, RMT(segment_length=8))
    shape = dict(d_model=16, encoder_ffn_dim=16, decoder_ffn_dim=16, encoder_attention_heads=2, vocab_size=64)
    shape |= dict(decoder_attention_heads=2, encoder_layers=1, decoder_layers=1, eos_token_id=2)
    for name in ("BartModel", "BartForConditionalGeneration", "BartForSequenceClassification"):
        for encoder_decoder in (True, False):  # the decoder's own class sets False in the config that both share
            bart = getattr(transformers, name)(transformers.BartConfig(**shape))
            bart.config.is_encoder_decoder = encoder_decoder
            with pytest.raises(UnsupportedModelError, match=f"{name} is an encoder-decoder model"):
                RMT(2, 8).adapt(bart)
    assert not RMT(2, 8).adapt(t5.encoder).facts.causal, "the stack of an encoder-decoder model is an encoder"
    for name in ("mamba", "jamba", "minimax", "recurrent_gemma"):
        with pytest.raises(UnsupportedModelError, match="recurrent"):
            RMT(segment_length=8).adapt(build(name))
    config = build_decoder("llama").config
    with pytest.raises(UnsupportedModelError, match="AutoModelForCausalLM"):
        RMT(segment_length=8).adapt(transformers.LlamaForSequenceClassification(config))
    with pytest.raises(UnsupportedModelError, match="AutoModelForCausalLM"):
        RMT(segment_length=8).adapt(transformers.LlamaModel(config))
    with pytest.raises(UnsupportedModelError, match="prediction_logits"):
        RMT(segment_length=8).adapt(build_encoder("bert", "ForPreTraining"))
    with pytest.raises(UnsupportedModelError, match=r"GPT2ForTokenClassification is a decoder without a language"):
        RMT(segment_length=8).adapt(transformers.GPT2ForTokenClassification(build("gpt2").config))
    with pytest.raises(UnsupportedModelError, match=r"cannot read one row of embeddings: shape.*sequence classif"):
        RMT(segment_length=8).adapt(build_encoder("bert", "ForMultipleChoice"))
    small = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    image = transformers.ViTModel(transformers.ViTConfig(**small, image_size=8, patch_size=4))
    caption = transformers.CLIPTextModel(transformers.CLIPTextConfig(**small, vocab_size=64, eos_token_id=2))
    for model, message in ((image, "ViTModel reads no token ids"), (caption, "takes no inputs_embeds in its forward")):
        with pytest.raises(UnsupportedModelError, match=message):
            RMT(segment_length=8).adapt(model)
    with pytest.raises(InvalidOptionError, match="Leave alignment out"):
        RMT(segment_length=8, alignment="right").adapt(build("llama"))


def test_labels_of_the_wrong_kind_or_shape() -> None:
    ids = random_text(2, 20)
    options = dict(num_memory_tokens=2, segment_length=8)
    classifier = RMT(**options).adapt(build_encoder("bert", "ForSequenceClassification"))
    with pytest.raises(InvalidOptionError, match=r"\(3,\).*there are 2"):
        classifier(ids, labels=torch.tensor([0, 1, 2]))
    with pytest.raises(InvalidOptionError, match="question answering"):
        classifier(ids, start_positions=torch.tensor([0, 1]), end_positions=torch.tensor([0, 1]))
    with pytest.raises(InvalidOptionError, match=rf"labels hold 7.*0 to {classifier.base.config.num_labels - 1}\."):
        classifier(ids, labels=torch.tensor([1, 7]))
    with pytest.raises(InvalidOptionError, match=r"\(2, 5\).*chooses one of"):
        classifier(ids, labels=torch.ones(2, 5, dtype=torch.long))
    with pytest.raises(InvalidOptionError, match=r"\(2, 5\).*yes or no"):
        classifier(ids, labels=torch.ones(2, 5))
    assert classifier(ids, labels=torch.tensor([[1], [0]])).loss.isfinite()
    with pytest.raises(InvalidOptionError, match=r"float32.*chooses one of"):
        classifier(ids, labels=torch.ones(2))
    tagger = RMT(**options).adapt(build_encoder("bert", "ForTokenClassification"))
    with pytest.raises(InvalidOptionError, match=r"\(2, 19\).*\(2, 20\)"):
        tagger(ids, labels=ids[:, 1:])
    with pytest.raises(InvalidOptionError, match="labels hold 60"):
        tagger(ids, labels=torch.full_like(ids, 60))
    with pytest.raises(InvalidOptionError, match="no head"):
        RMT(**options).adapt(build_encoder("bert", "Model"))(ids, labels=ids)
    answerer = RMT(**options).adapt(build_encoder("bert", "ForQuestionAnswering"))
    with pytest.raises(InvalidOptionError, match="Only one"):
        answerer(ids, start_positions=torch.tensor([0, 1]))
    mask = (torch.arange(20) >= torch.tensor([[0], [5]])).long()
    with pytest.raises(InvalidOptionError, match=r"end_positions\[1\] = 4 is a column of padding"):
        answerer(ids, mask, start_positions=torch.tensor([0, 5]), end_positions=torch.tensor([3, 4]))
    spans = dict(start_positions=torch.tensor([0, 5]), end_positions=torch.tensor([3, 20]))
    assert 0 < answerer(ids, mask, **spans).loss.item() < 100
    with pytest.raises(InvalidOptionError, match="token types"):
        RMT(**options).adapt(build_encoder("distilbert", "Model"))(ids, token_type_ids=torch.zeros_like(ids))
    with pytest.raises(InvalidOptionError, match="attention_mask has the shape"):
        classifier(ids, torch.ones(2, 21))
    with pytest.raises(InvalidOptionError, match=r"labels have the shape \(2, 19\)"):
        decoder()(random_ids(2, 20), labels=random_ids(2, 19))


def test_memories_and_states_of_the_wrong_shape() -> None:
    encoder = RMT(num_memory_tokens=2, segment_length=8).adapt(build_encoder("bert", "Model"))
    with pytest.raises(StateMismatchError, match=r"\(2, 3, 32\).*need \(2, 2, 32\)"):
        encoder(random_text(2, 20), memory=torch.zeros(2, 3, 32))
    model, ids = decoder(), random_ids(2, 20)
    with pytest.raises(StateMismatchError, match=r"need \(2, 2, 64\)"):
        model(ids, memory=torch.zeros(1, 2, 64))
    cache = model(ids).past_key_values
    with pytest.raises(StateMismatchError, match="Pass one of them"):
        model(ids, memory=torch.zeros(2, 2, 64), past_key_values=cache)
    with pytest.raises(StateMismatchError, match="of 2 rows for 1 rows"):
        model(ids[:1], past_key_values=cache)
    with pytest.raises(StateMismatchError, match="DynamicCache"):
        model(ids, past_key_values=transformers.DynamicCache())
    with pytest.raises(InvalidOptionError, match="attention_mask has the shape"):
        model(ids, torch.ones(2, 19))


def test_nothing_to_read() -> None:
    encoder = RMT(num_memory_tokens=2, segment_length=8).adapt(build_encoder("bert", "Model"))
    for model, ids in ((encoder, random_text(2, 9)), (decoder(), random_ids(2, 9))):
        with pytest.raises(EmptyInputError):
            model(ids[:, :0])
        with pytest.raises(EmptyInputError):
            model(ids, torch.zeros_like(ids))
        with pytest.raises(EmptyInputError, match="no row"):
            model(ids[:0])
        with pytest.raises(InvalidOptionError, match="rows of token ids"):
            model(ids[0])
        for keep in (-1, torch.tensor([1, 2])):
            with pytest.raises(InvalidOptionError, match="no number of last columns"):
                model(ids, logits_to_keep=keep)
    with pytest.raises(EmptyInputError, match="logits are asked for"):
        decoder()(ids, (torch.arange(9) < 6).long().expand(2, -1), logits_to_keep=2)


def test_the_method_is_found_by_its_name_and_says_itself() -> None:
    method = parse_method("rmt:segment_length=12,update=gated,write_penalty=0.05")
    assert method == jrt.RMT(segment_length=12, update="gated", write_penalty=0.05)
    assert parse_method(str(method)) == method and jrt.methods.Method.from_dict(method.to_dict()) == method


def test_arguments_of_stock_models_work_where_they_mean_nothing_and_are_explained_elsewhere() -> None:
    encoder = jrt.wrap(build_encoder("bert", "ForSequenceClassification"), RMT(2, 8))
    decoder_, infini = (jrt.wrap(build("llama"), method) for method in (RMT(2, 8), jrt.InfiniAttention(8)))
    refused = dict(output_hidden_states=True, output_attentions=True, position_ids=torch.zeros(2, 20))
    for model, ids, others in (
        (encoder, random_text(2, 20), {"inputs_embeds": "Pass input_ids"}),
        (decoder_, random_ids(2, 20), {"inputs_embeds": "Pass input_ids", "token_type_ids": "return_token_type_ids=F"}),
        (infini, random_ids(2, 20), {"token_type_ids": "return_token_type_ids=False"}),
    ):
        expected = model(ids).logits
        nothing = dict(output_hidden_states=False, output_attentions=None, position_ids=None)
        assert torch.equal(model(ids, return_dict=True, **nothing).logits, expected)
        as_tuple = model(ids, return_dict=False)
        assert type(as_tuple) is tuple and torch.equal(as_tuple[0], expected)
        for name, value in refused.items():
            with pytest.raises(InvalidOptionError, match=f"takes no {name}: .*[Ll]eave "):
                model(ids, **{name: value})
        for name, hint in others.items():
            with pytest.raises(InvalidOptionError, match=f"takes no {name}: .*{hint}"):
                model(ids, **{name: ids})
    with pytest.raises(TypeError, match="inputs_ids"):
        encoder(inputs_ids=ids)


def test_generation_takes_no_memory() -> None:
    model = decoder("llama")
    memory = model(random_ids(1, 20)).memory
    with pytest.raises(InvalidOptionError, match="begins with an empty memory"):
        model.generate(random_ids(1, 5), memory=memory, max_new_tokens=2)
