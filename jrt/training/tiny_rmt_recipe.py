"""What a run of `jrt.training.tiny_rmt` does: its stages, and every number in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from jrt.training.places import FORMS, Kind

MAX_SEGMENTS = 7
Memory = Literal["gated", "penalty", "replace", "armt"]


@dataclass(frozen=True)
class Level:
    """What texts are like until the next level.

    Attributes:
        forms: of questions about relations; all in shorter texts.
        segments: of the longest texts.
        patience: steps after which the level ends in any case.
        only_directions: whether only the directions tell the relations of the longest texts apart. Learning to match
            directions takes long where a guess by other means is often right, and is quick where it is not.
        one_axis: whether these directions are opposite ones.
        landmark_share: the share of texts with two relations in which one or both are of a place and a town. With
            fewer relations the first match of directions is found sooner.
    """

    forms: int
    segments: int
    patience: int
    only_directions: bool = False
    one_axis: bool = False
    landmark_share: float = 0.7


@dataclass(frozen=True)
class Stage:
    """One optimizer and one schedule.

    Attributes:
        name: of the stage, and of the folder that is saved behind it.
        levels: the last stays until the end.
        steps: batches.
        learning_rate: the highest.
        falls_from: the share of the steps after which it falls to nearly nothing.
        rows: texts of each kind in a batch.
        tasks_count_alike: in the loss, however many questions they ask.
        told: whether gates are told where the facts are.
        shared_share: the share of texts with two relations that are asked only about the place that both name; half of
            them on one axis.
        turned: whether directions are asked for from the place that both relations name, instead of in their words.
    """

    name: str
    levels: tuple[Level, ...]
    steps: int
    learning_rate: float
    falls_from: float = 0.7
    rows: Mapping[Kind, int] = field(default_factory=lambda: {"memorize": 8, "detect": 24, "reason": 32})
    tasks_count_alike: bool = True
    told: bool = False
    shared_share: float = 0.4
    turned: bool = False


MOSTLY_RELATIONS: Mapping[Kind, int] = {"memorize": 4, "detect": 12, "reason": 48}
TWO_SEGMENTS = (
    Level(1, 2, 2000, only_directions=True, landmark_share=0.0),
    Level(2, 2, 300, only_directions=True),
    Level(FORMS, 2, 300, only_directions=True),
    Level(FORMS, 2, 600),
)
STAGES = (
    Stage(
        "answer",
        levels=(
            Level(1, 1, 500, only_directions=True, landmark_share=0.0),
            Level(2, 1, 400, only_directions=True),
            Level(FORMS, 1, 400, only_directions=True),
            Level(FORMS, 1, 0),
        ),
        steps=2000,
        learning_rate=1.5e-3,
        tasks_count_alike=False,
    ),
    Stage(
        "carry",
        levels=(*TWO_SEGMENTS, *(Level(FORMS, count, 100) for count in range(3, MAX_SEGMENTS + 1))),
        steps=4200,
        learning_rate=1.5e-3,
        falls_from=0.5,
        rows=MOSTLY_RELATIONS,
    ),
    Stage(
        "match",
        levels=(
            Level(FORMS, 2, 900, only_directions=True, one_axis=True, landmark_share=0.5),
            Level(FORMS, 2, 0),
        ),
        steps=1500,
        learning_rate=1.5e-3,
        falls_from=0.5,
        rows=MOSTLY_RELATIONS,
        turned=True,
    ),
    Stage(
        "hold",
        levels=(Level(FORMS, MAX_SEGMENTS, 0),),
        steps=1000,
        learning_rate=1e-3,
        falls_from=0.4,
        rows=MOSTLY_RELATIONS,
        told=True,
        shared_share=0.3,
        turned=True,
    ),
)
MOVES: Mapping[Kind, int] = {"memorize": 8, "detect": 24}
COMPARED = (
    Stage("answer", (Level(1, 1, 0),), 300, 1.5e-3, rows=MOVES),
    Stage("carry", tuple(Level(1, count, 150) for count in range(2, MAX_SEGMENTS + 1)), 1200, 1.5e-3, rows=MOVES),
    Stage("hold", (Level(1, MAX_SEGMENTS, 0),), 600, 1.5e-3, rows=MOVES, told=True),
)
"""Shorter stages without relations, to compare memories."""


@dataclass(frozen=True)
class Recipe:
    """What one run does; the defaults made the shipped checkpoint."""

    seed: int = 0
    memory: Memory = "gated"
    stages: tuple[Stage, ...] = STAGES
    questions: int = 4
    """At most, about one text, but for directions: two related facts answer eight, a fact about a person one."""
    unanswerable: int = 32
    """Segments without a fact behind which every place is to be equally likely, and nothing else is, ..."""
    unanswerable_weight: float = 0.3
    """... and how much that counts."""
    cut_share: float = 0.5
    """Of the texts, those that are drawn so that a border cuts a fact."""
    carried_share: float = 0.8
    """Of the texts with more than one segment, those of which the last holds no part of a fact."""
    weight_decay: float = 0.1
    told_weight: float = 1.0
    """Of the pressure on gates, reached after half of the last stage."""
    disturbances: int = 4
    """Segments without facts that each memory is disturbed by in the last stage."""
    num_memory_tokens: int = 8
    write_penalty: float = 0.05
    easy_above: float = 0.97
    """Accuracy on memorize and detect above which a level is passed, ..."""
    reason_above: float = 0.95
    """... if reason is above this."""

    @property
    def gated(self) -> bool:
        return self.memory in ("gated", "penalty")

    @classmethod
    def comparison(cls, seed: int, memory: Memory) -> Recipe:
        """*memorize* and *detect* alone, for a memory beside others; one fact fits into four memory tokens."""
        options: dict[str, Any] = {"num_memory_tokens": 4, "carried_share": 0.0}
        return cls(seed=seed, memory=memory, stages=COMPARED, **options)
