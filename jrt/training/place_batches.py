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

from jrt.errors import InvalidOptionError
from jrt.training.distractors import Distractors, pieces
from jrt.training.passages import Passage, Passages
from jrt.training.places import FORMS, KINDS, PLACES, REVERSE, TOWNS, Kind, Split

SEGMENT_LENGTH = 24
ANSWERS = (*PLACES, *TOWNS, *REVERSE)
"""What a model can say; tasks ask for places only."""
_TRIES = 20


@dataclass(frozen=True)
class Batch:
    """Texts, and questions about them; all questions are the ends of last segments.

    Attributes:
        before: token ids of all segments but the last, (B, T).
        last: token ids of last segments, (Q, SEGMENT_LENGTH).
        rows: to which text each belongs, (Q,).
        labels: indices into `ANSWERS`, (Q,).
        sizes: how many of them are of each kind; at the end, where there are relations, those about directions.
        quiet: which segments but the last hold no part of a fact, (B, N - 1).
        clear: which of them hold as much of a fact as it takes to tell that it is one, (B, N - 1).
        settled: texts of which no fact goes on in the last segment.
        unanswerable: segments without a fact that end in a question of the batch, but none about directions,
            (U, SEGMENT_LENGTH).
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


Asked = tuple[NDArray[np.int64], str]
"""The token ids of a question, and the answer."""


@dataclass(frozen=True)
class Text:
    """One text and what it is asked.

    Attributes:
        ids: token ids, (N * SEGMENT_LENGTH,).
        questions: about who or what is where; each as long as the one it was drawn with.
        bearings: about directions, and as long.
        quiet: which segments hold no part of a fact, (N,).
        clear: which hold as much of one as it takes to tell that it is one, (N,).
    """

    ids: NDArray[np.int64]
    questions: list[Asked]
    bearings: list[Asked]
    quiet: list[bool]
    clear: list[bool]

    def ending_in(self, question: NDArray[np.int64]) -> NDArray[np.int64]:
        """The last segment with a question at its end, (SEGMENT_LENGTH,)."""
        return np.concatenate([self.ids[-SEGMENT_LENGTH : -len(question)], question])


@dataclass(frozen=True)
class Wanted:
    """What texts are like, and what they are asked.

    Attributes:
        forms: of questions about relations.
        questions: at most, about one text, beside those about directions.
        cut_share: the share of texts that are drawn again until the border of two segments cuts a fact, where the
            facts can stand anywhere and there is a border.
        carried_share: the share of texts with more than one segment of which the last holds no part of a fact.
        shared_share: the share of texts with two relations which are only asked about the place or town that both name;
            in half of them, but for what `cut_share` leaves, they are on one axis.
        landmark_share: the share of texts with two relations in which one or both are of a place and a town.
        only_directions: whether relations name one place at the same end, so that only their directions tell them
            apart, and are asked about that place.
        one_axis: with `only_directions`, whether these directions are opposite ones, as far as a few draws find such a
            text.
        turned: whether texts with two relations are asked where others lie *from the place that both name*, for which
            half of the relations have to be turned around; otherwise directions are asked for in their words.
    """

    forms: int = FORMS
    questions: int = 4
    cut_share: float = 0.0
    carried_share: float = 0.0
    shared_share: float = 0.0
    landmark_share: float = 0.0
    only_directions: bool = False
    one_axis: bool = False
    turned: bool = False

    def __post_init__(self) -> None:
        if self.one_axis and not self.only_directions:
            raise InvalidOptionError(
                "one_axis is about relations that only directions tell apart.", "Set only_directions."
            )


class Drawer:
    """Draws batches of one split.

    Args:
        tokenizer: turns pieces into ids.
        split: which facts.

    Attributes:
        sources: where the texts of each kind come from.
        landmarks: where those come from in which one relation or both are of a place and a town.
    """

    def __init__(self, tokenizer: Any, split: Split) -> None:
        distractors = Distractors()
        self.sources = {kind: Source(Passages(kind, split, distractors), tokenizer) for kind in KINDS}
        self.landmarks = Source(Passages("reason", split, distractors, landmarks=True), tokenizer)

    def draw(
        self,
        generator: np.random.Generator,
        rows: Mapping[Kind, int],
        num_segments: int,
        wanted: Wanted,
        *,
        unanswerable: int = 0,
    ) -> Batch:
        """A batch of `rows[kind]` texts of each kind; those with two relations are asked for both directions too."""
        texts: list[Text] = []
        groups: list[list[tuple[int, Asked]]] = []
        for kind, count in rows.items():
            first = len(texts)
            for _ in range(count):
                texts.append(self._text(generator, kind, num_segments, wanted))
            drawn = enumerate(texts[first:], first)
            groups.append([(row, asked) for row, text in drawn for asked in text.questions[: wanted.questions]])
        ends = [end for group in groups for _, (end, _) in group]
        bearings = [(row, asked) for row, text in enumerate(texts) for asked in text.bearings]
        groups += [bearings] if bearings else []
        asked = [found for group in groups for found in group]
        free = torch.tensor([text.quiet for text in texts])
        return Batch(
            before=torch.from_numpy(np.stack([text.ids[:-SEGMENT_LENGTH] for text in texts])),
            last=torch.from_numpy(np.stack([texts[row].ending_in(end) for row, (end, _) in asked])),
            rows=torch.tensor([row for row, _ in asked]),
            labels=torch.tensor([ANSWERS.index(answer) for _, (_, answer) in asked]),
            sizes=[len(group) for group in groups],
            quiet=free[:, :-1],
            clear=torch.tensor([text.clear for text in texts])[:, :-1],
            settled=free[:, -1],
            unanswerable=self._unanswerable(generator, ends, unanswerable),
        )

    def distractors(self, generator: np.random.Generator, count: int) -> Tensor:
        """Segments without facts, (count, SEGMENT_LENGTH); they begin and end in the middle of sentences."""
        source = self.sources["detect"]
        drawn, _ = source.passages.distractors.draw(generator, count * SEGMENT_LENGTH)
        return torch.from_numpy(source.table[drawn].reshape(count, SEGMENT_LENGTH))

    def _text(self, generator: np.random.Generator, kind: Kind, num_segments: int, wanted: Wanted) -> Text:
        """A text, and its questions in random order."""
        related = kind == "reason"
        source = self.landmarks if related and generator.random() < wanted.landmark_share else self.sources[kind]
        passages = source.passages
        if related and wanted.only_directions:
            shared, axes = True, 1 if wanted.one_axis else None
        else:
            shared = related and generator.random() < wanted.shared_share
            axes = int(generator.integers(1, 3)) if shared else None
        passage = self._passage(generator, passages, num_segments, wanted, axes)
        asked = passages.questions(passage, wanted.forms)
        if shared:  # with one form of questions there may be none about that place
            place = passages.shared(passage)
            asked = [found for found in asked if place in passages.text(found[0])] or asked
        bearings = passages.bearings(passage, turned=wanted.turned) if related else []
        return Text(
            ids=source.table[passage.pieces],
            questions=[(source.table[asked[n][0]], asked[n][1]) for n in generator.permutation(len(asked))],
            bearings=[(source.table[end], answer) for end, answer in bearings],
            quiet=_quiet(passage, num_segments),
            clear=_clear(passage, num_segments),
        )

    def _passage(
        self, generator: np.random.Generator, passages: Passages, num_segments: int, wanted: Wanted, axes: int | None
    ) -> Passage:
        """A passage, of relations on so many axes; one in which a border cuts a fact is sought for `cut_share`.

        After `_TRIES` draws it is what was drawn last.
        """
        length, alike = num_segments * SEGMENT_LENGTH, wanted.only_directions and passages.kind == "reason"
        free = SEGMENT_LENGTH if num_segments > 1 and generator.random() < wanted.carried_share else 0
        borders = num_segments - 1 - bool(free)
        cut = passages.kind != "memorize" and borders > 0 and generator.random() < wanted.cut_share
        for _ in range(_TRIES):
            passage = passages.draw(generator, length, wanted.forms, free, alike=alike)
            is_cut = not cut or any(len(segments) > 1 for segments in passage.segments(SEGMENT_LENGTH))
            if is_cut and (axes is None or len({_is_vertical(fact) for fact in passage.facts}) == axes):
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


def _is_vertical(relation: str) -> bool:
    """Whether a relation is about north and south."""
    return "north" in relation or "south" in relation


def _quiet(passage: Passage, num_segments: int) -> list[bool]:
    """Which segments hold no part of a fact."""
    touched = {segment for segments in passage.segments(SEGMENT_LENGTH) for segment in segments}
    return [segment not in touched for segment in range(num_segments)]


def _clear(passage: Passage, num_segments: int) -> list[bool]:
    """Which segments hold as much of a fact as it takes to tell that it is one."""
    found = [False] * num_segments
    for fact, offset in zip(passage.facts, passage.offsets, strict=True):
        words, first = [piece.strip() for piece in pieces(fact)], offset // SEGMENT_LENGTH
        inside = min(len(words), (first + 1) * SEGMENT_LENGTH - offset)
        begun, ended = _tells(words, inside)
        found[first] |= begun
        if inside < len(words):
            found[first + 1] |= ended
    return found


def _tells(words: list[str], inside: int) -> tuple[bool, bool]:
    """Whether the first words of a fact tell that it is one, and whether the others do with what the first ones told.

    "Mary went" and "The garden is" do, and so does more of the end than the full stop. Distractors say of two towns
    what a relation says: one that begins with a town is told by the place at its end, "of the garden." at least, and
    one that ends with a town by its beginning alone.
    """
    rest = len(words) - inside
    if words[0] != "The":
        return inside >= 2, rest > 1
    if words[1] in TOWNS:
        return inside >= len(words) - 1, rest >= 4
    begun = inside >= 3
    return begun, rest > 1 and (begun or words[-2] in PLACES)
