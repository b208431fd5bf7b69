"""JRT-Prompt on text: the orders of the table, where the plan is cut, and how often each piece is said."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jrt.errors import EmptyInputError, InvalidOptionError
from jrt.methods import parse_method
from jrt.prompts import JRTPrompt, Part, Plan, Query

CUE = "Question: Q?\nAnswer:"
ORDERS = {
    "once": f"C\n{CUE}",
    "twice": f"Q?\nC\nC\n{CUE}",
    "context_twice": f"C\nC\n{CUE}",
    "question_first": f"Q?\nC\n{CUE}",
    "repeat": f"C\n{CUE}\nC\n{CUE}",
    "jrt_prompt:passes=3": f"Q?\nC\nC\nC\n{CUE}",
    'jrt_prompt:separator=" | ",joint=" ",lead="About: {question}"': f"About: Q? C | C {CUE}",
}


@pytest.mark.parametrize("text", ORDERS)
def test_orders(text: str) -> None:
    plan = parse_method(text).plan(" C\n", "\tQ? ")
    assert plan.text == ORDERS[text]
    assert plan.suffix == (" " if "joint" in text else "\n") + CUE
    assert plan.keeps_state == (text in ("once", "context_twice"))


def test_the_default_order_follows_the_passes() -> None:
    assert JRTPrompt(passes=1).order == "context_first" and JRTPrompt().order == "question_first"


def test_pieces_are_used_as_they_are_and_empty_ones_leave_no_joint() -> None:
    method = JRTPrompt(passes=2)
    assert method.plan("C", Query("About age.", "Age:", joint=" ")).text == "About age. C\nC Age:"
    assert method.plan("C", Query("Why?", "Because", joint=" ", cue_joint=". ")).text == "Why? C\nC. Because"
    plan = method.plan("C", Query("", ""))
    assert plan.parts == (Part("context", "C"), Part("separator", "\n"), Part("context", "C"))


def test_copies_may_differ() -> None:
    assert JRTPrompt(passes=2).arrange(["A", "B"], Query("Q", "K:", joint=" ")).text == "Q A\nB K:"


def test_a_reading_is_the_prefix_of_context_first() -> None:
    for passes in (1, 2, 3):
        method = JRTPrompt(passes=passes, order="context_first")
        reading = method.reading_plan(" C ")
        assert reading.text == method.plan("C", "Q?").prefix == "\n".join(["C"] * passes)
        assert reading.keeps_state and reading.suffix == ""


def test_a_plan_without_context_is_all_suffix() -> None:
    plan = Plan((Part("cue", "Age:"),))
    assert (plan.prefix, plan.suffix, plan.keeps_state) == ("", "Age:", True)


def test_what_is_refused() -> None:
    with pytest.raises(EmptyInputError, match="context is empty"):
        JRTPrompt().plan(" \n", "Q?")
    with pytest.raises(EmptyInputError, match="question is empty"):
        JRTPrompt().plan("C", " ")
    with pytest.raises(EmptyInputError, match="document is empty"):
        JRTPrompt().reading_plan("")
    with pytest.raises(InvalidOptionError, match="passes=0"):
        JRTPrompt(passes=0)
    with pytest.raises(InvalidOptionError, match=r"cue='Answer:'.*never reads the question"):
        JRTPrompt(cue="Answer:")
    with pytest.raises(InvalidOptionError, match="order='backwards'"):
        JRTPrompt(order="backwards")


@settings(deadline=None, max_examples=150)
@given(
    context=st.text("ab \n", min_size=1, max_size=12).filter(str.strip),
    question=st.text("xy? ", min_size=1, max_size=12).filter(str.strip),
    passes=st.integers(1, 5),
    order=st.sampled_from(["question_first", "context_first", "repeat"]),
)
def test_contexts_as_often_as_passes_and_the_cue_once(context: str, question: str, passes: int, order: str) -> None:
    method = JRTPrompt(passes=passes, order=order, separator="|", joint="+", cue="<{question}>", lead="[{question}]")
    plan = method.plan(context, question)
    c, q = context.strip(), question.strip()
    assert [part.text for part in plan.parts if part.role == "context"] == [c] * passes
    assert plan.text.count(f"<{q}>") == (passes if order == "repeat" else 1)
    assert plan.text.endswith(f"{c}+<{q}>")
    assert plan.text.count(f"[{q}]") == (order == "question_first") == plan.text.startswith("[")
    assert plan.prefix + plan.suffix == plan.text and plan.suffix == f"+<{q}>"
