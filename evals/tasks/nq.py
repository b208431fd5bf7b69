"""Natural Questions as a cloze, with a Wikipedia page around the answer (Kwiatkowski et al. 2019; 3157 rows)."""

from __future__ import annotations

from typing import Literal

from jrt.evals.tasks.recall import RecallTask


class NQ(RecallTask):
    """Answer a search query from a page of Wikipedia.

    Attributes:
        tokens: which of the three published cuts of the pages is read; the paper's table 1 uses 1024.
    """

    name = "nq"
    version = 1
    summary = "search queries with a Wikipedia page"
    dataset = "hazyresearch/based_nq"

    tokens: Literal[512, 1024, 2048] = 1024

    @property
    def dataset_name(self) -> str:
        return f"{self.dataset}_{self.tokens}"
