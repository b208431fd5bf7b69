"""RMT on very long inputs: memory and time of a token at 4096 segments against 16.

The encoder has MiniLM's shape (6 layers, 384 wide) and random weights; what it reads are random tokens, because neither
memory nor time depends on them. Every input is read in one call by a process of its own, whose largest size is what
counts: it holds everything, the ids too, and also what torch does not count.
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

HEADS = 12
TARGET = "4096 segments of 499 tokens: peak memory within 2 % of 16 segments, time a token within 10 %"


def run(
    segments: Annotated[int, typer.Option(min=2, help="Segments of the long input.")] = 4096,
    against: Annotated[int, typer.Option(min=1, help="Segments of the short input.")] = 16,
    segment_length: Annotated[int, typer.Option(min=1, help="Text tokens of a segment.")] = 499,
    num_memory_tokens: Annotated[int, typer.Option(min=0, help="Memory tokens.")] = 10,
    layers: Annotated[int, typer.Option(min=1, help="Layers of the encoder.")] = 6,
    width: Annotated[int, typer.Option(min=HEADS, help=f"Its width, a multiple of {HEADS}.")] = 384,
    rounds: Annotated[int, typer.Option(min=2, help="Short inputs, half of them before the long ones.")] = 6,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> Report:
    """4096 segments against 16: the size of the process, and the time of a token."""
    if width % HEADS:
        raise InvalidOptionError(
            f"--width {width} is no multiple of {HEADS}, the number of heads.", f"--width {-(-width // HEADS) * HEADS}"
        )
    settings = {
        "segments": segments,
        "against": against,
        "segment_length": segment_length,
        "num_memory_tokens": num_memory_tokens,
        "layers": layers,
        "width": width,
        "rounds": rounds,
        "device": device,
        "threads": threads,
    }
    plan = [against] * (rounds // 2) + [segments] + [against] * (rounds - rounds // 2)
    measured = [_measured(settings | {"read": count}) for count in plan]
    short = [row for row, count in zip(measured, plan, strict=True) if count == against]
    bytes_, seconds, cpu = (_mean(short, name) for name in ("peak", "seconds", "cpu"))
    rows = []
    for row, count in zip(measured, plan, strict=True):
        rows.append(
            {
                "segments": count,
                "tokens": count * segment_length,
                "s": row["seconds"],
                "CPU s": row["cpu"],
                "µs a token": 1e6 * row["seconds"] / (count * segment_length),
                "peak MB": row["peak"] / 1e6,
                "of it ids MB": 8e-6 * count * segment_length,
                "memory ratio": row["peak"] / bytes_,
                "time ratio": row["seconds"] / count / (seconds / against),
                "CPU time ratio": row["cpu"] / count / (cpu / against),
            }
        )
    return Report(
        name="rmt",
        target=TARGET,
        settings=settings,
        rows=rows,
        notes=f"Ratios are against the mean of the {len(short)} short inputs; the time ratios are of a token. The peak "
        "is the largest size of the process, libraries and model included (on CUDA, what torch held at most).",
    )


def _mean(rows: list[dict[str, float]], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)


def _measured(case: dict[str, Any]) -> dict[str, float]:
    """One input in a process of its own."""
    return measured_apart("jrt.bench.rmt", case)


def read(case: dict[str, Any]) -> dict[str, float]:
    """Reads one input in this process.

    Returns:
        Wall and CPU seconds of reading, and the largest size of the process in bytes.
    """
    import torch

    torch.set_num_threads(case["threads"])
    device = torch.device(case["device"])
    model = _encoder(case).to(device)
    length = case["segment_length"]
    generator = torch.Generator().manual_seed(0)
    model(torch.randint(5, 30000, (1, 2 * length), generator=generator).to(device))  # warm
    ids = torch.randint(5, 30000, (1, case["read"] * length), generator=generator).to(device)
    started, started_cpu = time.perf_counter(), time.process_time()
    memory = model(ids).memory
    assert bool(memory.isfinite().all())  # waits for the device
    seconds, cpu = time.perf_counter() - started, time.process_time() - started_cpu
    return {"seconds": seconds, "cpu": cpu, "peak": _peak(device)}


def _encoder(case: dict[str, Any]) -> Any:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from jrt.adapters.rmt import RMT

    config = BertConfig(
        hidden_size=case["width"],
        num_hidden_layers=case["layers"],
        num_attention_heads=HEADS,
        intermediate_size=4 * case["width"],
        max_position_embeddings=max(512, case["segment_length"] + case["num_memory_tokens"] + 3),
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(config).eval().requires_grad_(False)
    method = RMT(case["num_memory_tokens"], case["segment_length"], cls_token_id=101, sep_token_id=102)
    return method.adapt(model).requires_grad_(False)


def _peak(device: Any) -> float:
    import torch

    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated())
    import resource

    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(kilobytes if sys.platform == "darwin" else kilobytes * 1024)


if __name__ == "__main__":
    print(json.dumps(read(json.loads(sys.argv[1]))))
