"""What counts as a right answer: `contains` as in the paper, and SQuAD's exact match and F1.

`contains` (arXiv 2407.05483, appendix; the released evaluation) is 1 when any right answer stands in the output, up to
its first newline, as a literal substring, case aside. Nothing else is normalised, so an output that begins with a
newline is empty and wrong. Exact match and F1 follow the evaluation of SQuAD v1.1 (arXiv 1606.05250, section 6).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def first_line(output: str) -> str:
    """`output` up to its first newline."""
    return output.split("\n", 1)[0]


def contains(output: str, answers: Sequence[str]) -> float:
    """1.0 when any of the answers stands in the first line of `output`, case aside; else 0.0.

    Example:
        >>> contains(" It is written in c++.", ["C++"]), contains("\\nC++", ["C++"])
        (1.0, 0.0)
    """
    line = first_line(output)
    return float(any(re.search(re.escape(answer), line, re.IGNORECASE) for answer in answers))


def exact_match(output: str, answers: Sequence[str]) -> float:
    """1.0 when the first line of `output` is one of the answers after `normalise`; else 0.0."""
    line = normalise(first_line(output))
    return float(any(line == normalise(answer) for answer in answers))


def f1(output: str, answers: Sequence[str]) -> float:
    """The best F1 of words between the first line of `output` and any of the answers, after `normalise`.

    Two texts without any words left are equal (1.0), one is wrong (0.0), as in SQuAD v2.
    """
    words = normalise(first_line(output)).split()
    return max((_f1(words, normalise(answer).split()) for answer in answers), default=0.0)


def normalise(text: str) -> str:
    """SQuAD's normalisation: lower case, no punctuation, no English articles, single spaces."""
    text = text.lower().translate(_WITHOUT_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def _f1(words: list[str], right: list[str]) -> float:
    if not words or not right:
        return float(words == right)
    shared = (Counter(words) & Counter(right)).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(words), shared / len(right)
    return 2 * precision * recall / (precision + recall)


METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "contains": contains,
    "exact_match": exact_match,
    "f1": f1,
}
"""Every metric by the name it has in results."""
