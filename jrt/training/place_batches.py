"""Batches of texts about places, as token ids: what `jrt.training.tiny_rmt` trains on.

A batch asks several questions about each text: all segments but the last are read once, and the last one again for
every question. What a recipe may ask for beside that is here as well: facts that the border of two segments cuts, the
questions that only the direction of a relation answers, and questions behind segments without any fact, which have no
answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jrt.training.places import PLACES, SLOTS, Distractors, Kind, Passage, Passages, Split, pieces

SEGMENT_LENGTH = 24
KINDS: tuple[Kind, ...] = ("memorize", "detect", "reason")
TOWNS = SLOTS["town"]
_TRIES = 20


@dataclass(frozen=True)
class Batch:
    """Texts, and questions about them; all questions are the ends of last segments.

    Attributes:
        before: token ids of all segments but the last, (B, T).
        last: token ids of last segments, (Q, SEGMENT_LENGTH).
        rows: to which text each belongs, (Q,).
        labels: numbers of places, (Q,).
        sizes: how many of them are of each kind.
        quiet: which segments but the last hold no part of a fact, (B, N - 1).
        clear: which of them hold as much of a fact as it takes to tell that it is one, (B, N - 1).
        settled: texts of which no fact goes on in the last segment.
        unanswerable: segments without a fact that end in a question of the batch, (U, SEGMENT_LENGTH).
    """

    before: Tensor
    last: Tensor
    rows: Tensor
    labels: Tensor
    sizes: list[int]
    quiet: Tensor
    clear: Tensor
    settled: Tensor
    unanswerable: Tensor


class Drawer:
    """Draws batches of one split.

    Args:
        tokenizer: turns pieces into ids.
        split: which facts.
        cut_share: the share of texts that are drawn again until the border of two segments cuts a fact, where the
            facts can stand anywhere and there is a border.
        carried_share: the share of texts with more than one segment of which the last holds no part of a fact.
        shared_share: the share of texts with two relations which are only asked about the place or town that both name,
            where a place is the answer; in half of them, but for what `cut_share` leaves, they are on one axis.
        landmark_share: the share of texts with two relations in which one or both are of a place and a town.
    """

    def __init__(
        self,
        tokenizer: Any,
        split: Split,
        *,
        cut_share: float = 0.0,
        carried_share: float = 0.0,
        shared_share: float = 0.0,
        landmark_share: float = 0.0,
    ) -> None:
        distractors = Distractors()
        self.cut_share, self.carried_share = cut_share, carried_share
        self.shared_share, self.landmark_share = shared_share, landmark_share
        self.sources = {kind: Source(Passages(kind, split, distractors), tokenizer) for kind in KINDS}
        if landmark_share:
            self.landmarks = Source(Passages("reason", split, distractors, pairs="landmarks"), tokenizer)
        self.one_place_last = Source(Passages("reason", split, distractors, pairs="one_place_last"), tokenizer)

    def draw(
        self,
        generator: np.random.Generator,
        rows: Mapping[Kind, int],
        num_segments: int,
        *,
        forms: int,
        questions: int,
        unanswerable: int = 0,
        only_directions: bool = False,
    ) -> Batch:
        """A batch of `rows[kind]` texts of each kind, with up to `questions` questions about each.

        With `only_directions`, both relations of a text name one place last, and the text is asked about that place.
        """
        before: list[NDArray[np.int64]] = []
        last: list[NDArray[np.int64]] = []
        ends: list[NDArray[np.int64]] = []
        owners, labels, sizes, quiet, clear = [], [], [], [], []
        for kind, count in rows.items():
            asked = len(last)
            for _ in range(count):
                source = self._source(generator, kind, forms, only_directions)
                shared = kind == "reason" and (only_directions or generator.random() < self.shared_share)
                axes = int(generator.integers(1, 3)) if shared and not only_directions else None
                passage = self._passage(generator, source.passages, num_segments, forms, axes)
                ids = source.table[passage.pieces]
                for asks, answer in _asked(generator, source.passages, passage, forms, shared)[:questions]:
                    ends.append(source.table[asks])
                    last.append(np.concatenate([ids[-SEGMENT_LENGTH : -len(asks)], ends[-1]]))
                    owners.append(len(before))
                    labels.append(PLACES.index(answer))
                before.append(ids[:-SEGMENT_LENGTH])
                quiet.append(_quiet(passage, num_segments))
                clear.append(_clear(passage, num_segments))
            sizes.append(len(last) - asked)
        free = torch.tensor(quiet)
        return Batch(
            before=torch.from_numpy(np.stack(before)),
            last=torch.from_numpy(np.stack(last)),
            rows=torch.tensor(owners),
            labels=torch.tensor(labels),
            sizes=sizes,
            quiet=free[:, :-1],
            clear=torch.tensor(clear)[:, :-1],
            settled=free[:, -1],
            unanswerable=self._unanswerable(generator, ends, unanswerable),
        )

    def distractors(self, generator: np.random.Generator, count: int) -> Tensor:
        """Segments without facts, (count, SEGMENT_LENGTH); they begin and end in the middle of sentences."""
        source = self.sources["detect"]
        drawn, _ = source.passages.distractors.draw(generator, count * SEGMENT_LENGTH)
        return torch.from_numpy(source.table[drawn].reshape(count, SEGMENT_LENGTH))

    def _source(self, generator: np.random.Generator, kind: Kind, forms: int, only_directions: bool) -> Source:
        """Where a text comes from. With one form of questions there may be none about a place and a town."""
        if kind == "reason" and only_directions:
            return self.one_place_last
        landmarks = kind == "reason" and forms > 1 and self.landmark_share and generator.random() < self.landmark_share
        return self.landmarks if landmarks else self.sources[kind]

    def _passage(
        self, generator: np.random.Generator, passages: Passages, num_segments: int, forms: int, axes: int | None
    ) -> Passage:
        """A text, of relations on so many axes; one in which a border cuts a fact is sought for `cut_share` of them."""
        length = num_segments * SEGMENT_LENGTH
        free = SEGMENT_LENGTH if num_segments > 1 and generator.random() < self.carried_share else 0
        borders = num_segments - 1 - bool(free)
        cut = passages.kind != "memorize" and borders > 0 and generator.random() < self.cut_share
        for _ in range(_TRIES):
            passage = passages.draw(generator, length, forms, free)
            is_cut = not cut or any(len(segments) > 1 for segments in passage.segments(SEGMENT_LENGTH))
            if is_cut and (axes is None or len({_axis(fact) for fact in passage.facts}) == axes):
                break
        return passage

    def _unanswerable(self, generator: np.random.Generator, ends: list[NDArray[np.int64]], count: int) -> Tensor:
        """Segments of distractors that end in `count` of the questions."""
        segments = self.distractors(generator, count) if count else torch.zeros(0, SEGMENT_LENGTH, dtype=torch.long)
        for segment, index in zip(segments, generator.integers(len(ends), size=count), strict=True):
            segment[-len(ends[index]) :] = torch.from_numpy(ends[index])
        return segments


class Source:
    """Passages, and the tokenizer's id of every piece of their vocabulary, (V,)."""

    def __init__(self, passages: Passages, tokenizer: Any) -> None:
        self.passages, self.table = passages, token_table(passages, tokenizer)


