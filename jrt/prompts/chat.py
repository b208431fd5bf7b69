"""JRT-Prompt inside a chat template: only the context is repeated, never the system turn or the history.

A chat template is a program of the model's makers, so it cannot be taken apart; it can only be run. A marker is put
where the text belongs, the template is run once, and the result is cut at the marker. What stands before it is the
head, what stands after it the tail (the end of the user's turn and the beginning of the assistant's). The marker holds
private-use characters, both cases, quotes, brackets and a newline, so a template that drops, duplicates, escapes or
changes text is noticed and refused. The context itself never goes through the template, so it may hold anything.

In a chat the assistant's turn is the cue, so the last part is the question itself, without "Answer:".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

from jrt.errors import EmptyInputError, InvalidOptionError, TokenizerError
from jrt.prompts.jrt_prompt import JRTPrompt
from jrt.prompts.plan import Part, Plan, Query

Message = Mapping[str, Any]
Render = Callable[[list[dict[str, Any]]], str]
Build = Callable[[str], list[dict[str, Any]]]

OPEN, CLOSE = "\ue000", "\ue001"
_PROBE = 'Mark "it\'s" <b>&\\{{}}\n'  # what an escaping, lower-casing or one-line template would change
_DEFAULT_CUE = JRTPrompt.model_fields["cue"].default


def chat_plan(
    render: Render,
    method: JRTPrompt,
    context: str,
    query: str | Query,
    system: str | None = None,
    history: Sequence[Message] = (),
) -> Plan:
    """The prompt for one context and one question as a user's turn.

    Args:
        render: the chat template: messages to text, such as `tokenizer.apply_chat_template` with `tokenize=False` and
            `add_generation_prompt=True`.
        method: how often and in which order the context is read. A `cue` other than the default is kept.
        context: the document.
        query: the question, or its pieces.
        system: the system turn.
        history: the turns before this one, which are read once.

    Raises:
        EmptyInputError: the context or the question is empty.
        TokenizerError: the template cannot be cut; the message says why.

    Example:
        >>> def render(messages):
        ...     return "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>"
        >>> chat_plan(render, JRTPrompt(passes=2), "The sky is blue.", "Which colour?").text
        '<user>Which colour?\\nThe sky is blue.\\nThe sky is blue.\\nWhich colour?<assistant>'
    """
    inner = method.plan(context, chat_query(method, query) if isinstance(query, str) else query)
    return wrap_plan(render, inner, system, history)


def chat_reading_plan(
    render: Render, method: JRTPrompt, context: str, system: str | None = None, history: Sequence[Message] = ()
) -> Plan:
    """What is read when no question is known yet: the head of the template and the context, `passes` times.

    It is the prefix of every `chat_plan` of the same method in `context_first` order.
    """
    inner = method.reading_plan(context)
    head, _ = _cut(render, _turn(system, history))
    return Plan(_filled((Part("chat", head), *inner.parts)), chat=True)


def chat_query(method: JRTPrompt, question: str) -> Query:
    """The pieces of a question for a chat: the cue is the question itself, unless the method sets its own cue."""
    query = method.query(question)
    cue = question.strip() if method.cue == _DEFAULT_CUE else query.cue
    return Query(query.sentence, cue, query.joint, query.cue_joint)


def wrap_plan(render: Render, plan: Plan, system: str | None = None, history: Sequence[Message] = ()) -> Plan:
    """A plan as the user's turn of a chat: head of the template, the plan's parts, tail of the template.

    Raises:
        InvalidOptionError: the plan is in a template already.
        TokenizerError: the template cannot be cut.
    """
    if plan.chat:
        raise InvalidOptionError("This plan is a chat prompt already.", "Wrap a plan of JRTPrompt.plan.")
    head, tail = _cut(render, _turn(system, history))
    return Plan(_filled((Part("chat", head), *plan.parts, Part("chat", tail))), chat=True)


def messages_plan(render: Render, method: JRTPrompt, messages: Sequence[Message], context: str) -> Plan:
    """The prompt for a conversation in which one user's turn holds the context: only that context is repeated.

    What stands in the same turn after the context is the question; `question_first` says it once more before the first
    reading, `repeat` after every reading. When nothing stands after it, the question stands before it already. Read
    once in the order `context_first`, the text is what the template makes of the messages unchanged.

    Args:
        render: the chat template, as for `chat_plan`.
        method: how often and in which order the context is read.
        messages: the conversation, `role` and `content` each; the content is a string or a list of text parts.
        context: the part of the last user's turn that holds it which is to be repeated.

    Raises:
        EmptyInputError: the context is empty.
        InvalidOptionError: no user's turn holds the context, or one holds it more than once.
        TokenizerError: the template cannot be cut.
    """
    document = context.strip()
    if not document:
        raise EmptyInputError("The context is empty.", "Pass the part of the user's message that is to be repeated.")
    before, after, place = _find(messages, document)
    question = after.strip()
    gap, _, _ = after.partition(question) if question else (after, "", "")
    head, tail = _cut(render, lambda marker: place(before + marker + after))
    if question and not tail.startswith(after.rstrip()):
        raise _not_cuttable("changes the text that stands after the context")
    sentence = method.lead.replace("{question}", question) if question else ""
    inner = method.arrange([document] * method.passes, Query(sentence, question, method.joint, gap))
    tail = tail[len(after.rstrip()) :]
    return Plan(_filled((*_head_parts(head, before, question), *inner.parts, Part("chat", tail))), chat=True)


def _head_parts(head: str, before: str, question: str) -> tuple[Part, ...]:
    """The template's head; what the user says before the context is the question when nothing stands after it."""
    said = before.lstrip()
    if question or not said or not head.endswith(said):
        return (Part("chat", head),)
    return Part("chat", head[: -len(said)]), Part("question", said)


