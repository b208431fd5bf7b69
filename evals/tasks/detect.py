"""One fact anywhere in a text, asked at its end: what a memory finds and keeps (arXiv 2304.11062, section 4.2)."""

from __future__ import annotations

from typing import ClassVar

from jrt.evals.tasks.places import PlacesTask
from jrt.training.places import Kind


class Detect(PlacesTask):
    """Where did Mary go, at some time?"""

    name = "detect"
    version = 1
    summary = "a fact anywhere in a long text"
    kind: ClassVar[Kind] = "detect"
