"""jrt inside `transformers.pipeline`: a task of its own, registered when asked for and not at import.

A Reader also works as `model=` of the stock `text-generation` pipeline; that one knows no boundary between context and
question, so a method of several passes needs `context_length=` there, or the order `repeat`.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoModelForCausalLM, Pipeline
from transformers.models.auto import modeling_auto
from transformers.pipelines import PIPELINE_REGISTRY

from jrt.answers import Answer
from jrt.errors import InvalidOptionError, did_you_mean
from jrt.methods import Method, parse_method
from jrt.reader import Reader

TASK = "jrt-question-answering"
HEADS = ("CAUSAL_LM", "SEQUENCE_CLASSIFICATION", "TOKEN_CLASSIFICATION")
"""Of the stock pipelines that ask what class the model is."""


def register_pipelines() -> None:
    """Adds the task `jrt-question-answering` to transformers' pipelines, and Reader to the models they know.

    Calling it again changes nothing. Without it a Reader works in the stock pipelines too (`text-generation`, and
    around an encoder `text-classification` and the like), but they log that they do not know the class.

    Example:
        >>> jrt.register_pipelines()
        >>> answer = transformers.pipeline("jrt-question-answering", model=reader, tokenizer=reader.tokenizer)
        >>> answer({"context": document, "question": "Where does Mira live?"})
        {'answer': 'Oslo', 'prompt_tokens': 60, 'new_tokens': 1}
    """
    for head in HEADS:
        getattr(modeling_auto, f"MODEL_FOR_{head}_MAPPING_NAMES").setdefault("jrt-reader", Reader.__name__)
    if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline(
            TASK, pipeline_class=QuestionAnsweringPipeline, pt_model=AutoModelForCausalLM
        )


class QuestionAnsweringPipeline(Pipeline):
    """Answers `{"context": ..., "question": ...}`, or a list of them, with `{"answer": ...}`.

    `model` is a Reader, or a causal language model, then read with `method` (a method or its shorthand; twice unless
    said otherwise). Everything else is what `Reader.ask` takes.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True

    def check_model_type(self, supported_models: Any) -> None:
        """Any causal language model; the probe finds out what it can do."""

    def _sanitize_parameters(self, method: Method | str | None = None, **options: Any) -> Any:
        preprocess = {} if method is None else {"method": method}
        return preprocess, options, {}

    def preprocess(self, input_: Any, method: Method | str = "twice") -> dict[str, Any]:  # type: ignore[override]
        """The document and the question, checked, and the reader that answers."""
        if not isinstance(input_, dict):
            raise InvalidOptionError(
                f"{TASK} got a {type(input_).__name__}.", 'Pass {"context": document, "question": question}.'
            )
        for name in input_:
            if name not in ("context", "question", "system"):
                hint = did_you_mean(name, ("context", "question", "system"))
                raise InvalidOptionError(f"{TASK} has no input {name!r}.{hint}")
        for name in ("context", "question"):
            if name not in input_:
                raise InvalidOptionError(f"{TASK} got no {name}.", 'Pass {"context": document, "question": question}.')
        return {"input": input_, "method": method}

    def _forward(self, model_inputs: dict[str, Any], **options: Any) -> Answer:  # type: ignore[override]
        asked = model_inputs["input"]
        reader = self._reader(model_inputs["method"])
        return reader.answer(asked["context"], asked["question"], system=asked.get("system"), **options)

    def postprocess(self, model_outputs: Answer) -> dict[str, Any]:  # type: ignore[override]
        answer = model_outputs
        return {"answer": answer.text, "prompt_tokens": answer.prompt_tokens, "new_tokens": answer.new_tokens}

    def _reader(self, method: Method | str) -> Reader:
        if isinstance(self.model, Reader):
            return self.model
        parsed = parse_method(method) if isinstance(method, str) else method
        return Reader(self.model, [parsed], self.tokenizer)
