"""What a model keeps of what it has read: table 1 of the Infini-attention paper, real models, and measured bytes.

By formula: the paper's comparison (114 times) and, for models of given numbers, the key-value cache beside the
compressive state. Measured: the bytes of the caches of a model with the same layers, heads and widths whose residual
stream is narrow, so that it fits any machine; a cache does not depend on that width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from jrt.bench.listed import numbers
from jrt.bench.memory_formulas import (
    PAPER,
    PRESETS,
    AttentionShape,
    infini,
    key_value_cache,
    paper_rows,
    parse_shape,
    shape_of,
    table_row,
)
from jrt.bench.report import Report
from jrt.errors import InputNotFoundError, InvalidOptionError, did_you_mean

TARGET = "a state 114 times smaller than Memorizing Transformers' (by formula), the same at any length"

_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
_STATE_BYTES = 4  # the memory and its normaliser are float32 whatever the model is


def run(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help=f"One of {', '.join(PRESETS)}, a folder with a config.json, or numbers "
            "(layers=32,heads=32,key_value_heads=8,key_width=128,width=4096). Several times for several; default all.",
        ),
    ] = None,
    lengths: Annotated[str, typer.Option(help="Tokens, for the formula.")] = "32768,131072,1000000",
    segment: Annotated[int, typer.Option(min=1, help="Tokens of a segment of Infini-attention.")] = 2048,
    dtype: Annotated[
        str, typer.Option(help="Data type of the key-value cache: bfloat16, float16, float32.")
    ] = "bfloat16",
    measured: Annotated[
        str, typer.Option(help="Tokens that the narrow models really read; empty measures nothing.")
    ] = "100,200,400",
    measured_segment: Annotated[int, typer.Option(min=1, help="Tokens of a segment that they read.")] = 64,
    plot_to: Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw bytes over the length.")] = None,
) -> Report:
    """Key-value cache against compressive state, by formula and measured."""
    if dtype not in _BYTES:
        raise InvalidOptionError(
            f"There is no data type {dtype!r} here.{did_you_mean(dtype, _BYTES)}", f"{list(_BYTES)}"
        )
    shapes = {name: _shape(name) for name in model or PRESETS}
    rows, counted = paper_rows(), numbers(lengths, "--lengths")
    for name, shape in shapes.items():
        rows += [{"millions kept": name, "tokens": tokens} | table_row(shape, tokens, segment) for tokens in counted]
    for name, shape in shapes.items():
        rows += [_formula_row(name, shape, tokens, segment, _BYTES[dtype]) for tokens in counted]
    for name, shape in shapes.items():
        rows += _measured_rows(name, shape, numbers(measured, "--measured"), measured_segment, dtype)
    report = Report(
        name="memory",
        target=TARGET,
        settings={
            "lengths": lengths,
            "segment": segment,
            "dtype": dtype,
            "measured": measured,
            "measured_segment": measured_segment,
            "paper": vars(PAPER),
            "models": {name: vars(shape) for name, shape in shapes.items()},
        },
        rows=rows,
        formats=dict.fromkeys(["times", "cache MB"], ".0f")
        | dict.fromkeys(["times Infini", "times with segment", "their quotient"], ".1f")
        | dict.fromkeys(["millions", "state MB", *table_row(PAPER, 1, 1)], ".2f"),
        notes=f"One sequence, MB are 10^6 bytes: cache in {dtype}, state in float32 with the memory and normaliser of "
        "every layer; the segment that is being read is kept as well (segment MB). Measured: the bytes of the tensors "
        "of the caches after reading; those of Infini-attention are the state, the unfinished segment and 8 bytes that "
        "count the tokens.",
    )
    if plot_to is not None:
        from jrt.bench.memory_plot import plot

        plot(report, plot_to)
    return report


def _shape(name: str) -> AttentionShape:
    """The numbers of a preset, of a configuration in a folder, or as they were typed."""
    if name in PRESETS:
        return PRESETS[name]
    if "=" in name:
        return parse_shape(name)
    if not Path(name).is_dir():
        raise InputNotFoundError(
            f"There is no model {name!r} and no such folder.{did_you_mean(name, PRESETS)}",
            "Type a folder with a config.json, or numbers: layers=32,heads=32,key_width=128,width=4096.",
        )
    from transformers import AutoConfig

    return shape_of(AutoConfig.from_pretrained(name, local_files_only=True))


def _formula_row(name: str, shape: AttentionShape, tokens: int, segment: int, size: int) -> dict[str, Any]:
    """Cache and state of one model at one length, in bytes."""
    cache, state = key_value_cache(shape, tokens) * size, infini(shape) * _STATE_BYTES
    unfinished = key_value_cache(shape, segment) * size
    return {
        "model": name,
        "tokens": tokens,
        "cache MB": cache / 1e6,
        "state MB": state / 1e6,
        "segment MB": unfinished / 1e6,
        "times": cache / state,
        "times with segment": cache / (state + unfinished),
        "state per key head KB": state / shape.layers / shape.key_value_heads / 1e3,
    }


def _measured_rows(
    name: str, shape: AttentionShape, lengths: list[int], segment: int, dtype: str
) -> list[dict[str, Any]]:
    """The bytes of caches that really were filled, beside the formula's: a plain model's and Infini-attention's."""
    import torch

    import jrt
    from jrt.state.tensors import tensors_of

    if not lengths:
        return []
    plain, rows = _narrow_model(shape, getattr(torch, dtype)), []
    infinite = jrt.wrap(plain, jrt.InfiniAttention(segment_length=segment)).model
    for tokens in lengths:
        ids = torch.randint(0, 64, (1, tokens), generator=torch.Generator().manual_seed(0))
        state, unfinished = infini(shape) * _STATE_BYTES, key_value_cache(shape, tokens % segment) * _BYTES[dtype]
        expected = {"plain": key_value_cache(shape, tokens) * _BYTES[dtype], "infini": state + unfinished}
        for kind, model in (("plain", plain), ("infini", infinite)):
            with torch.inference_mode():
                cache = model(ids, use_cache=True, logits_to_keep=1).past_key_values
            found = sum(tensor.nbytes for tensor in tensors_of(cache).values())
            rows.append(
                {
                    "model": name,
                    "tokens": tokens,
                    "cache": type(cache).__name__,
                    "measured bytes": found,
                    "by formula": expected[kind],
                    "difference": found - expected[kind],
                }
            )
    return rows


def _narrow_model(shape: AttentionShape, dtype: Any) -> Any:
    """A Llama with the layers, heads and widths of heads of `shape`, everything else small, random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=64,
            hidden_size=2 * shape.heads,
            intermediate_size=32,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.key_value_heads,
            head_dim=shape.key_width,
        )
        return LlamaForCausalLM(config).to(dtype).eval()
