"""Perplexity of long texts: read through the model's state, and in windows, on exactly the same tokens.

    python -m jrt.evals.perplexity MODEL book.txt --window 512 --stride 128 --out results/book.json
    python -m jrt.evals.perplexity MODEL book.txt --methods infini:segment_length=512

Three ways to read a text, each scoring every token but the first: `state`, from the first token to the last with what
the model remembers handed on, in constant memory where that state is bounded; `sliding`, a window of `--window` tokens
that moves by `--stride` and starts from nothing each time (transformers' protocol for a maximum length one larger: the
last token of a window is only predicted); `reset`, the same with windows side by side. A window's model is the one that
is read with; give the base model in a run of its own to compare with that.

Sums are float64, over logits in float32. Tokens that the tokenizer puts in front are read and not scored. Without them
the first token of a text is not scored either, though bits per byte count its bytes.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import jrt
from jrt.errors import (
    ContextTooLongError,
    EmptyInputError,
    InvalidOptionError,
    UnsupportedModelError,
)
from jrt.evals.run_folder import write
from jrt.identity import model_identity
from jrt.methods import parse_method, split_methods
from jrt.prompts import JRTPrompt
from jrt.state.running import evaluating
from jrt.state.state import forward_parameters, longest_prefix
from jrt.text_files import read_text
from jrt.tokens import encode
from jrt.versions import versions

Way = Literal["state", "sliding", "reset"]
WAYS: tuple[Way, ...] = ("state", "sliding", "reset")
CHUNK = 512
"""Tokens in one forward of `state`: their logits are all that is held at once."""
FIRST_BUCKET = 128


@dataclass(frozen=True)
class Protocol:
    """How texts are read: the way, tokens in a window, by how many it moves, tokens in one forward of `state`."""

    way: Way = "state"
    window: int = 512
    stride: int = 128
    chunk_size: int = CHUNK

    def __post_init__(self) -> None:
        if self.way not in WAYS:
            raise InvalidOptionError(f"There is no way {self.way!r} to read a text.", f"Use {', '.join(WAYS)}.")
        if not 1 <= self.stride <= self.window or self.chunk_size < 1:
            raise InvalidOptionError(
                f"window={self.window}, stride={self.stride} and chunk_size={self.chunk_size} cannot be used.",
                "Use 1 or more, and a stride no larger than the window.",
            )


@torch.no_grad()
def token_losses(reader: jrt.Reader, ids: Tensor, protocol: Protocol) -> Tensor:
    """What every token but the first costs.

    Args:
        reader: the model and how it reads.
        ids: one text, (1, T), T >= 2.
        protocol: how it is read.

    Returns:
        Negative log-likelihoods in nats, float64, (T - 1,), on the CPU.

    Raises:
        ContextTooLongError: the model has positions for fewer tokens than are read at once.
        UnsupportedModelError: the model gives no state away, or reads ahead.
        InvalidOptionError: a method reads the text twice.
        EmptyInputError: there is no token to predict.
    """
    if ids.shape[1] < 2:
        raise EmptyInputError("A text of fewer than two tokens has nothing to predict.", "Give a longer text.")
    _check(reader, ids.shape[1] - 1, protocol)
    model, ids = reader.model, ids.to(reader.device)
    with evaluating(model), reader.installed():
        parts = _streamed(reader, ids, protocol) if protocol.way == "state" else _windows(model, ids, protocol)
        return torch.cat([_costs(logits, targets) for logits, targets in parts])


def _streamed(reader: jrt.Reader, ids: Tensor, protocol: Protocol) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and the tokens they predict, chunk by chunk, the state handed from one to the next."""
    model, capabilities = reader.model, reader.capabilities
    name, parameters = str(capabilities.state_argument), forward_parameters(model)
    width = protocol.chunk_size if capabilities.continuation == "chunk" else 1
    state, begin, read = None, 0, ids[:, :-1]
    while begin < read.shape[1]:
        end = min(begin + (protocol.chunk_size if state is None else width), read.shape[1])
        options: dict[str, Any] = {} if state is None else {name: state}
        if "attention_mask" in parameters:
            options["attention_mask"] = ids.new_ones(1, end if name == "past_key_values" else end - begin)
        if "position_ids" in parameters:
            options["position_ids"] = torch.arange(begin, end, device=ids.device)[None]
        output = model(input_ids=read[:, begin:end], use_cache=True, **options)
        state = getattr(output, name)
        yield output.logits[0], ids[0, begin + 1 : end + 1]
        begin = end


