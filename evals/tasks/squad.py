"""SQuAD as a cloze: the end of a sentence about a Wikipedia paragraph (arXiv 1606.05250; 2984 rows)."""

from __future__ import annotations

from jrt.evals.tasks.recall import RecallTask


class SQuAD(RecallTask):
    """Answer about a paragraph of Wikipedia."""

    name = "squad"
    version = 1
    summary = "questions about Wikipedia paragraphs"
    dataset = "hazyresearch/based-squad"
