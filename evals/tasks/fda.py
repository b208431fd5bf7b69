"""FDA: key to value in summaries of 510(k) decisions on medical devices (arXiv 2304.09433; 1102 rows)."""

from __future__ import annotations

from jrt.evals.tasks.recall import RecallTask


class FDA(RecallTask):
    """Look up an attribute of a device in the summary of its approval."""

    name = "fda"
    version = 1
    summary = "attributes of medical devices in FDA decision summaries"
    dataset = "hazyresearch/based-fda"
