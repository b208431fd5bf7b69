"""Where segments begin and end, for any lengths; and that rows end together."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rmt_oracle import pieces

from jrt.adapters.rmt_blocks import arrange, blocks
from jrt.adapters.rmt_segments import Text, cut

LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 12), st.sampled_from(["left", "right", "center"]))
def test_segments_are_those_of_slices_and_rows_end_together(lengths: list[int], size: int, alignment: Any) -> None:
    segments = cut(torch.tensor(lengths), size, alignment)
    assert bool(segments.active[-1].all())
    for row, length in enumerate(lengths):
        steps = segments.active[:, row].nonzero()[:, 0].tolist()
        assert steps == list(range(len(segments) - len(steps), len(segments)))
        found = [list(range(int(segments.start[s, row]), int((segments.start + segments.size)[s, row]))) for s in steps]
        assert found == pieces(list(range(length)), size, alignment)


def test_centred_segments_are_equal_up_to_one_token() -> None:
    segments = cut(torch.tensor([33, 14, 3]), 7, "center")
    assert segments.size[:, 0].tolist() == [7, 7, 7, 6, 6] and segments.start[:, 0].tolist() == [0, 7, 14, 21, 27]
    assert segments.size[-2:, 1].tolist() == [7, 7] and segments.size[-1, 2] == 3


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_text_is_found_under_any_mask(data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 12))
    ids = torch.tensor([data.draw(st.lists(st.integers(1, 5), min_size=width, max_size=width)) for _ in range(3)])
    mask = torch.tensor([data.draw(st.lists(st.integers(0, 1), min_size=width, max_size=width)) for _ in range(3)])
    text = Text.of(ids, mask, 1, 2)
    rows = torch.arange(3)
    columns = text.columns(rows, torch.zeros(3, dtype=torch.long), width)
    for row in range(3):
        kept = [column for column in range(width) if mask[row, column]]
        head = kept[0] if kept and ids[row, kept[0]] == 1 else -1
        kept = kept[1:] if head >= 0 else kept
        tail = kept[-1] if kept and ids[row, kept[-1]] == 2 else -1
        kept = kept[:-1] if tail >= 0 else kept
        assert (int(text.head[row]), int(text.tail[row])) == (head, tail)
        assert columns[row, : int(text.lengths[row])].tolist() == kept


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_blocks_hold_every_token_once_and_memory_at_borders_only(data: st.DataObject) -> None:
    size, m = data.draw(st.integers(1, 7)), data.draw(st.integers(0, 3))
    lengths = torch.tensor(data.draw(LENGTHS.filter(any)))
    places = torch.tensor([data.draw(st.integers(0, size - 1)) for _ in lengths])
    seen: list[list[Any]] = [[] for _ in lengths]
    for block in blocks(lengths, places, size):
        layout = arrange(block, m)
        longest = int(block.count.max())
        for row in range(len(lengths)):
            for source, there, position in zip(
                *(part[row] for part in (layout.source, layout.seen, layout.positions)), strict=True
            ):
                if not there:
                    continue
                kind = "read" if source < m else "write" if source >= m + longest else "token"
                token = int(block.start[row]) + int(source) - m if kind == "token" else None
                seen[row].append((kind, token, int(position)))
            for number in range(int(block.count[row])):
                assert layout.source[row, layout.tokens[row, number]] == m + number
    for row, length in enumerate(lengths.tolist()):
        expected: list[Any] = []
        for token in range(length):
            place = (int(places[row]) + token) % size
            if place == 0:
                expected += [("read", None, position) for position in range(m)]
            expected.append(("token", token, m + place))
            if place == size - 1:
                expected += [("write", None, m + size + position) for position in range(m)]
        assert seen[row] == expected
