"""RMT, the recurrent memory transformer: read segment by segment, and hand memory tokens from one to the next.

Any encoder or decoder of transformers becomes recurrent without a change inside it (arXiv 2207.06881, and to two
million tokens in 2304.11062): memory tokens are read beside a segment's tokens, and what the last layer gives at their
places is the memory that the next segment reads. So the memory needed does not grow with the length, and the time of a
token is the same at every length.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field

from jrt.errors import InvalidOptionError
from jrt.methods import Method

Alignment = Literal["left", "right", "center"]


class SegmentMethod(Method):
    """What methods that read segment by segment beside memory tokens have in common; see `RMT`."""

    num_memory_tokens: int = Field(default=10, ge=0, strict=True)
    segment_length: int | None = Field(default=None, ge=1, strict=True)
    alignment: Alignment | None = None
    bptt_segments: int | None = Field(default=None, ge=0, strict=True)
    gradient_checkpointing: bool = False
    initial_std: float | None = Field(default=None, ge=0.0, allow_inf_nan=False)
    cls_token_id: int | None = Field(default=None, ge=0, strict=True)
    sep_token_id: int | None = Field(default=None, ge=0, strict=True)

    def __init__(self, num_memory_tokens: int = 10, segment_length: int | None = None, **options: Any) -> None:
        super().__init__(num_memory_tokens=num_memory_tokens, segment_length=segment_length, **options)

    @property
    def gated(self) -> bool:
        """Whether gates decide how much is written."""
        return False

    @classmethod
    def for_tokenizer(cls, tokenizer: Any, **options: Any) -> Self:
        """The method for an encoder whose segments carry the special tokens of `tokenizer`.

        Example:
            >>> jrt.RMT.for_tokenizer(AutoTokenizer.from_pretrained("bert-base-cased"), num_memory_tokens=10)
        """
        return cls(cls_token_id=tokenizer.cls_token_id, sep_token_id=tokenizer.sep_token_id, **options)

    def adapt(self, model: Any) -> Any:
        """An encoder or decoder that reads in segments and shares the weights of `model`.

        Raises:
            UnsupportedModelError: an encoder-decoder model, a recurrent one, or a head that has no meaning here.
            InvalidOptionError: the model cannot hold such a segment and its memory tokens.
        """
        from jrt.adapters.rmt_body import inspect_model, refuse_other_decoders

        facts = inspect_model(model)
        if facts.causal:
            refuse_other_decoders(model, facts)
        encoder, decoder = self._classes()
        return (decoder if facts.causal else encoder)(model, self, facts)

    def _classes(self) -> tuple[Any, Any]:
        """The adapted model around an encoder, and the one around a decoder."""
        raise NotImplementedError


class RMT(SegmentMethod):
    """How long a segment is, and how the memory between segments is read, written and trained.

    | model | what a segment is | which outputs are the new memory |
    |---|---|---|
    | encoder | `[cls] memory [sep] tokens [sep]`, the special tokens where their ids are given | at the memory |
    | decoder | `memory tokens memory`, the second copy only behind a full segment | at the second copy |

    Attributes:
        num_memory_tokens: memory tokens; with none, segments are read apart from each other.
        segment_length: text tokens of a segment, memory and special tokens not counted; None means as many as the
            model's positions leave (499 for BERT with 10 memory tokens).
        alignment: where the short segment goes in an encoder: `right` cuts from the end, so the first segment is the
            short one (the paper); `left` makes it the last; `center` makes equal segments, up to one token. A decoder
            reads on from where it stopped, so it has `left` only. None means `right` for encoders, `left` for decoders.
        update: `replace` (the paper): the outputs are the new memory. `gated`: new = old + gate (output - old), one
            gate for each memory token, a sigmoid stretched to clamp(1.2 sigmoid(u) - 0.1, 0, 1), so that a segment can
            write exactly nothing.
        write_penalty: weight of the mean gate in the training loss; needs `gated`.
        bptt_segments: how many segments back a gradient reaches; None means all. Segments are counted from the end of
            each row: its last one reaches exactly so many back, and the ones before form windows of that reach.
        gradient_checkpointing: read every segment again in the backward pass, so that training holds the activations of
            one segment instead of all.
        initial_std: standard deviation of the initial memory; None means that of the token embeddings.
        cls_token_id: stands before the memory in every segment of an encoder; None means nothing does.
        sep_token_id: stands between memory and tokens and behind the tokens in every segment of an encoder.

    Example:
        >>> reader = jrt.wrap(model, jrt.RMT(num_memory_tokens=10, segment_length=512))
    """

    kind = "rmt"

    update: Literal["replace", "gated"] = "replace"
    write_penalty: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)

    def __init__(self, num_memory_tokens: int = 10, segment_length: int | None = None, **options: Any) -> None:
        super().__init__(num_memory_tokens, segment_length, **options)
        if self.write_penalty and not self.gated:
            raise InvalidOptionError(
                f"RMT(write_penalty={self.write_penalty}) is a penalty on the gate, and update='replace' has none.",
                "Write RMT(update='gated', write_penalty=...).",
            )

    @property
    def gated(self) -> bool:
        return self.update == "gated"

    def _classes(self) -> tuple[Any, Any]:
        from jrt.adapters.rmt_decoder import RMTDecoder
        from jrt.adapters.rmt_encoder import RMTEncoder

        return RMTEncoder, RMTDecoder
