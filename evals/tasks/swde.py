"""SWDE: key to value in web pages on films and universities (arXiv 2304.09433; 1111 rows)."""

from __future__ import annotations

from jrt.evals.tasks.recall import RecallTask


class SWDE(RecallTask):
    """Look up an attribute in the text of a web page."""

    name = "swde"
    version = 1
    summary = "attributes of films and universities in web pages"
    dataset = "hazyresearch/based-swde-v2"
