"""DROP as a cloze, questions whose answer stands in the passage (arXiv 1903.00161; 2084 rows)."""

from __future__ import annotations

from jrt.evals.tasks.recall import RecallTask


class Drop(RecallTask):
    """Answer about numbers and names in a passage."""

    name = "drop"
    version = 1
    summary = "questions that need several places of a passage"
    dataset = "hazyresearch/based_drop"