def _windows(model: Any, ids: Tensor, protocol: Protocol) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and the tokens they predict, window by window; a window scores what the one before has not."""
    stride = protocol.window if protocol.way == "reset" else protocol.stride
    length, done, begin = ids.shape[1] - 1, 0, 0
    while done < length:
        end = min(begin + protocol.window, length)
        logits = model(input_ids=ids[:, begin:end], use_cache=False).logits[0]
        yield logits[done - begin :], ids[0, done + 1 : end + 1]
        done, begin = end, begin + stride


def _costs(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none").double().cpu()


def _check(reader: jrt.Reader, length: int, protocol: Protocol) -> None:
    twice = [str(method) for method in reader.methods if isinstance(method, JRTPrompt) and method.passes > 1]
    if twice:
        raise InvalidOptionError(f"{twice[0]} reads a text twice; the second time it knows it.", "Leave it out.")
    if longest_prefix(reader.model):
        raise UnsupportedModelError(
            f"{type(reader.model).__name__} reads its prefix in both directions, so it sees what it would predict.",
            "Use a causal model.",
        )
    if protocol.way == "state" and reader.capabilities.continuation == "replay":
        raise UnsupportedModelError(f"{reader.name} gives no state away to go on from.", "Use --ways sliding,reset.")
    at_once = length if protocol.way == "state" else min(length, protocol.window)
    if reader.max_length is not None and at_once > reader.max_length:
        raise ContextTooLongError(
            f"{reader.name} reads {reader.max_length} tokens; the {protocol.way} way reads {at_once} of this text.",
            f"Use --ways sliding,reset --window {reader.max_length}, or a memory: "
            f"--methods infini:segment_length={min(512, reader.max_length)}.",
        )


def perplexity(reader: jrt.Reader, texts: Sequence[str], protocol: Protocol) -> dict[str, Any]:
    """Nats a token, perplexity and bits per byte over all tokens of all texts, and by place in the text.

    Raises:
        EmptyInputError: there is no text, or one is empty.
        TokenizerError: the reader has no tokenizer.
        ContextTooLongError: see `token_losses`; so for its other errors.
    """
    tokenizer, started = reader.need_tokenizer(), time.perf_counter()
    if not texts or not all(text.strip() for text in texts):
        raise EmptyInputError("There is no text to read, or one of the texts is empty.", "Give texts with words.")
    sums: list[float] = []
    counts: list[int] = []
    for text in texts:
        ids = encode(tokenizer, text, special=True)
        front = len(ids) - len(encode(tokenizer, text, special=False))
        losses = token_losses(reader, torch.tensor([ids]), protocol)[max(0, front - 1) :]
        for index, (first, last) in enumerate(_buckets(len(losses))):
            if index == len(sums):
                sums.append(0.0)
                counts.append(0)
            sums[index] += float(losses[first:last].sum())
            counts[index] += min(last, len(losses)) - first
    tokens, size = sum(counts), sum(len(text.encode()) for text in texts)
    nats = sum(sums) / tokens
    edges = _buckets(FIRST_BUCKET << len(counts))
    return {
        **vars(protocol),
        "nats_per_token": nats,
        "perplexity": math.exp(nats) if nats < 700 else math.inf,
        "bits_per_byte": sum(sums) / math.log(2) / size,
        "tokens": tokens,
        "bytes": size,
        "texts": len(texts),
        "seconds": round(time.perf_counter() - started, 2),
        "by_position": [
            {"from": first, "to": last, "tokens": count, "nats_per_token": total / count}
            for (first, last), count, total in zip(edges, counts, sums, strict=False)
        ],
    }


def _buckets(length: int) -> list[tuple[int, int]]:
    """[0, 128), [128, 256), [256, 512) and so on, as many as `length` scored tokens reach."""
    edges, last = [(0, FIRST_BUCKET)], FIRST_BUCKET
    while last < length:
        edges.append((last, 2 * last))
        last *= 2
    return edges


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--methods", default="", help="a memory, as in infini:segment_length=512")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--stride", type=int, default=128)
    parser.add_argument("--chunk-size", type=int, default=CHUNK)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    ways: Any = arguments.ways.split(",")
    protocols = [Protocol(way, arguments.window, arguments.stride, arguments.chunk_size) for way in ways]
    texts = [read_text(path) for path in arguments.files]
    methods = [parse_method(method) for method in split_methods(arguments.methods) if method]
    reader = jrt.load(arguments.model, *methods, device=arguments.device)
    report: dict[str, Any] = {
        "command": "python -m jrt.evals.perplexity " + shlex.join(sys.argv[1:]),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": {"name": reader.name, "revision": reader.revision, **model_identity(reader.model)},
        "methods": [str(method) for method in reader.methods],
        "platform": platform.platform(),
        "versions": versions("python", "torch", "transformers"),
        "results": [],
    }
    for protocol in protocols:
        found = perplexity(reader, texts, protocol)
        report["results"].append(found)
        scores = ", ".join(f"{found[key]:.4f} {key}" for key in ("nats_per_token", "perplexity", "bits_per_byte"))
        print(f"{found['way']:8} {scores} ({found['tokens']} tokens, {found['bytes']} bytes)", flush=True)
        if arguments.out is not None:
            write(arguments.out, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
