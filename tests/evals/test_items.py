"""Reading data files: every kind of broken file has a message of its own; sampling keeps its promises."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from fakes import likes_rows, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from jrt.errors import DataFormatError, InputNotFoundError, InvalidOptionError
from jrt.evals.items import Item, Row, items_hash, plain_item, read_items, sample

GOOD = {"id": "1", "context": "Mira likes figs.", "question": "What does Mira like?", "answers": ["figs"]}


def item_of(row: Row, number: int) -> Item:
    return plain_item(row)


def read(path: Path) -> list[Item]:
    return list(read_items(path, item_of))


@pytest.mark.parametrize("name", ["data.jsonl", "data.jsonl.gz"])
def test_a_good_file(tmp_path: Path, name: str) -> None:
    rows = [{**GOOD, "title": "x"}, {**GOOD, "id": 2, "answers": "figs"}]
    items = read(write_rows(tmp_path / name, rows))
    assert items[0] == Item("1", GOOD["context"], GOOD["question"], ("figs",), {"title": "x"})
    assert items[0].row == rows[0]
    assert items[1].id == "2" and items[1].answers == ("figs",)


def test_a_byte_order_mark_and_blank_lines_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n  \n")
    assert [item.id for item in read(path)] == ["1"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "1", "question": "q?"}, "context, answers is missing"),
        ({**GOOD, "context": ""}, "context is empty"),
        ({**GOOD, "question": "  "}, "question is empty"),
        ({**GOOD, "answers": []}, "answers is empty"),
        ({**GOOD, "answers": [""]}, "an answer is empty"),
        ({**GOOD, "answers": 5}, "answers holds int"),
        ({**GOOD, "answers": [5]}, "an answer holds int"),
        ({**GOOD, "context": None}, "context holds NoneType"),
        ({**GOOD, "id": 1.5}, "id holds float"),
        ([1], "this is list, not an object"),
        ({**GOOD, "id": "0"}, "the id '0' is already that of line 1"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, row: Any, message: str) -> None:
    path = write_rows(tmp_path / "data.jsonl", [{**GOOD, "id": "0"}, row])
    with pytest.raises(DataFormatError) as caught:
        read(path)
    assert f"{path}, line 2" in str(caught.value) and message in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [(b'{"id": "1", "context"', "no JSON"), (b"\xff\xfe{}", "not UTF-8"), (b"{} {}", "no JSON")],
)
def test_a_broken_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(DataFormatError, match=message) as caught:
        read(path)
    assert "line 3" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.jsonl").write_bytes(content)
    with pytest.raises(DataFormatError, match="holds no rows"):
        read(tmp_path / "data.jsonl")


def test_a_truncated_or_wrong_gzip_file(tmp_path: Path) -> None:
    rows = [{**GOOD, "id": str(index), "context": os.urandom(40).hex()} for index in range(2000)]
    whole = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    path = tmp_path / "data.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataFormatError, match=r"after line \d{2,}: the compressed file is truncated"):
        read(path)
    path.write_bytes(json.dumps(GOOD).encode())
    with pytest.raises(DataFormatError, match="truncated or broken"):
        read(path)
    path.write_bytes(whole[:100] + b"\0" * 100 + whole[200:])
    with pytest.raises(DataFormatError, match="broken"):
        read(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="no data file"):
        read(tmp_path / "nothing.jsonl")


ids = st.lists(st.text(min_size=1, max_size=6), unique=True, max_size=40)


def items_of(names: list[str]) -> list[Item]:
    return [Item(name, "c", "q", ("a",)) for name in names]


@settings(deadline=None, max_examples=100)
@given(ids, st.integers(1, 50), st.integers(0, 5), st.randoms())
def test_a_sample_depends_on_ids_and_seed_only(names: list[str], limit: int, seed: int, random: Any) -> None:
    drawn = sample(items_of(names), limit, seed)
    assert len(drawn) == min(limit, len(names))
    assert [item.id for item in drawn] == [name for name in names if name in {item.id for item in drawn}]  # file order
    shuffled = names.copy()
    random.shuffle(shuffled)
    assert {item.id for item in sample(items_of(shuffled), limit, seed)} == {item.id for item in drawn}
    larger = {item.id for item in sample(items_of(names), limit + 3, seed)}
    assert {item.id for item in drawn} <= larger


def test_a_sample_is_even_and_seeds_differ() -> None:
    names = [f"row-{index}" for index in range(100)]
    counts = dict.fromkeys(names, 0)
    for seed in range(300):
        for item in sample(items_of(names), 20, seed):
            counts[item.id] += 1
    assert min(counts.values()) >= 30 and max(counts.values()) <= 95  # 60 expected, standard deviation 6.9
    assert sample(items_of(names), 20, 0) != sample(items_of(names), 20, 1)


def test_no_limit_is_everything_and_zero_is_refused() -> None:
    assert sample(items_of(["b", "a"]), None, 0) == items_of(["b", "a"])
    with pytest.raises(InvalidOptionError, match="limit=0"):
        sample(items_of(["a"]), 0, 0)


def test_only_the_sample_is_held(tmp_path: Path) -> None:
    """While a file of a thousand rows is read, no more than limit + 1 items are alive."""
    import weakref

    alive: weakref.WeakSet[Item] = weakref.WeakSet()
    most = 0

    class Counted(Item):
        __hash__ = object.__hash__

    def counted(row: Row, number: int) -> Item:
        nonlocal most
        item = Counted(str(row["id"]), "c", "q", ("a",))
        alive.add(item)
        most = max(most, len(alive))
        return item

    path = write_rows(tmp_path / "data.jsonl", likes_rows(1000))
    assert len(sample(read_items(path, counted), 10, 0)) == 10
    assert most <= 12


def test_the_hash_of_items_sees_every_column() -> None:
    base = plain_item(GOOD)
    for change in ({"id": "2"}, {"context": "x"}, {"question": "x"}, {"answers": ["x"]}, {"extra": 1}):
        assert items_hash([plain_item({**GOOD, **change})]) != items_hash([base])
    assert items_hash([plain_item(dict(reversed(GOOD.items())))]) == items_hash([base])
