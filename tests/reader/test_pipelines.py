"""jrt inside transformers' pipelines."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import transformers
from encoders import build_encoder
from text import DOCUMENT, word_tokenizer

import jrt
from jrt.errors import InvalidOptionError

QUESTION = {"context": DOCUMENT, "question": "Where does Mira live?"}


@pytest.fixture(autouse=True)
def _registered() -> None:
    jrt.register_pipelines()
    jrt.register_pipelines()


def test_nothing_is_registered_at_import() -> None:
    code = (
        "import jrt, jrt.reader, jrt.pipelines; from transformers.pipelines import PIPELINE_REGISTRY as registry;"
        "print('jrt-question-answering' in registry.get_supported_tasks()); jrt.register_pipelines();"
        "print('jrt-question-answering' in registry.get_supported_tasks())"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["False", "True"]


def test_question_answering_with_a_reader(mamba: Any, tokenizer: Any) -> None:
    reader = jrt.wrap(mamba, jrt.JRTPrompt(2), tokenizer=tokenizer)
    pipe = transformers.pipeline("jrt-question-answering", model=reader, tokenizer=tokenizer)
    expected = reader.ask(DOCUMENT, QUESTION["question"], max_new_tokens=5)
    assert pipe(QUESTION, max_new_tokens=5)["answer"] == expected
    assert [result["answer"] for result in pipe([QUESTION, QUESTION], max_new_tokens=5)] == [expected] * 2


def test_question_answering_with_a_plain_model(llama: Any, tokenizer: Any) -> None:
    pipe = transformers.pipeline("jrt-question-answering", model=llama, tokenizer=tokenizer)
    for method in ("once", "twice", jrt.JRTPrompt(2, order="repeat")):
        asked = method if isinstance(method, jrt.JRTPrompt) else jrt.JRTPrompt(1 if method == "once" else 2)
        expected = jrt.wrap(llama, asked, tokenizer=tokenizer).ask(DOCUMENT, QUESTION["question"], max_new_tokens=5)
        assert pipe(QUESTION, method=method, max_new_tokens=5)["answer"] == expected


def test_bad_input_names_the_key(llama: Any, tokenizer: Any) -> None:
    pipe = transformers.pipeline("jrt-question-answering", model=llama, tokenizer=tokenizer)
    with pytest.raises(InvalidOptionError, match="got no context"):
        pipe({"question": "Who?"})
    with pytest.raises(InvalidOptionError, match=r"'contex'.*Did you mean 'context'"):
        pipe({"contex": DOCUMENT, "question": "Who?"})
    with pytest.raises(InvalidOptionError, match="got a str"):
        pipe("Who?")


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What transformers logs as an error; its logger hands nothing on to the root, where caplog listens."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.ERROR, "transformers"):
        yield caplog
    logger.removeHandler(caplog.handler)


def test_a_reader_in_the_stock_pipeline(mamba: Any, tokenizer: Any, errors: pytest.LogCaptureFixture) -> None:
    options = dict(max_new_tokens=5, do_sample=False)
    stock = transformers.pipeline("text-generation", model=mamba, tokenizer=tokenizer)
    once = transformers.pipeline("text-generation", model=jrt.wrap(mamba, tokenizer=tokenizer), tokenizer=tokenizer)
    assert not errors.records, "the stock pipeline must know a Reader after register_pipelines"
    assert once("Mira lives in", **options) == stock("Mira lives in", **options)
    repeat = jrt.wrap(mamba, jrt.JRTPrompt(2, order="repeat"), tokenizer=tokenizer)
    twice = transformers.pipeline("text-generation", model=repeat, tokenizer=tokenizer)
    ours = twice("Mira lives in", return_full_text=False, **options)
    assert ours == stock("Mira lives in\nMira lives in", return_full_text=False, **options)


@pytest.mark.parametrize(
    ("task", "head"),
    [("text-classification", "ForSequenceClassification"), ("token-classification", "ForTokenClassification")],
)
def test_an_encoder_in_the_stock_pipelines(task: str, head: str, errors: pytest.LogCaptureFixture) -> None:
    tokenizer = word_tokenizer(size=64)
    reader = jrt.wrap(build_encoder("bert", head), jrt.RMT(num_memory_tokens=2, segment_length=8), tokenizer=tokenizer)
    assert transformers.pipeline(task, model=reader, tokenizer=tokenizer)("Mira lives in Oslo. " * 5)
    assert not errors.records
