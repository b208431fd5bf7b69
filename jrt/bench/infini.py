"""Infini-attention on very long inputs: memory and time of a token at a million tokens against 16 thousand.

The decoder is a small Llama with random weights; what it reads are random tokens, because neither memory nor time
depends on them. Every input is read by a process of its own, whose largest size is what counts: it holds everything,
also what torch does not count. (glibc is told to give freed blocks back at once, or they would count as well.) A long
input is read in calls that hand the cache on, and in one call, which holds its ids as well. A second table writes a
memory two million times in a row, every token a segment of its own, in bfloat16.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated, Any

import typer

from jrt.bench.apart import measured_apart
from jrt.bench.report import Report
from jrt.errors import InvalidOptionError

HEADS = 8
WIDTH_STEP = 2 * HEADS
"""Heads of an even width, which rotary positions need."""
TARGET = (
    "1,048,576 tokens: peak memory within 2 % of 16,384, time a token within 10 %; two million updates without a NaN"
)
_CALL = 16384
_HEADS, _WIDTH, _UPDATES_A_CALL = 2, 16, 4000


def run(
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of the long input.")] = 1048576,
    against: Annotated[int, typer.Option(min=1, help="Tokens of the short input, and of one call.")] = _CALL,
    segment_length: Annotated[int, typer.Option(min=1, help="Tokens of a segment.")] = 1024,
    rule: Annotated[str, typer.Option(help="linear, delta or delta_corrected.")] = "linear",
    layers: Annotated[int, typer.Option(min=1, help="Layers of the decoder.")] = 2,
    width: Annotated[int, typer.Option(min=WIDTH_STEP, help=f"Its width, a multiple of {WIDTH_STEP}.")] = 128,
    rounds: Annotated[int, typer.Option(min=2, help="Short inputs, half of them before the long ones.")] = 6,
    updates: Annotated[int, typer.Option(min=0, help="Updates of one memory in a row; 0 leaves them out.")] = 2000000,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> Report:
    """A million tokens against 16 thousand: the size of the process, and the time of a token."""
    if width % WIDTH_STEP:
        raise InvalidOptionError(
            f"--width {width} is no multiple of {WIDTH_STEP}, twice the number of heads.",
            f"--width {-(-width // WIDTH_STEP) * WIDTH_STEP}",
        )
    settings: dict[str, Any] = {
        "tokens": tokens,
        "against": against,
        "segment_length": segment_length,
        "rule": rule,
        "layers": layers,
        "width": width,
        "rounds": rounds,
        "updates": updates,
        "device": device,
        "threads": threads,
    }
    plan = [(against, against)] * (rounds // 2) + [(tokens, against), (tokens, tokens)]
    plan += [(against, against)] * (rounds - rounds // 2)
    measured = [_measured(settings | {"read": count, "call": call}) for count, call in plan]
    short = [row for row, (count, _) in zip(measured, plan, strict=True) if count == against]
    peak, seconds, cpu = (sum(row[name] for row in short) / len(short) for name in ("peak", "seconds", "cpu"))
    rows: list[dict[str, Any]] = [
        {
            "tokens": count,
            "calls": -(-count // call),
            "s": row["seconds"],
            "CPU s": row["cpu"],
            "µs a token": 1e6 * row["seconds"] / count,
            "peak MB": row["peak"] / 1e6,
            "of it ids MB": 8e-6 * call,
            "state kB": row["state"] / 1e3,
            "memory ratio": row["peak"] / peak,
            "time ratio": row["seconds"] / count / (seconds / against),
            "CPU time ratio": row["cpu"] / count / (cpu / against),
        }
        for row, (count, call) in zip(measured, plan, strict=True)
    ]
    if updates:
        rows += [_measured(settings | {"write": name}) for name in ("linear", "delta", "delta_corrected")]
    return Report(
        name="infini",
        target=TARGET,
        settings=settings,
        rows=rows,
        notes=f"Ratios are against the mean of the {len(short)} short inputs; time ratios are of a token. The peak is "
        "the largest resident size of the process, libraries and model included (on CUDA, what torch held at most). "
        "Half of the updates write keys that are alike; values are standard normal.",
    )


def _measured(case: dict[str, Any]) -> dict[str, Any]:
    """One case in a process of its own."""
    return measured_apart("jrt.bench.infini", case, {"MALLOC_MMAP_THRESHOLD_": "131072"})


def read(case: dict[str, Any]) -> dict[str, Any]:
    """Reads one input in this process.

    Returns:
        Wall and CPU seconds of reading, the bytes of the cache, and the largest size of the process in bytes.
    """
    import torch

    device = torch.device(case["device"])
    model = _decoder(case).to(device)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 500, (1, case["call"]), generator=generator).to(device)
    model(ids[:, : 4 * case["segment_length"]], logits_to_keep=1)  # warm
    cache: Any = None
    started, started_cpu = time.perf_counter(), time.process_time()
    for _ in range(-(-case["read"] // case["call"])):
        output = model(ids, past_key_values=cache, logits_to_keep=1)
        cache = output.past_key_values
    assert bool(output.logits.isfinite().all())  # waits for the device
    seconds, cpu = time.perf_counter() - started, time.process_time() - started_cpu
    return {"seconds": seconds, "cpu": cpu, "state": cache.nbytes, "peak": _peak(device)}


def write(case: dict[str, Any]) -> dict[str, Any]:
    """Writes one memory many times in a row, each token a segment of its own.

    Returns:
        The rule, updates, whether every output and the state stayed finite, and the largest numbers among them.
    """
    import torch

    from jrt.kernels.infini import infini_attention

    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(_WIDTH, generator=generator)
    gate, state, done, finite, largest = torch.zeros(_HEADS), None, 0, True, 0.0
    started = time.perf_counter()
    while done < case["updates"]:
        count = min(_UPDATES_A_CALL, case["updates"] - done)
        query, key, value = (torch.randn(1, _HEADS, count, _WIDTH, generator=generator) for _ in range(3))
        alike = torch.arange(count)[:, None] % 2
        key = (alike * (direction + 0.1 * key) + (1 - alike) * key).bfloat16()
        query, value = query.bfloat16(), value.bfloat16()
        output, state = infini_attention(
            query, key, value, query, key, gate, state, segment_length=1, rule=case["write"], epsilon=1e-3
        )
        finite = finite and bool(output.isfinite().all()) and all(bool(part.isfinite().all()) for part in state)
        largest, done = max(largest, float(output.abs().max())), done + count
    assert state is not None
    return {
        "rule": case["write"],
        "updates": done,
        "all finite": finite,
        "largest output": largest,
        "largest M": float(state.memory.abs().max()),
        "largest z": float(state.normaliser.max()),
        "s": time.perf_counter() - started,
    }


def _decoder(case: dict[str, Any]) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from jrt.adapters.infini import InfiniAttention

    config = LlamaConfig(
        vocab_size=512,
        hidden_size=case["width"],
        intermediate_size=2 * case["width"],
        num_hidden_layers=case["layers"],
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        max_position_embeddings=case["segment_length"],
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    return InfiniAttention(case["segment_length"], rule=case["rule"], gate_init=0.0).adapt(model).requires_grad_(False)


def _peak(device: Any) -> float:
    import torch

    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated())
    import resource

    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(kilobytes if sys.platform == "darwin" else kilobytes * 1024)


def _main(case: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(case["threads"])
    with torch.no_grad():
        print(json.dumps(write(case) if "write" in case else read(case)))


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
