"""What segments with a memory save: the RMT paper's FLOPs figure by formula, and seconds and bytes of a small model.

The formula compares one dense forward pass with one pass in segments; it is not a time. What it leaves out, such as
memory bandwidth and the fixed cost of every segment, shows in the measured rows, which read the same tokens with an OPT
of tiny width, plain and with `jrt.RMT`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jrt.bench.flop_formulas import OPT, PAPER_TOKENS, VARIANTS, Shape, saving
from jrt.bench.listed import numbers
from jrt.bench.report import Report
from jrt.bench.timing import interleaved, ratio

if TYPE_CHECKING:
    from torch import Tensor

TARGET = "the paper's 295.07 (OPT-125M) and 29.02 (OPT-175B) times fewer operations at 2,048,000 tokens"

_MEASURED = Shape(layers=2, width=64, feed_forward=256, heads=4, vocabulary=512)


@dataclass(frozen=True)
class _Sizes:
    """What the measured rows use."""

    segment: int
    memory: int
    rounds: int


def run(
    lengths: Annotated[
        str, typer.Option(help="Tokens, for the formula.")
    ] = "512,4096,32768,128000,512000,1024000,2048000,2097152",
    measured: Annotated[
        str, typer.Option(help="Tokens that the small model reads both ways; empty measures nothing.")
    ] = "512,1024,2048,4096,8192,16384",
    segment: Annotated[int, typer.Option(min=2, help="Tokens of a segment that the small model reads.")] = 512,
    memory: Annotated[int, typer.Option(min=0, help="Memory tokens beside a segment, on either side.")] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of either way, in turns.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    plot_to: Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw both.")] = None,
) -> Report:
    """The RMT paper's FLOPs figure, and a small model measured."""
    import torch

    rows = [_row("paper", tokens) for tokens in numbers(lengths, "--lengths")]
    rows += [_row(name, PAPER_TOKENS) for name in list(VARIANTS)[1:]]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rows += [_measured_row(tokens, _Sizes(segment, memory, rounds)) for tokens in numbers(measured, "--measured")]
    finally:
        torch.set_num_threads(before)
    report = Report(
        name="flops",
        target=TARGET,
        settings={
            "lengths": lengths,
            "measured": measured,
            "segment": segment,
            "memory": memory,
            "rounds": rounds,
            "threads": threads,
            "measured model": vars(_MEASURED),
        },
        rows=rows,
        formats=dict.fromkeys([*OPT, "by formula"], ".2f"),
        notes="By formula: operations of one dense pass over those of 512-token windows. Measured: an OPT of tiny "
        "width on a CPU that reads for one answer (logits of the last token), plain and with jrt.RMT: median ratio of "
        "CPU seconds of rounds that took turns, and the most bytes that tensors held at once beside the weights.",
    )
    if plot_to is not None:
        from jrt.bench.flops_plot import plot

        plot(report, plot_to)
    return report


def _row(name: str, tokens: int) -> dict[str, Any]:
    """One way to count, at one length, for every size."""
    count = VARIANTS[name]
    return {"counted": name, "tokens": tokens} | {size: count(shape, tokens) for size, shape in OPT.items()}


def _measured_row(tokens: int, sizes: _Sizes) -> dict[str, Any]:
    """The small model over `tokens` tokens at once, and in segments by RMT; logits of the last token only."""
    import torch

    import jrt
    from jrt.bench.peak import peak_bytes

    dense = _model(tokens + 2 * sizes.memory)
    method = jrt.RMT(num_memory_tokens=sizes.memory, segment_length=sizes.segment)
    models = {"dense": dense, "segments": jrt.wrap(dense, method).model}
    ids = torch.randint(4, _MEASURED.vocabulary, (1, tokens), generator=torch.Generator().manual_seed(tokens))
    ways = {name: partial(_read, model, ids) for name, model in models.items()}
    times = interleaved(ways, sizes.rounds)
    peaks = {name: peak_bytes(way) for name, way in ways.items()}
    body, memory = replace(_MEASURED, vocabulary=0), 2 * sizes.memory
    return {
        "counted": "measured",
        "tokens": tokens,
        "by formula": saving(body, tokens, sizes.segment + memory, memory=memory),
        "time ratio": ratio(times["dense"].cpu, times["segments"].cpu)[0],
        "dense CPU s": times["dense"].cpu_median,
        "segments CPU s": times["segments"].cpu_median,
        "dense MB": peaks["dense"] / 1e6,
        "segments MB": peaks["segments"] / 1e6,
    }


def _read(model: Any, ids: Tensor) -> None:
    import torch

    with torch.inference_mode():
        model(ids, use_cache=False, logits_to_keep=1)


def _model(positions: int) -> Any:
    """An OPT of tiny width with random weights."""
    import torch
    from transformers import OPTConfig, OPTForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = OPTConfig(
            vocab_size=_MEASURED.vocabulary,
            hidden_size=_MEASURED.width,
            word_embed_proj_dim=_MEASURED.width,
            ffn_dim=_MEASURED.feed_forward,
            num_hidden_layers=_MEASURED.layers,
            num_attention_heads=_MEASURED.heads,
            max_position_embeddings=positions,
        )
        return OPTForCausalLM(config).eval()