def token_table(passages: Passages, tokenizer: Any) -> NDArray[np.int64]:
    """The tokenizer's id of every piece of a vocabulary, (V,)."""
    return np.array(tokenizer.convert_tokens_to_ids([piece.strip() for piece in passages.vocabulary]), dtype=np.int64)


def _asked(
    generator: np.random.Generator, passages: Passages, passage: Passage, forms: int, about_both: bool
) -> list[tuple[NDArray[np.int32], str]]:
    """The questions of a text in random order, all or those about what both of its facts name, if there are any."""
    every = passages.questions(passage, forms)
    if about_both:
        one, other = (set(pieces(fact)) for fact in passage.facts)
        both = next(place for place in (*PLACES, *TOWNS) if f" {place}" in one & other)
        every = [found for found in every if both in passages.text(found[0])] or every
    return [every[index] for index in generator.permutation(len(every))]


def _axis(relation: str) -> bool:
    """Whether a relation is about north and south."""
    return "north" in relation or "south" in relation


def _quiet(passage: Passage, num_segments: int) -> list[bool]:
    """Which segments hold no part of a fact."""
    touched = {segment for segments in passage.segments(SEGMENT_LENGTH) for segment in segments}
    return [segment not in touched for segment in range(num_segments)]


def _clear(passage: Passage, num_segments: int) -> list[bool]:
    """Which segments hold as much of a fact as it takes to tell.

    That is a whole fact, its first words behind the name or the place ("Mary went", "The garden is"), or more of its
    end than the full stop. Of a relation with a town only a whole one counts: distractors say the same of two towns.
    """
    found = [False] * num_segments
    for fact, offset in zip(passage.facts, passage.offsets, strict=True):
        length, first = len(pieces(fact)), offset // SEGMENT_LENGTH
        inside = min(length, (first + 1) * SEGMENT_LENGTH - offset)
        town = any(f" {name}" in fact for name in TOWNS)
        found[first] |= inside >= (length if town else 3 if fact.startswith("The") else 2)
        if length - inside > 1 and not town:
            found[first + 1] = True
    return found
