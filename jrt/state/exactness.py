"""How far reading in parts is from reading at once: measured, for what transformers does alone and for what jrt does.

`probe` decides by such errors and keeps one of them; this file measures afterwards, through the public `advance`, all
ways of reading that a user can take. `jrt doctor` prints the result.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from jrt.state.capabilities import Capabilities
from jrt.state.state import State, advance, prefix_options

_DOCUMENT, _QUESTION, _PADDING = 23, 9, 5


@dataclass(frozen=True)
class Exactness:
    """Largest differences of the last logits to those of one forward over the whole row, each relative to the largest
    logit. In a model with a prefix that forward reads as prefix what comes first in parts: the document.

    Attributes:
        stock: transformers alone, the rest of the prompt in one forward on top of the state; None where no state comes
            out or none is taken.
        parts: jrt, the prompt in parts of 1, 5 and all tokens.
        padded: jrt, rows of different length in one batch, padded on the left.
        questions: jrt, one document and three questions of different length in one batch.
    """

    stock: float | None
    parts: float
    padded: float
    questions: float

    @property
    def largest(self) -> float:
        """The largest error of jrt."""
        return max(self.parts, self.padded, self.questions)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"largest": self.largest}


@torch.no_grad()
def stock_error(model: Any, state_argument: str | None) -> float | None:
    """What `Exactness.stock` says, for the model as transformers ships it."""
    row = _ids(model, 1, _DOCUMENT + _QUESTION)
    if state_argument is None:
        return None
    try:
        state = getattr(model(input_ids=row[:, :_DOCUMENT], use_cache=True), state_argument)
        rest = model(input_ids=row[:, _DOCUMENT:], use_cache=True, **{state_argument: state})
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError, NotImplementedError):
        return None
    return _difference(model, rest.logits[:, -1], [row[0]], [_DOCUMENT])


@torch.no_grad()
def exactness(model: Any, capabilities: Capabilities, *, stock: float | None) -> Exactness:
    """Measures `model` as it is now (adapters that are installed count) with the capabilities found for it."""
    return Exactness(
        stock=stock,
        parts=max(_parts(model, capabilities, size) for size in (1, 5, _DOCUMENT + _QUESTION)),
        padded=_padded(model, capabilities),
        questions=_questions(model, capabilities),
    )


def _parts(model: Any, capabilities: Capabilities, size: int) -> float:
    row, state = _ids(model, 1, _DOCUMENT + _QUESTION), State.empty(1, model.device)
    advance(model, state, row[:, :_DOCUMENT], capabilities=capabilities, chunk_size=size)
    logits = advance(model, state, row[:, _DOCUMENT:], capabilities=capabilities, chunk_size=size)
    return _difference(model, logits, [row[0]], [_DOCUMENT])


def _padded(model: Any, capabilities: Capabilities) -> float:
    rows, state = _ids(model, 2, _DOCUMENT + _QUESTION), State.empty(2, model.device)
    mask = torch.ones_like(rows)
    mask[1, :_PADDING] = 0
    advance(model, state, rows[:, :_DOCUMENT], mask[:, :_DOCUMENT], capabilities=capabilities)
    logits = advance(model, state, rows[:, _DOCUMENT:], mask[:, _DOCUMENT:], capabilities=capabilities)
    return _difference(model, logits, [rows[0], rows[1, _PADDING:]], [_DOCUMENT, _DOCUMENT - _PADDING])


def _questions(model: Any, capabilities: Capabilities) -> float:
    rows = _ids(model, 4, _DOCUMENT)
    document, questions = rows[:1], rows[1:, :_QUESTION]
    mask = torch.ones_like(questions)
    mask[1, :_PADDING] = 0
    state = State.empty(1, model.device)
    advance(model, state, document, capabilities=capabilities)
    asked = state.select(torch.zeros(3, dtype=torch.long))
    logits = advance(model, asked, questions, mask, capabilities=capabilities)
    whole = [torch.cat([document[0], row[keep.bool()]]) for row, keep in zip(questions, mask, strict=True)]
    return _difference(model, logits, whole, [_DOCUMENT] * len(whole))


def _ids(model: Any, rows: int, columns: int) -> Tensor:
    """Random tokens, (rows, columns), the same at every call and from no global seed."""
    vocabulary = model.get_input_embeddings().num_embeddings
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, vocabulary, (rows, columns), generator=generator).to(model.device)


def _difference(model: Any, logits: Tensor, rows: list[Tensor], documents: list[int]) -> float:
    """The largest difference to one forward over each row, relative to the largest logit; `documents` are the tokens
    that each row starts with."""
    outputs = [
        model(input_ids=row[None], use_cache=False, **prefix_options(model, document)).logits[:, -1]
        for row, document in zip(rows, documents, strict=True)
    ]
    expected = torch.cat(outputs).float()
    return float((logits.float() - expected).abs().max() / expected.abs().max())
