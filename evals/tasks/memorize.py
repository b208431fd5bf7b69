"""One fact at the start of a text, asked at its end: what a memory can keep (arXiv 2304.11062, section 4.1)."""

from __future__ import annotations

from typing import ClassVar

from jrt.evals.tasks.places import PlacesTask
from jrt.training.places import Kind


class Memorize(PlacesTask):
    """Where did Mary go, long ago?"""

    name = "memorize"
    version = 1
    summary = "a fact at the start of a long text"
    kind: ClassVar[Kind] = "memorize"
