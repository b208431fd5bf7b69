"""A tokenizer whose tokens are the words of a small language, for models that are trained from nothing on a task."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

PAD, END, UNKNOWN = "<pad>", "<eos>", "<unk>"
_TOKEN = r"\n|\w+|[^\w\s]"


def words_of(texts: Iterable[str]) -> list[str]:
    """Every word, mark and newline of some texts, in the order of their first appearance."""
    return list(dict.fromkeys(word for text in texts for word in re.findall(_TOKEN, text)))


def word_tokenizer(words: Iterable[str]) -> Any:
    """A tokenizer of transformers that knows `words`, marks and newlines among them; everything else is unknown."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(dict.fromkeys([PAD, END, UNKNOWN, *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_TOKEN), "removed", invert=True)
    tokenizer.decoder = decoders.Sequence([decoders.WordPiece(cleanup=True), decoders.Fuse()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
    )
