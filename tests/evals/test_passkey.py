"""Passkey by filler: the five sentences as they were, or random ones, and nothing but the hidden number in digits."""

from __future__ import annotations

import re

from jrt.evals.tasks.registry import parse_task
from jrt.training.passkeys import STOCK, hidden


def test_the_default_repeats_five_sentences() -> None:
    (item,) = parse_task("passkey:num_words=200,depth=0.5").items(limit=1)
    rest = item.context.replace(hidden(item.answers[0]) + " ", "")
    assert set(re.findall(r"[^.]+\.", rest)) <= {*STOCK, *(f" {stock}" for stock in STOCK)}


def test_varied_sentences_are_drawn_for_every_item() -> None:
    items = parse_task("passkey:num_words=2000,filler=varied").items(limit=3)
    seen = [set(re.findall(r"[^.]+\.", item.context)) for item in items]
    assert all(len(found) > 150 for found in seen) and len(seen[0] & seen[1]) < 15
    for item in items:
        assert re.findall(r"\d+", item.context) == [item.answers[0]] * 2
        assert 1980 <= len(item.context.split()) <= 2000
