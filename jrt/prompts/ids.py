"""JRT-Prompt on token ids, for callers who tokenized the prompt themselves and call `generate`.

A prompt of ids is laid out as `special tokens | context | question`. Special tokens at the very front (a BOS) belong to
the sequence and not to the text, so they stay there and are never repeated. Whatever stood between context and question
is among the question's ids already, so the end of the lengthened prompt is the end of the given one, id for id.
"""

from __future__ import annotations

from collections.abc import Sequence

from jrt.errors import EmptyInputError, InvalidOptionError
from jrt.prompts.jrt_prompt import JRTPrompt


def repeat_ids(
    method: JRTPrompt,
    input_ids: Sequence[int],
    *,
    context_length: int | None = None,
    num_special: int = 0,
    separator_ids: Sequence[int] = (),
    joint_ids: Sequence[int] = (),
    question_ids: Sequence[int] | None = None,
) -> list[int]:
    """One prompt's ids in the order of a method.

    With special tokens s, context c, question q, separator "/" and joint "+", two passes give

    | order | ids |
    |---|---|
    | `question_first` | s q + c / c q |
    | `context_first` | s c / c q |
    | `repeat` | s c q / c q |

    Args:
        method: how often and in which order the context is read. Its texts (`lead`, `cue`, `separator`, `joint`) do not
            apply to ids; give their ids.
        input_ids: the prompt, without padding, (T,).
        context_length: how many of the first ids are special tokens or context; the rest is the question. `repeat`
            repeats the whole prompt and needs none.
        num_special: how many of the first ids are special tokens.
        separator_ids: the ids between two readings.
        joint_ids: the ids between the question and the first reading.
        question_ids: the question as it is said before the first reading. Without it that is the question's own ids,
            answer cue included; a model may then copy what follows the cue there, so give the sentence without the cue
            where it is known.

    Raises:
        EmptyInputError: the prompt or its context has no ids.
        InvalidOptionError: the boundaries do not lie inside the prompt, or the order needs `context_length`.

    Example:
        >>> repeat_ids(JRTPrompt(passes=2), [1, 5, 6, 9], context_length=3, num_special=1)
        [1, 9, 5, 6, 5, 6, 9]
    """
    ids = list(input_ids)
    if not 0 <= num_special <= len(ids):
        raise InvalidOptionError(
            f"num_special={num_special} of a prompt of {len(ids)} tokens.", "Count its BOS tokens."
        )
    special, body = ids[:num_special], ids[num_special:]
    if not body:
        raise EmptyInputError("The prompt holds no tokens.", "Pass the ids of a context and a question.")
    if method.order == "repeat":
        return special + _copies([body] * method.passes, separator_ids)
    if context_length is None:
        if method.passes == 1 and method.order == "context_first":
            return ids
        raise InvalidOptionError(
            f"{method} on token ids has to know where the context ends.",
            'Pass context_length, or use JRTPrompt(order="repeat"), which reads the whole prompt again.',
        )
    if not 0 <= context_length <= len(ids):
        raise InvalidOptionError(f"context_length={context_length} of a prompt of {len(ids)} tokens.", "Count again.")
    context, question = ids[num_special:context_length], ids[context_length:]
    if not context:
        raise EmptyInputError(
            f"The first {context_length} tokens hold no context beside {num_special} special tokens.",
            "context_length counts the special tokens in front and the context.",
        )
    lead: list[int] = []
    if method.order == "question_first":
        said = list(question if question_ids is None else question_ids)
        lead = said + list(joint_ids) if said else []
    return special + lead + _copies([context] * method.passes, separator_ids) + question


def _copies(copies: Sequence[list[int]], separator_ids: Sequence[int]) -> list[int]:
    joined = list(copies[0])
    for copy in copies[1:]:
        joined += [*separator_ids, *copy]
    return joined
