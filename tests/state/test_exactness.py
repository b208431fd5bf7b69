"""What `jrt doctor` says about exactness is measured, and the committed table is the one that the command makes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import jrt
from jrt.state import probe
from jrt.state.architectures import ARCHITECTURES, build
from jrt.state.exactness import exactness, stock_error

TABLE = Path(__file__).parents[2] / "jrt" / "state" / "README.md"


def test_sees_what_transformers_gets_wrong_and_jrt_does_not() -> None:
    model = build("mamba")
    reader = jrt.wrap(model)
    stock = stock_error(model, probe(model).state_argument)
    with reader.installed():
        found = exactness(model, reader.capabilities, stock=stock)
    assert stock is not None
    assert stock > 0.1
    assert found.largest < 1e-4


def test_wrong_capabilities_show_in_the_error_they_cause() -> None:
    recurrent, rowwise = build("mamba"), build("rwkv4")
    assert exactness(recurrent, replace(probe(recurrent), continuation="chunk"), stock=None).parts > 0.1
    together = replace(probe(rowwise), batch=True, padding=True, reorderable=True, gaps=True)
    with pytest.raises(Exception):  # noqa: B017 - or a wrong number: either way it does not pass for exact
        assert max(exactness(rowwise, together, stock=None).padded, 0.0) < 1e-4


def test_a_model_without_a_state_has_no_stock_error() -> None:
    assert stock_error(build("recurrent_gemma"), None) is None


def test_the_table_in_the_docs_covers_every_architecture_and_holds_what_was_promised() -> None:
    rows = [line.split("|") for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    names = [row[1].strip() for row in rows if not set(row[1].strip()) <= {"-"}]
    assert names == list(ARCHITECTURES)
    largest = [float(re.sub(r"[^0-9.e+-]", "", row[-2])) for row in rows if not set(row[1].strip()) <= {"-"}]
    assert max(largest) < 1e-4
