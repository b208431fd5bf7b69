"""Tokens at a boundary: what was read stays, and what follows keeps its spaces."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from text import word_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import jrt
from jrt.prompts import Part, Plan
from jrt.tokens import encode, encode_after, encode_plan, left_pad, lengthen


def merging_tokenizer() -> Any:
    """Byte-level BPE that merges a full stop with the newline after it, with BOS in front and EOS behind."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*letters, ".Ċ", "<s>", "</s>"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [(".", "Ċ")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=special)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def test_special_tokens_in_front_only() -> None:
    tokenizer = merging_tokenizer()
    ids = encode(tokenizer, "ab", special=True)
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", "a", "b"]
    plan = Plan((Part("context", "ab"),))
    assert encode_plan(tokenizer, plan) == ids
    assert encode_plan(tokenizer, Plan(plan.parts, chat=True)) == ids[1:]


def test_tokens_that_would_merge_stay_apart() -> None:
    tokenizer = merging_tokenizer()
    assert tokenizer.convert_ids_to_tokens(encode_after(tokenizer, "ab", "c\n")) == ["c", "Ċ"]
    assert tokenizer.convert_ids_to_tokens(encode_after(tokenizer, "ab.", "\nc")) == ["Ċ", "c"]


@settings(deadline=None, max_examples=60)
@given(before=st.text("ab. \n", max_size=12), after=st.text("ab. \n", min_size=1, max_size=12))
def test_the_text_is_whole_across_a_boundary(before: str, after: str) -> None:
    tokenizer = merging_tokenizer()
    ids = encode(tokenizer, before, special=False) + encode_after(tokenizer, before, after)
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == before + after


def test_left_padding() -> None:
    ids, mask = left_pad(word_tokenizer(), [[7], [8, 9, 10]], torch.device("cpu"))
    assert ids.tolist() == [[0, 0, 7], [8, 9, 10]]
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1]]


@pytest.mark.parametrize(("order", "expected"), [
    ("question_first", [1, 9, 4, 6, 7, 4, 6, 7, 9]),
    ("context_first", [1, 6, 7, 4, 6, 7, 9]),
    ("repeat", [1, 6, 7, 9, 4, 6, 7, 9]),
])  # fmt: skip
def test_lengthening_repeats_no_special_token_and_no_padding(order: str, expected: list[int]) -> None:
    tokenizer = word_tokenizer()  # 1 is BOS, 4 is a newline
    ids, mask = torch.tensor([[0, 1, 6, 7, 9]]), torch.tensor([[0, 1, 1, 1, 1]])
    longer, longer_mask = lengthen(jrt.JRTPrompt(2, order=order), tokenizer, ids, mask, 3)
    assert longer.tolist() == [expected]
    assert bool(longer_mask.all())
