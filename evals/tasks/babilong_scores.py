"""How BABILong counts an answer (arXiv 2406.10149), and how it should.

The official rule reads the first sentence of the output in lower case, finds the task's labels in it as *substrings*,
drops those that the question holds, and asks for exactly the target. So "none" holds "one" and is never right in qa7;
"no" is found in "now" and "not", so "Yes, Mary is now in the office" is wrong in the yes/no tasks; and its cut at
"Question" never happens, because the text is in lower case by then. `by_words` looks for whole words and cuts there.
"""

from __future__ import annotations

import re

_PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
_YES_NO = ("no", "yes")
_PATHS = ("e,e", "e,n", "e,s", "n,e", "n,n", "n,w", "s,e", "s,s", "s,w", "w,n", "w,s", "w,w")
LABELS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("qa1", "qa2", "qa3", "qa4", "qa11", "qa12", "qa13"), _PLACES),
    "qa5": ("apple", "bill", "football", "fred", "jeff", "mary", "milk"),
    **dict.fromkeys(("qa6", "qa9", "qa17", "qa18"), _YES_NO),
    "qa7": ("none", "one", "three", "two"),
    "qa8": ("apple", "football", "milk", "nothing"),
    "qa10": ("maybe", *_YES_NO),
    "qa14": ("bedroom", "cinema", "kitchen", "office", "park", "school"),
    "qa15": ("cat", "mouse", "sheep", "wolf"),
    "qa16": ("gray", "green", "white", "yellow"),
    "qa19": _PATHS,
    "qa20": ("bedroom", "bored", "garden", "hungry", "kitchen", "thirsty", "tired"),
}
"""What can be answered in each task, in lower case."""


def official(task: str, question: str, target: str, output: str) -> bool:
    """Whether the official rule counts `output` as right.

    Example:
        >>> official("qa6", "Is Mary in the office?", "yes", "Yes, Mary is now in the office.")
        False
    """
    read = re.split(r"\.|<context>|<example>", output.lower(), maxsplit=1)[0]
    asked = question.lower()
    found = {label for label in LABELS[task] if label in read and label not in asked}
    return found == _targets(task, target)


def by_words(task: str, question: str, target: str, output: str) -> bool:
    """The same with labels as whole words, and the output cut where the model asks itself another question.

    Example:
        >>> by_words("qa6", "Is Mary in the office?", "yes", "Yes, Mary is now in the office.")
        True
    """
    read = re.split(r"\.|<context>|<example>|question", output.lower(), maxsplit=1)[0]
    found = {label for label in LABELS[task] if _word(label, read) and not _word(label, question.lower())}
    return found == _targets(task, target)


def _word(label: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(label)}(?!\w)", text) is not None


def _targets(task: str, target: str) -> set[str]:
    """The target as labels: a list with commas in qa8; "n,w" is one label of qa19."""
    return set(target.lower().split(",")) if task == "qa8" else {target.lower()}
