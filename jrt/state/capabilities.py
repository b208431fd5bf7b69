"""What a model can do with a state it was given, as `probe` found it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Continuation = Literal["chunk", "step", "replay"]


@dataclass(frozen=True)
class Capabilities:
    """How a model's state may be continued so that the answer is the one of the full prompt.

    Attributes:
        state_argument: the name under which `forward` takes and returns the state; None when it keeps none outside.
        cache: the class of that state.
        continuation: `chunk` (several tokens at once are exact), `step` (only one token at a time is), or `replay`
            (nothing can be continued: the tokens are read again).
        batch: rows of a batch do not disturb each other.
        padding: a left-padded row gives what the row alone gives.
        reorderable: rows of the state can be selected and repeated.
        gaps: padding between two parts of a row is exact too, so that questions of different length fit one batch.
        inputs_embeds: `forward` takes embeddings in place of token ids.
        max_length: the longest input in tokens; None when there is no limit.
        error: largest difference of the logits between a continued and a full prompt in the probe, relative to the
            largest logit.
    """

    state_argument: str | None
    cache: str
    continuation: Continuation
    batch: bool
    padding: bool
    reorderable: bool
    gaps: bool
    inputs_embeds: bool
    max_length: int | None
    error: float

    @property
    def batched(self) -> bool:
        """Whether one state may hold several rows; otherwise every row has a state of its own."""
        return self.batch and self.padding and self.reorderable

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"batched": self.batched}
