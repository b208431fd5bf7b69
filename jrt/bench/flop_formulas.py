"""Operations of one forward pass over T tokens, dense and in segments: the formula behind the RMT paper's FLOPs figure.

The paper (2304.11062, figure 3) says that it counts as Hoffmann et al. (2203.15556, appendix F) do. Its curves fit one
reading of that to 0.06 % at every point: the input embedding is left out, and softmax with its dropout and scale costs
10 operations a head and score. That reading is the default here; what it leaves out can be switched on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

PAPER_SEGMENT = 512
"""Tokens of a segment in the paper's figure."""
PAPER_TOKENS = 2_048_000
"""Length of the paper's claim: 4000 segments of 512."""


@dataclass(frozen=True)
class Shape:
    """What the count needs to know of a decoder.

    Attributes:
        layers: L.
        width: d, of the residual stream.
        feed_forward: f, inner width of the feed-forward part.
        heads: h.
        vocabulary: V.
    """

    layers: int
    width: int
    feed_forward: int
    heads: int
    vocabulary: int = 50272


OPT: Mapping[str, Shape] = {
    "OPT-125M": Shape(12, 768, 3072, 12),
    "OPT-1.3B": Shape(24, 2048, 8192, 32),
    "OPT-6.7B": Shape(32, 4096, 16384, 32),
    "OPT-30B": Shape(48, 7168, 28672, 56),
    "OPT-175B": Shape(96, 12288, 49152, 96),
}
"""The sizes of the paper's figure."""


def forward_flops(
    shape: Shape, tokens: int, *, softmax: float = 10, embedding: bool = False, causal: bool = False
) -> float:
    """F(S) = 2 S V d + L (8 S d^2 + 4 S^2 d + 10 h S^2 + 4 S d f), one sequence of S tokens.

    Logits, then for each layer: projections, scores with the weighted sum, softmax, feed-forward.

    Args:
        shape: the model.
        tokens: S.
        softmax: operations for each score of a head; 10 fits the paper, Hoffmann et al. count 3.
        embedding: count the input embedding as a matrix product, as Hoffmann et al. do.
        causal: count only the scores that a causal mask keeps, S (S + 1) / 2 instead of S^2.
    """
    scores = tokens * (tokens + 1) / 2 if causal else float(tokens) ** 2
    vocabulary = 2 * tokens * shape.vocabulary * shape.width * (2 if embedding else 1)
    linear = tokens * (8 * shape.width**2 + 4 * shape.width * shape.feed_forward)
    return vocabulary + shape.layers * (linear + scores * (4 * shape.width + softmax * shape.heads))


def segmented_flops(
    shape: Shape,
    tokens: int,
    segment: int = PAPER_SEGMENT,
    *,
    memory: int = 0,
    count: Callable[[Shape, int], float] = forward_flops,
) -> float:
    """The same tokens in windows of `segment`, of which `memory` positions hold memory instead of text.

    Windows are counted as a fraction, tokens / (segment - memory), as the paper's straight line does.

    Raises:
        ValueError: no position is left for text.
    """
    if not 0 <= memory < segment:
        raise ValueError(f"{memory} memory positions leave nothing of a segment of {segment} for text.")
    return tokens / (segment - memory) * count(shape, segment)


def saving(
    shape: Shape,
    tokens: int,
    segment: int = PAPER_SEGMENT,
    *,
    memory: int = 0,
    count: Callable[[Shape, int], float] = forward_flops,
) -> float:
    """How many times fewer operations segments take: 295.07 for OPT-125M and 29.02 for OPT-175B at 2,048,000 tokens."""
    return count(shape, tokens) / segmented_flops(shape, tokens, segment, memory=memory, count=count)


def hoffmann(shape: Shape, tokens: int) -> float:
    """Hoffmann et al. to the letter: with the input embedding, 3 operations a score."""
    return forward_flops(shape, tokens, softmax=3, embedding=True)


def hoffmann_without_embedding(shape: Shape, tokens: int) -> float:
    """Hoffmann et al. without the input embedding, which is a look-up."""
    return forward_flops(shape, tokens, softmax=3)


def causal(shape: Shape, tokens: int) -> float:
    """Only the scores that a decoder uses, in the segment too."""
    return forward_flops(shape, tokens, causal=True)


VARIANTS: Mapping[str, Callable[[Shape, int], float]] = {
    "paper": saving,
    "10 memory tokens in 512 (encoder)": partial(saving, memory=10),
    "13 lost positions in 512 (BERT)": partial(saving, memory=13),
    "2 x 10 memory tokens (decoder)": partial(saving, memory=20),
    "causal scores only": partial(saving, count=causal),
    "causal, 2 x 10 memory tokens": partial(saving, memory=20, count=causal),
    "Hoffmann without embedding": partial(saving, count=hoffmann_without_embedding),
    "Hoffmann to the letter": partial(saving, count=hoffmann),
}
"""The saving counted in other ways, by name; the first is the paper's."""
