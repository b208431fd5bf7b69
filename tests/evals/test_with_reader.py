"""An evaluation through a real Reader around a tiny random model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from text import word_tokenizer
from zoo import build

import jrt
from jrt.errors import ContextTooLongError, UnsupportedModelError
from jrt.evals import evaluate, parse_task
from jrt.evals.samples import SampleLog
from jrt.methods import parse_method


@pytest.fixture(scope="module")
def reader() -> Any:
    return jrt.wrap(build("mamba"), tokenizer=word_tokenizer())


def test_samples_are_what_the_reader_answers(reader: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"limit": 4, "max_new_tokens": 5, "out": tmp_path / "out"}
    result = evaluate(reader, ["facts:num_facts=3"], ["once", "twice"], **settings)
    assert result.settings.model.fingerprint is not None and result.settings.model.device == reader.device.type
    task = parse_task("facts:num_facts=3")
    with SampleLog(tmp_path / "out" / "samples.jsonl") as log:
        assert len(log.samples) == 8
        for method in ("once", "twice"):
            view = reader.with_methods(parse_method(method))
            for item in task.items(limit=4):
                answer = view.answer(item.context, item.question, max_new_tokens=5)
                sample = log.samples[str(task), method, item.id]
                assert (sample.output, sample.prompt_tokens) == (answer.raw, answer.prompt_tokens)


def test_a_run_that_was_cut_goes_on_with_the_same_batches(reader: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"limit": 5, "max_new_tokens": 4, "batch_size": 3}
    whole = evaluate(reader, ["mqar:num_pairs=4"], ["once", "twice"], out=tmp_path, **settings)
    samples = tmp_path / "samples.jsonl"
    outputs = [line.split(b'"seconds"')[0] for line in samples.read_bytes().splitlines()]
    samples.write_bytes(samples.read_bytes()[:-400])
    resumed = evaluate(reader, ["mqar:num_pairs=4"], ["once", "twice"], out=tmp_path, **settings)
    assert sorted(line.split(b'"seconds"')[0] for line in samples.read_bytes().splitlines()) == sorted(outputs)
    assert resumed.comparisons == whole.comparisons


def test_the_length_check_counts_the_models_tokens(tmp_path: Path) -> None:
    reader = jrt.wrap(build("llama"), tokenizer=word_tokenizer())
    assert reader.max_length is not None
    words = 2 * reader.max_length
    with pytest.raises(ContextTooLongError, match=f"reads at most {reader.max_length} tokens") as caught:
        evaluate(reader, [f"passkey:num_words={words}"], ["once"], limit=2)
    assert "'passkey-0-" in str(caught.value)


@pytest.mark.parametrize("task", ["memorize", "facts"])
def test_an_encoder_is_sent_to_the_command_that_measures_it(task: str) -> None:
    with pytest.raises(UnsupportedModelError, match="writes no text") as caught:
        evaluate("jrt/tiny-rmt", [task], ["once"], limit=2)
    assert "python -m jrt.evals.memory jrt/tiny-rmt --tasks memorize" in caught.value.hint
