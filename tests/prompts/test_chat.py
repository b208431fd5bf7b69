"""A chat prompt is what the template itself makes of the lengthened message; others cannot be cut and are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jrt.errors import EmptyInputError, InvalidOptionError, TokenizerError
from jrt.methods import parse_method
from jrt.prompts import (
    JRTPrompt,
    Query,
    chat_plan,
    chat_query,
    chat_reading_plan,
    messages_plan,
    wrap_plan,
)
from jrt.prompts.chat import _PROBE, CLOSE, OPEN

TEMPLATES = {
    "marked turns": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n"
    ),
    "trimmed": (
        "<bos>{% for m in messages %}<|{{ m.role }}|>\n\n{{ m.content | trim }}<|eot|>{% endfor %}<|assistant|>"
    ),
    "no system": (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}<{{ 'model' if m.role == 'assistant' else m.role }}>{{ m.content | trim }}\n"
        "{% endfor %}<model>"
    ),
    "system in the first turn": (
        "{% if messages[0].role == 'system' %}{% set said = messages[0].content + '\n\n' %}"
        "{% set turns = messages[1:] %}{% else %}{% set said = '' %}{% set turns = messages %}{% endif %}"
        "{% for m in turns %}{% if m.role == 'user' %}[INST] {{ said if loop.first else '' }}{{ m.content }} [/INST]"
        "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
    ),
}


def render_with(template: str) -> Callable[[list[dict[str, Any]]], str]:
    def fail(message: str) -> None:
        raise jinja2.TemplateError(message)

    compiled = jinja2.Environment(trim_blocks=True).from_string(template)
    return lambda messages: compiled.render(messages=messages, raise_exception=fail)


RENDERS = {name: render_with(template) for name, template in TEMPLATES.items()}
METHODS = ["once", "twice", "context_twice", "question_first", "repeat", "jrt_prompt:passes=3"]
HISTORY = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Good day."}]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("history", [[], HISTORY])
def test_equals_the_template_of_the_lengthened_message(name: str, method: str, history: list[Any]) -> None:
    render, prompt = RENDERS[name], parse_method(method)
    assert isinstance(prompt, JRTPrompt)
    system = None if name == "no system" else "Be brief."
    plan = chat_plan(render, prompt, " The sky is blue.\n", " Which colour? ", system=system, history=history)
    inner = JRTPrompt(**(prompt.model_dump() | {"cue": "{question}"})).plan("The sky is blue.", "Which colour?").text
    opening = [{"role": "system", "content": system}] if system else []
    assert plan.chat
    assert plan.text == render([*opening, *history, user(inner)])
    assert plan.prefix + plan.suffix == plan.text
    assert plan.text.count("The sky is blue.") == prompt.passes
    assert plan.text.count("Be brief.") == bool(system) and plan.text.count("Good day.") == bool(history)
    assert plan.prefix.endswith("The sky is blue.") and plan.suffix.startswith("\nWhich colour?")


def test_parts_in_reading_order() -> None:
    plan = chat_plan(RENDERS["trimmed"], JRTPrompt(passes=2), "D", "Q?", system="S")
    assert [(part.role, part.text) for part in plan.parts] == [
        ("chat", "<bos><|system|>\n\nS<|eot|><|user|>\n\n"),
        ("question", "Q?"),
        ("separator", "\n"),
        ("context", "D"),
        ("separator", "\n"),
        ("context", "D"),
        ("separator", "\n"),
        ("cue", "Q?"),
        ("chat", "<|eot|><|assistant|>"),
    ]
    assert plan.suffix == "\nQ?<|eot|><|assistant|>"


def test_a_cue_of_the_users_own_is_kept() -> None:
    assert chat_query(JRTPrompt(lead="About: {question}"), " Q? ") == Query("About: Q?", "Q?")
    assert chat_query(JRTPrompt(cue="{question} Briefly."), "Q?").cue == "Q? Briefly."


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("passes", [1, 2, 3])
def test_a_kept_state_is_the_prefix_of_every_question(name: str, passes: int) -> None:
    method = JRTPrompt(passes=passes, order="context_first")
    reading = chat_reading_plan(RENDERS[name], method, " D ", history=HISTORY)
    plans = [chat_plan(RENDERS[name], method, "D", question, history=HISTORY) for question in ("Who?", "Where?")]
    assert reading.chat and reading.keeps_state and reading.suffix == ""
    assert {plan.prefix for plan in plans} == {reading.text}
    assert all(plan.keeps_state for plan in plans)
    assert plans[0].suffix != plans[1].suffix


def test_any_plan_can_become_a_turn() -> None:
    inner = JRTPrompt(passes=1).arrange(["D."], Query("", "Age:", joint=" "))
    plan = wrap_plan(RENDERS["trimmed"], inner, system="S")
    assert plan.text == RENDERS["trimmed"]([{"role": "system", "content": "S"}, user("D. Age:")])
    with pytest.raises(InvalidOptionError, match="chat prompt already"):
        wrap_plan(RENDERS["trimmed"], plan)


ANYTHING = st.text(st.sampled_from("aB ?\n\ue000\ue001{}<>|0"), min_size=1, max_size=12).filter(str.strip)


@settings(deadline=None, max_examples=100)
@given(context=ANYTHING, question=ANYTHING, said=ANYTHING, name=st.sampled_from(sorted(TEMPLATES)))
def test_text_may_hold_anything_even_markers(context: str, question: str, said: str, name: str) -> None:
    method = JRTPrompt(passes=2)
    history = [user(said), {"role": "assistant", "content": said}]
    plan = chat_plan(RENDERS[name], method, context, question, history=history)
    c, q = context.strip(), question.strip()
    assert plan.text == RENDERS[name]([*history, user(f"{q}\n{c}\n{c}\n{q}")])
    assert [part.text for part in plan.parts if part.role == "context"] == [c, c]


def test_a_message_that_holds_the_very_marker() -> None:
    said = OPEN + _PROBE + "0" + CLOSE
    plan = chat_plan(RENDERS["marked turns"], JRTPrompt(passes=1), "D", "Q", system=said, history=[user(said + "1")])
    opening = [{"role": "system", "content": said}, user(said + "1")]
    assert plan.text == RENDERS["marked turns"]([*opening, user("D\nQ")])


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "changes the user's message"),
        ("{% for m in messages %}{{ m.content | tojson }}{% endfor %}", "changes the user's message"),
        ("{% for m in messages %}{{ m.content | e }}{% endfor %}", "changes the user's message"),
        ("{% for m in messages %}{{ m.content | replace('\n', ' ') }}{% endfor %}", "changes the user's message"),
        ("{% for m in messages %}{{ m.content | truncate(9) }}{% endfor %}", "changes the user's message"),
        ("{% for m in messages %}{{ m.content + m.content }}{% endfor %}", "writes the user's message 2 times"),
        ("{{ messages | length }} messages", "drops the user's message"),
    ],
)
def test_templates_that_cannot_be_cut(template: str, what: str) -> None:
    for call in (
        lambda: chat_plan(render_with(template), JRTPrompt(), "D", "Q"),
        lambda: chat_reading_plan(render_with(template), JRTPrompt(), "D"),
        lambda: messages_plan(render_with(template), JRTPrompt(), [user("D Q")], "D"),
    ):
        with pytest.raises(TokenizerError, match=what):
            call()


def test_templates_that_refuse_or_give_no_text() -> None:
    with pytest.raises(TokenizerError, match="refused the roles system, user: System role not supported"):
        chat_plan(RENDERS["no system"], JRTPrompt(), "D", "Q", system="S")
    with pytest.raises(TokenizerError, match=r"gave list, not text.*tokenize=False"):
        chat_plan(lambda messages: [1, 2], JRTPrompt(), "D", "Q")  # type: ignore[arg-type,return-value]


def test_empty_context_or_question() -> None:
    with pytest.raises(EmptyInputError, match="context is empty"):
        chat_plan(RENDERS["trimmed"], JRTPrompt(), " ", "Q")
    with pytest.raises(EmptyInputError, match="question is empty"):
        chat_plan(RENDERS["trimmed"], JRTPrompt(), "D", " ")
    with pytest.raises(EmptyInputError, match="context is empty"):
        messages_plan(RENDERS["trimmed"], JRTPrompt(), [user("D Q")], "\n")


MESSAGE = "Read this:\nD e f\n\nWhich one? \n"
INNER = {
    "once": "Read this:\nD e f\n\nWhich one? \n",
    "twice": "Read this:\nWhich one?\nD e f\nD e f\n\nWhich one? \n",
    "context_twice": "Read this:\nD e f\nD e f\n\nWhich one? \n",
    "question_first": "Read this:\nWhich one?\nD e f\n\nWhich one? \n",
    "repeat": "Read this:\nD e f\n\nWhich one?\nD e f\n\nWhich one? \n",
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("method", INNER)
def test_only_the_context_of_a_message_is_repeated(name: str, method: str) -> None:
    prompt, messages = parse_method(method), [*HISTORY, user(MESSAGE)]
    assert isinstance(prompt, JRTPrompt)
    plan = messages_plan(RENDERS[name], prompt, messages, " D e f\n")
    assert plan.text == RENDERS[name]([*HISTORY, user(INNER[method])])
    assert plan.suffix.startswith("\n\nWhich one?") and plan.prefix.endswith("D e f")
    assert messages == [*HISTORY, user(MESSAGE)]


@pytest.mark.parametrize("method", ["twice", "context_twice", "repeat"])
def test_a_question_before_the_context_is_not_said_again(method: str) -> None:
    prompt = parse_method(method)
    assert isinstance(prompt, JRTPrompt)
    plan = messages_plan(RENDERS["marked turns"], prompt, [user("Which one?\nD e f\n")], "D e f")
    assert plan.text == RENDERS["marked turns"]([user("Which one?\nD e f\nD e f\n")])
    assert not plan.keeps_state, "the question was read before the context"


def test_the_newest_user_turn_with_the_context_counts_and_later_turns_survive() -> None:
    messages = [user("D Old?"), {"role": "assistant", "content": "D"}, user("D New?"), *HISTORY]
    plan = messages_plan(RENDERS["marked turns"], JRTPrompt(passes=2, order="context_first"), messages, "D")
    expected = [user("D Old?"), {"role": "assistant", "content": "D"}, user("D\nD New?"), *HISTORY]
    assert plan.text == RENDERS["marked turns"](expected)


def test_content_in_parts() -> None:
    def render(messages: list[dict[str, Any]]) -> str:
        return "".join("".join(part.get("text", "<image>") for part in m["content"]) for m in messages) + "|"

    content = [{"type": "image"}, {"type": "text", "text": "D Q?"}]
    plan = messages_plan(render, JRTPrompt(passes=2), [{"role": "user", "content": content}], "D")
    assert plan.text == "<image>Q?\nD\nD Q?|"
    assert content == [{"type": "image"}, {"type": "text", "text": "D Q?"}]


def test_a_context_that_is_not_there_or_not_clear() -> None:
    with pytest.raises(InvalidOptionError, match="None of the 2 messages"):
        messages_plan(RENDERS["trimmed"], JRTPrompt(), [{"role": "assistant", "content": "D"}, user("E")], "D")
    with pytest.raises(InvalidOptionError, match="Message 0 holds the context 2 times"):
        messages_plan(RENDERS["trimmed"], JRTPrompt(), [user("D and D")], "D")


def test_a_template_that_changes_what_follows_the_context() -> None:
    def render(messages: list[dict[str, Any]]) -> str:
        return messages[0]["content"].replace("Q?", "Q!") + "|"

    with pytest.raises(TokenizerError, match="changes the text that stands after the context"):
        messages_plan(render, JRTPrompt(), [user("D Q?")], "D")
