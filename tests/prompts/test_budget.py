"""The length budget: the sums are right, and a suggestion that is followed fits while one token more does not."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jrt.errors import ContextTooLongError, InvalidOptionError
from jrt.prompts import JRTPrompt, PartCount, Plan, check, count_parts, describe, wrap_plan
from jrt.prompts.budget import longest_context


def counts_of(method: JRTPrompt, context: int, question: int, *, chat: bool = False) -> list[PartCount]:
    """Token counts with one token a character."""
    return count_parts(plan_of(method, context, question, chat=chat), len, special_tokens=0 if chat else 1)


def plan_of(method: JRTPrompt, context: int, question: int, *, chat: bool = False) -> Plan:
    plan = method.plan("c" * context, "q" * question)
    return wrap_plan(lambda messages: f"<user>{messages[-1]['content']}<model>", plan) if chat else plan


def test_the_sentence() -> None:
    counts = [PartCount("question", 5), *[PartCount("context", 1310)] * 2, PartCount("cue", 7)]
    with pytest.raises(ContextTooLongError) as raised:
        check(counts, max_new_tokens=19, max_length=2048, method=JRTPrompt(passes=2), model="facebook/opt-125m")
    assert str(raised.value) == (
        "facebook/opt-125m reads at most 2048 tokens; the context is 1310 tokens and JRTPrompt(passes=2) needs 2651 "
        "(2x1310 + 12 question + 19 new). Use passes=1, shorten the context to at most 1008 tokens, or a model without "
        "a length limit (Mamba, RWKV)."
    )


def test_what_the_sum_names() -> None:
    plan = wrap_plan(lambda messages: f"<u>{messages[-1]['content']}<m>", JRTPrompt(passes=2).plan("cccc", "qq"))
    assert describe(count_parts(plan, len), 8) == "2x4 + 22 question + 3 separators + 6 chat template + 8 new"
    counts = [PartCount("special", 1), PartCount("context", 3), PartCount("context", 4)]
    assert describe(counts) == "3 + 4 context + 1 special"
    assert describe([PartCount("context", 3)]) == "3 context"


def test_options_that_are_not_the_default_are_named() -> None:
    method = JRTPrompt(passes=3, order="context_first")
    with pytest.raises(ContextTooLongError, match=r"JRTPrompt\(passes=3, order='context_first'\) needs"):
        check(counts_of(method, 100, 3), max_new_tokens=1, max_length=50, method=method)


def test_exactly_full_fits() -> None:
    counts = counts_of(JRTPrompt(passes=2), 10, 3)
    needed = check(counts, max_new_tokens=5, max_length=None)
    assert needed == sum(part.tokens for part in counts) + 5
    assert check(counts, max_new_tokens=5, max_length=needed) == needed
    with pytest.raises(ContextTooLongError):
        check(counts, max_new_tokens=5, max_length=needed - 1)


def test_without_jrt_prompt_no_passes_are_suggested() -> None:
    with pytest.raises(ContextTooLongError) as raised:
        check([PartCount("context", 10), PartCount("context", 10)], max_new_tokens=1, max_length=15)
    assert "passes" not in str(raised.value) and "at most 7 tokens" in raised.value.hint


def test_nothing_helps_but_another_model() -> None:
    with pytest.raises(ContextTooLongError) as raised:
        check([PartCount("context", 1), PartCount("cue", 20)], max_new_tokens=1, max_length=15, method=JRTPrompt())
    assert raised.value.hint == (
        "Use a shorter question or fewer new tokens, or a model without a length limit (Mamba, RWKV)."
    )


def test_negative_counts_are_refused() -> None:
    with pytest.raises(InvalidOptionError):
        check([PartCount("context", 1)], max_new_tokens=-1, max_length=5)
    with pytest.raises(InvalidOptionError):
        check([PartCount("context", -1)], max_new_tokens=1, max_length=5)


METHODS = st.one_of(
    st.builds(lambda passes: JRTPrompt(passes=passes), st.integers(1, 4)),
    st.builds(
        lambda passes, order, joint: JRTPrompt(passes=passes, order=order, joint=joint, separator="\n--\n"),
        st.integers(1, 4),
        st.sampled_from(["question_first", "context_first", "repeat"]),
        st.sampled_from(["", "\n", "\n\n"]),
    ),
)


@settings(deadline=None, max_examples=300)
@given(
    method=METHODS,
    context=st.integers(1, 60),
    question=st.integers(1, 20),
    new=st.integers(1, 20),
    limit=st.integers(1, 250),
    chat=st.booleans(),
)
def test_following_a_suggestion_fits_and_one_token_more_does_not(
    method: JRTPrompt, context: int, question: int, new: int, limit: int, chat: bool
) -> None:
    def fits(other: JRTPrompt, context: int, new: int) -> bool:
        return len(plan_of(other, context, question, chat=chat).text) + (not chat) + new <= limit

    counts = counts_of(method, context, question, chat=chat)
    try:
        check(counts, max_new_tokens=new, max_length=limit, method=method)
    except ContextTooLongError as error:
        assert not fits(method, context, new)
        hint = error.hint
    else:
        assert fits(method, context, new)
        return

    def suggested(pattern: str) -> int | None:
        found = re.search(pattern, hint)
        return int(found[1]) if found else None

    given_options = method.model_dump(exclude_unset=True)
    fewer = [n for n in range(1, method.passes) if fits(JRTPrompt(**(given_options | {"passes": n})), context, new)]
    assert suggested(r"passes=(\d+)") == max(fewer, default=None)  # type: ignore[type-var]
    shorter = [n for n in range(1, context) if fits(method, n, new)]
    assert suggested(r"at most (\d+) tokens") == max(shorter, default=None)  # type: ignore[type-var]
    answers = [n for n in range(1, new) if fits(method, context, n)]
    assert suggested(r"max_new_tokens=(\d+)") == max(answers, default=None)  # type: ignore[type-var]
    assert longest_context(counts, new, limit) == max(shorter, default=longest_context(counts, new, limit))
