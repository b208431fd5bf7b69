"""TriviaQA as a cloze, with the passage that holds the answer (arXiv 1705.03551; 1698 rows)."""

from __future__ import annotations

from jrt.evals.tasks.recall import RecallTask


class TriviaQA(RecallTask):
    """Answer a quiz question from a passage."""

    name = "triviaqa"
    version = 1
    summary = "quiz questions with a passage"
    dataset = "hazyresearch/based_triviaqa"
