"""What a call would read, before anything is read: the prompt, its tokens by part, and whether it fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jrt.methods import Method
from jrt.prompts import Plan
from jrt.prompts.budget import PartCount, check, count_parts, describe
from jrt.tokens import encode, encode_plan

if TYPE_CHECKING:
    from jrt.reader import Reader


@dataclass(frozen=True)
class Explanation:
    """The exact prompt of one call.

    Attributes:
        prompt: what the model reads.
        parts: tokens of every part in reading order, the tokenizer's own special tokens first. Tokens may merge where
            parts meet, so the sum can be slightly above `prompt_tokens`.
        prompt_tokens: tokens of the whole prompt.
        max_new_tokens: the longest answer.
        max_length: the longest prompt and answer that the model reads; None when there is no limit.
        model: the model's name.
        method: what made the prompt.
    """

    prompt: str
    parts: tuple[PartCount, ...]
    prompt_tokens: int
    max_new_tokens: int
    max_length: int | None
    model: str
    method: Method

    @property
    def fits(self) -> bool:
        return self.max_length is None or self.prompt_tokens + self.max_new_tokens <= self.max_length

    def check(self) -> None:
        """Raises ContextTooLongError, with the sums and what would fit, when prompt and answer do not fit."""
        if not self.fits:
            check(
                self.parts,
                max_new_tokens=self.max_new_tokens,
                max_length=self.max_length,
                method=self.method,
                model=self.model,
            )

    def to_dict(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt,
            "parts": [{"role": part.role, "tokens": part.tokens} for part in self.parts],
            "prompt_tokens": self.prompt_tokens,
            "max_new_tokens": self.max_new_tokens,
            "max_length": self.max_length,
            "fits": self.fits,
            "model": self.model,
            "method": str(self.method),
        }

    def __str__(self) -> str:
        limit = f"at most {self.max_length}" if self.max_length is not None else "any number"
        sums = describe(self.parts, self.max_new_tokens)
        return f"{self.prompt}\n\n[{self.prompt_tokens} tokens; {sums}; {self.model} reads {limit}]"


def explain(reader: Reader, plan: Plan, max_new_tokens: int) -> Explanation:
    """The explanation of one plan. Of the model only the limit of its length is asked."""
    tokenizer = reader.tokenizer
    total = len(encode_plan(tokenizer, plan))
    parts = count_parts(plan, lambda text: len(encode(tokenizer, text, special=False)))
    special = max(0, total - sum(part.tokens for part in parts))
    return Explanation(
        prompt=plan.text,
        parts=tuple([PartCount("special", special), *parts] if special else parts),
        prompt_tokens=total,
        max_new_tokens=max_new_tokens,
        max_length=reader.max_length,
        model=reader.name,
        method=reader.prompt,
    )
