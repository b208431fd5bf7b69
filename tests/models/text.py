"""A word-level tokenizer for the zoo's vocabulary, with a chat template, so that text runs through random models."""

from __future__ import annotations

from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>"]
WORDS = [
    "\n", "Question:", "Answer:", "Where", "What", "Who", "does", "is", "live", "lives", "like", "likes", "in", "the",
    "a", "Mira", "Tarek", "Ana", "Oslo", "Rome", "plums", "figs", "sky", "blue", "red", ".", "?", ",", "and", "user:",
    "assistant:", "system:", "Be", "brief", "capital", "of", "Norway", "Italy",
]  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
DOCUMENT = "Mira lives in Oslo. Tarek lives in Rome. Ana likes figs and plums. The sky is blue."


def word_tokenizer(*, chat: bool = False, pad: bool = True, size: int = 128) -> Any:
    """A tokenizer whose ids stay below `size`; words it does not know become `<unk>`."""
    vocabulary = {word: index for index, word in enumerate(SPECIAL + WORDS)}
    vocabulary |= {f"w{index}": index for index in range(len(vocabulary), size)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n"), "isolated"),
            pre_tokenizers.Split(Regex(r" +"), "removed"),
            pre_tokenizers.Split(Regex(r"[.,?]"), "isolated"),
        ]
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    options = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    if pad:
        options["pad_token"] = "<pad>"
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **options)
    if chat:
        wrapped.chat_template = TEMPLATE
    return wrapped