def _find(messages: Sequence[Message], document: str) -> tuple[str, str, Build]:
    """The text before and after the context in its turn, and a function that puts another text there.

    Raises:
        InvalidOptionError: no user's turn holds the context, or one holds it more than once.
    """
    for index in reversed(range(len(messages))):
        if messages[index].get("role") != "user":
            continue
        content = messages[index].get("content")
        texts = [content] if isinstance(content, str) else [part.get("text") or "" for part in content or ()]
        found = sum(text.count(document) for text in texts)
        if found > 1:
            raise InvalidOptionError(
                f"Message {index} holds the context {found} times, so it is not clear which one to repeat.",
                "Pass the message with the context in it once; the method repeats it.",
            )
        if found:
            return _place(messages, index, next(i for i, text in enumerate(texts) if document in text), document)
    raise InvalidOptionError(
        f"None of the {len(messages)} messages is a user's turn that holds the context.",
        "Pass context= exactly as it stands in the user's message.",
    )


def _place(messages: Sequence[Message], index: int, number: int, document: str) -> tuple[str, str, Build]:
    content = messages[index]["content"]
    text: str = content if isinstance(content, str) else content[number]["text"]
    before, _, after = text.partition(document)

    def place(replacement: str) -> list[dict[str, Any]]:
        new: Any = replacement
        if not isinstance(content, str):
            new = [dict(part) for part in content]
            new[number]["text"] = replacement
        copies = [dict(message) for message in messages]
        copies[index]["content"] = new
        return copies

    return before, after, place


def _turn(system: str | None, history: Sequence[Message]) -> Build:
    """A conversation whose newest user's turn is what it is called with."""
    opening = [] if system is None else [{"role": "system", "content": system}]
    return lambda text: [*opening, *map(dict, history), {"role": "user", "content": text}]


def _cut(render: Render, build: Build) -> tuple[str, str]:
    """Runs the template on the messages with a marker in them, and cuts the text at the marker.

    Raises:
        TokenizerError: the template refuses the messages, or does not keep the marker as it is, once.
    """
    said = json.dumps(build(""), ensure_ascii=False, default=str)
    marker = next(OPEN + _PROBE + mark + CLOSE for mark in map(str, count()) if mark + CLOSE not in said)
    text = _rendered(render, build(marker))
    if text.count(marker) == 1:
        head, _, tail = text.partition(marker)
        return head, tail
    if marker in text:
        raise _not_cuttable(f"writes the user's message {text.count(marker)} times")
    if _PROBE[:4].lower() in text.lower():
        raise _not_cuttable("changes the user's message (escapes it, or alters its case, lines or characters)")
    raise _not_cuttable("drops the user's message")


def _rendered(render: Render, messages: list[dict[str, Any]]) -> str:
    try:
        text = render(messages)
    except Exception as error:
        raise TokenizerError(
            f"The chat template refused the roles {', '.join(str(m.get('role')) for m in messages)}: {error}.",
            "Leave out the system turn or the history if the model knows none, or read without a chat template.",
        ) from error
    if not isinstance(text, str):
        raise TokenizerError(
            f"The chat template gave {type(text).__name__}, not text.",
            "Pass a callable that uses tokenize=False and add_generation_prompt=True.",
        )
    return text


def _not_cuttable(what: str) -> TokenizerError:
    return TokenizerError(
        f"The chat template cannot be cut where the context ends: it {what}.",
        "Read without the template (chat=False), or give the tokenizer a template that keeps the message as it is.",
    )


def _filled(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    return tuple(part for part in parts if part.text or part.role == "context")
