"""From prompt ids to answers: greedy by default, stopped and cut, in batches, checked against what `generate` knows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, StoppingCriteria, StoppingCriteriaList

from jrt.errors import EmptyInputError, InvalidOptionError, did_you_mean


@dataclass(frozen=True)
class Answer:
    """One answer and what it cost.

    Attributes:
        text: what was generated, cut at the stop string, without surrounding white space.
        raw: everything that was generated, special tokens left out.
        prompt_tokens: tokens of the prompt, those of a kept state included.
        new_tokens: tokens generated.
        seconds: wall time of the call, shared evenly by the answers of a batch.
    """

    text: str
    raw: str
    prompt_tokens: int
    new_tokens: int
    seconds: float


class StopAt(StoppingCriteria):
    """Ends a row when its new text, leading white space aside, holds `stop`."""

    def __init__(self, tokenizer: Any, stop: str, prompt_columns: int) -> None:
        self.tokenizer, self.stop, self.prompt_columns = tokenizer, stop, prompt_columns

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:  # type: ignore[override]
        texts = self.tokenizer.batch_decode(input_ids[:, self.prompt_columns :], skip_special_tokens=True)
        done = [self.stop in text.lstrip() for text in texts]
        return torch.tensor(done, device=input_ids.device)


def cut(text: str, stop: str | None) -> str:
    """`text` without surrounding white space, up to the first `stop` in it."""
    text = text.lstrip()
    return (text.split(stop, 1)[0] if stop else text).strip()


def decode(
    tokenizer: Any, output: Any, prompt_columns: int, stop: str | None, prompt_tokens: Sequence[int], seconds: float
) -> list[Answer]:
    """The answers in what `generate` returned for a batch of prompts; of several answers to one prompt, the first.

    Args:
        tokenizer: the model's own.
        output: ids (B, T), or the dictionary that holds them as `sequences`.
        prompt_columns: columns before the answers.
        stop: where an answer ends.
        prompt_tokens: tokens of each prompt.
        seconds: wall time of the batch.
    """
    sequences = output if isinstance(output, Tensor) else output.sequences
    copies = len(sequences) // len(prompt_tokens)
    padding = tokenizer.pad_token_id
    answers = []
    for row, count in zip(sequences[::copies, prompt_columns:], prompt_tokens, strict=True):
        raw = tokenizer.decode(row, skip_special_tokens=True)
        length = int((row != padding).sum()) if padding is not None else len(row)
        answers.append(Answer(cut(raw, stop), raw, count, length, seconds / len(prompt_tokens)))
    return answers


def check_questions(questions: Sequence[str]) -> None:
    """Refuses an empty list, and a string where a list belongs."""
    if isinstance(questions, str):
        raise InvalidOptionError("ask_many takes a list of questions, not one string.", "Use ask, or pass [question].")
    if not questions:
        raise EmptyInputError("There are no questions.", "Pass at least one.")


def generation_options(
    model: Any, tokenizer: Any, max_new_tokens: int, stop: str | None, prompt_columns: int, options: dict[str, Any]
) -> dict[str, Any]:
    """The keyword arguments of `generate`: greedy and the model's special tokens, unless `options` say otherwise.

    Sampling settings that a checkpoint brings along are left out, so that the same call gives the same answer.

    Raises:
        InvalidOptionError: `generate` does not know an option.
    """
    check_options(options)
    if not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise InvalidOptionError(f"max_new_tokens={max_new_tokens!r} generates nothing.", "Pass a number of 1 or more.")
    theirs = model.generation_config
    eos = theirs.eos_token_id if theirs.eos_token_id is not None else tokenizer.eos_token_id
    pad = next((token for token in (theirs.pad_token_id, tokenizer.pad_token_id) if token is not None), None)
    settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": max_new_tokens, "eos_token_id": eos}
    settings |= {"pad_token_id": pad if pad is not None else eos if isinstance(eos, int) else (eos or [0])[0]}
    known = GenerationConfig().to_dict()
    settings |= {name: value for name, value in options.items() if name in known}
    result = {name: value for name, value in options.items() if name not in known}
    result["generation_config"] = GenerationConfig(**settings)
    if stop:
        criteria = StoppingCriteriaList([StopAt(tokenizer, stop, prompt_columns)])
        result["stopping_criteria"] = criteria + list(options.get("stopping_criteria") or [])
    return result


def check_options(options: dict[str, Any]) -> None:
    """Refuses keyword arguments that `generate` would not know, with the closest name."""
    known = set(GenerationConfig().to_dict()) | set(inspect.signature(GenerationMixin.generate).parameters)
    known -= {"self", "inputs", "kwargs", "generation_config", "max_length", "transformers_version"}
    for name in options:
        if name not in known:
            raise InvalidOptionError(f"There is no generation option {name!r}.{did_you_mean(name, known)}")


def groups(lengths: Sequence[int], batch_size: int, together: Callable[[int, int], bool]) -> list[list[int]]:
    """Indices of rows in batches of at most `batch_size`, shortest first; `together(a, b)`: may these lengths mix."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        last = batches[-1] if batches else None
        if last is not None and len(last) < batch_size and together(lengths[last[0]], lengths[index]):
            last.append(index)
        else:
            batches.append([index])
    return batches
