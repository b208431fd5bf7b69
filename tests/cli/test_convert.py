"""`jrt convert` on a synthetic checkpoint with the released keys."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from test_released import SCHEDULE, SETTINGS, checkpoint, write
from text import word_tokenizer


def test_a_checkpoint_becomes_a_folder_that_ask_takes(jrt: Callable[..., Any], tmp_path: Path, document: Path) -> None:
    source = write(tmp_path / "in", checkpoint(SCHEDULE), SETTINGS)
    word_tokenizer(size=300).save_pretrained(tmp_path / "words")
    out = tmp_path / "out"
    done = jrt("convert", source, out, "--padding", "strict", "--tokenizer", tmp_path / "words")
    assert done.code == 0, done.error
    assert "JRTForCausalLM" in done.out and "37 tensors" in done.out
    assert json.loads((out / "config.json").read_text())["padding"] == "strict"
    asked = jrt("ask", "Who?", "--context", document, "--model", out, "--method", "once", "--max-new-tokens", 3)
    assert asked.code == 0, asked.error


def test_json_holds_the_report_and_what_was_assumed(jrt: Callable[..., Any], tmp_path: Path) -> None:
    source, options = write(tmp_path / "in", checkpoint(SCHEDULE), SETTINGS), ("--tokenizer", "none")
    done = jrt("convert", source, tmp_path / "out", *options, "--sliding-window", 4, "--json")
    assert done.json["mixers"] == SCHEDULE and done.json["settings"]["sliding_window"] == 4
    again = jrt("convert", source, tmp_path / "out", *options)
    assert again.code == 2 and "there already" in again.error
    (source / "config.json").unlink()
    assert "num_attention_heads = 16" in jrt("convert", source, tmp_path / "other", *options).out
