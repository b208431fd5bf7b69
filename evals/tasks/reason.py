"""Two facts anywhere in a text; one answers the question, often the other way round (arXiv 2304.11062, section 4.3)."""

from __future__ import annotations

from typing import ClassVar

from jrt.evals.tasks.places import PlacesTask
from jrt.training.places import Kind


class Reason(PlacesTask):
    """What is north of the kitchen?"""

    name = "reason"
    version = 1
    summary = "two facts anywhere in a long text, one to turn around"
    kind: ClassVar[Kind] = "reason"
