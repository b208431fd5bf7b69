"""Whether a prompt fits the longest input that the model reads, and what to do when it does not.

Truncating from the left is what generation code usually does, and it silently loses the question of a prompt that says
it first. So nothing is truncated here: the prompt fits, or the error says by how much it does not and which changes
would make it fit. Every suggestion is computed, not guessed: following it fits, and one token more would not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from jrt.errors import ContextTooLongError, InvalidOptionError
from jrt.methods import Method
from jrt.prompts.jrt_prompt import JRTPrompt
from jrt.prompts.plan import Plan, Query, Role

_LABELS: dict[str, str] = {
    "question": "question",
    "cue": "question",
    "chat": "chat template",
    "separator": "separators",
    "special": "special",
}


@dataclass(frozen=True)
class PartCount:
    """How many tokens one part of a plan is; `special` are those that the tokenizer adds around the text."""

    role: Role | Literal["special"]
    tokens: int


def count_parts(plan: Plan, count: Callable[[str], int], special_tokens: int = 0) -> list[PartCount]:
    """The tokens of each part of a plan, counted part by part.

    Args:
        plan: the prompt.
        count: text to its number of tokens, special ones left out.
        special_tokens: how many the tokenizer adds to the whole.
    """
    counts = [PartCount("special", special_tokens)] if special_tokens else []
    return counts + [PartCount(part.role, count(part.text)) for part in plan.parts]


def describe(counts: Sequence[PartCount], max_new_tokens: int = 0) -> str:
    """The sum behind a length: `2x1310 + 12 question + 19 new`."""
    contexts = [part.tokens for part in counts if part.role == "context"]
    alike = len(set(contexts)) == 1
    if alike:
        terms = [f"{len(contexts)}x{contexts[0]}" if len(contexts) > 1 else f"{contexts[0]} context"]
    else:
        terms = [" + ".join(map(str, contexts)) + " context"] if contexts else []
    labels = dict.fromkeys(("question", "separators", "chat template", "special"), 0)
    for part in counts:
        if part.role != "context":
            labels[_LABELS[part.role]] += part.tokens
    terms += [f"{tokens} {label}" for label, tokens in labels.items() if tokens]
    return " + ".join([*terms, f"{max_new_tokens} new"] if max_new_tokens else terms)


def check(
    counts: Sequence[PartCount],
    *,
    max_new_tokens: int,
    max_length: int | None,
    method: Method | None = None,
    model: str = "the model",
) -> int:
    """How many tokens a prompt and its answer take.

    Args:
        counts: the tokens of each part, from `count_parts`.
        max_new_tokens: the longest answer.
        max_length: the longest prompt and answer together that the model reads; None when there is no limit.
        method: what made the prompt; for a `JRTPrompt` fewer passes are suggested when they would fit.
        model: what the model is called in the message.

    Raises:
        InvalidOptionError: a count is negative.
        ContextTooLongError: the prompt and its answer do not fit. The message holds the sum, the hint what would fit.
    """
    if max_new_tokens < 0 or any(part.tokens < 0 for part in counts):
        raise InvalidOptionError("A number of tokens is negative.", "Counts and max_new_tokens are 0 or more.")
    prompt = sum(part.tokens for part in counts)
    needed = prompt + max_new_tokens
    if max_length is None or needed <= max_length:
        return needed
    contexts = [part.tokens for part in counts if part.role == "context"]
    reader = _call(method) if isinstance(method, JRTPrompt) else "reading it"
    subject = f"the context is {max(contexts)} tokens and {reader}" if contexts else "the prompt"
    raise ContextTooLongError(
        f"{model} reads at most {max_length} tokens; {subject} needs {needed} ({describe(counts, max_new_tokens)}).",
        _hint(counts, max_new_tokens, max_length, method),
    )


def longest_context(counts: Sequence[PartCount], max_new_tokens: int, max_length: int) -> int:
    """The most tokens that each copy of the context may have so that the prompt fits; negative when nothing helps."""
    copies = sum(part.role == "context" for part in counts)
    other = sum(part.tokens for part in counts if part.role != "context")
    return (max_length - other - max_new_tokens) // max(copies, 1)


def _hint(counts: Sequence[PartCount], max_new_tokens: int, max_length: int, method: Method | None) -> str:
    choices = []
    if isinstance(method, JRTPrompt):
        room = max_length - max_new_tokens
        fitting = [passes for passes in range(1, method.passes) if _needed(counts, method, passes) <= room]
        choices += [f"passes={fitting[-1]}"] if fitting else []
    prompt = sum(part.tokens for part in counts)
    if prompt < max_length:
        choices.append(f"max_new_tokens={max_length - prompt}")
    longest = longest_context(counts, max_new_tokens, max_length)
    if longest >= 1 and any(part.role == "context" for part in counts):
        choices.append(f"shorten the context to at most {longest} tokens")
    if not choices:
        choices.append("a shorter question or fewer new tokens")
    choices.append("a model without a length limit (Mamba, RWKV)")
    first = choices[0].capitalize() if choices[0].startswith("shorten") else f"Use {choices[0]}"
    return first + "".join(f", {choice}" for choice in choices[1:-1]) + f", or {choices[-1]}."


def _needed(counts: Sequence[PartCount], method: JRTPrompt, passes: int) -> int:
    """The prompt's tokens if the same question were asked with another number of passes, the order following suit.

    The order of parts is asked from the method itself: each piece is given as a name, and names have token counts.
    """
    options = method.model_dump(exclude_unset=True) | {"passes": passes, "separator": "/"}
    plan = JRTPrompt(**options).arrange(["c"] * passes, Query("q", "a", joint="+", cue_joint="-"))
    pieces = _pieces(counts)
    around = sum(part.tokens for part in counts if part.role in ("chat", "special"))
    return around + sum(pieces[part.text] for part in plan.parts)


def _pieces(counts: Sequence[PartCount]) -> dict[str, int]:
    """The tokens of context, question, cue, the joints beside the last two, and the separator, by short name."""
    pieces = dict.fromkeys("cqa+-/", 0)
    roles = [part.role for part in counts]
    for index, part in enumerate(counts):
        if part.role == "separator":
            after_question = index > 0 and roles[index - 1] == "question"
            name = "+" if after_question else "-" if roles[index + 1 : index + 2] == ["cue"] else "/"
        else:
            name = {"context": "c", "question": "q", "cue": "a"}.get(part.role, "")
        if name:
            pieces[name] = max(pieces[name], part.tokens)
    return pieces


def _call(method: JRTPrompt) -> str:
    """The method as a user types it: `JRTPrompt(passes=2)`."""
    options = {"passes": method.passes} | method.model_dump(exclude_defaults=True, exclude=method._derived())
    return f"JRTPrompt({', '.join(f'{name}={value!r}' for name, value in options.items())})"
