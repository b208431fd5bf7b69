"""Printing an answer while it is generated, exactly as it will be cut in the end."""

from __future__ import annotations

import sys
from typing import Any

from transformers import TextStreamer


class AnswerStreamer(TextStreamer):
    """Writes to stdout what the final answer will hold: no white space in front, nothing from `stop` on."""

    def __init__(self, tokenizer: Any, stop: str | None) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.stop = stop
        self.begun = self.done = False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if not self.begun:
            text = text.lstrip()
            self.begun = bool(text)
        if not self.done:
            before, found, _ = text.partition(self.stop) if self.stop else (text, "", "")
            self.done = bool(found)
            sys.stdout.write(before)
        if stream_end:
            sys.stdout.write("\n")
        sys.stdout.flush()
