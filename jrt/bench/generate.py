"""What a Reader costs when it does nothing but generate: `Reader.generate` against the model's own on the same ids."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from jrt.bench.report import Report
from jrt.bench.timing import fastest, interleaved, ratio

TARGET = "Reader.generate takes at most 3 % longer than model.generate on the same ids"


def run(
    model: Annotated[str, typer.Option("--model", "-m", help="What jrt.load takes.")] = "jrt/tiny-recurrent",
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of every prompt.")] = 256,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens generated.")] = 64,
    batch_sizes: Annotated[str, typer.Option(help="Rows of a batch.")] = "1,4",
    rounds: Annotated[int, typer.Option(min=1, help="Pairs of measurements.")] = 9,
    device: Annotated[str, typer.Option(help="auto is cuda, then mps, then cpu.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto is the checkpoint's own.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> Report:
    """Reader.generate against model.generate on the same ids."""
    import torch

    import jrt

    torch.set_num_threads(threads)
    reader = jrt.load(model, device=device, dtype=dtype)
    vocabulary = reader.model.get_input_embeddings().num_embeddings
    options: dict[str, Any] = dict(
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=reader.tokenizer.pad_token_id or 0,
    )
    rows = []
    for size in (int(part) for part in batch_sizes.split(",")):
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, vocabulary, (size, prompt_tokens), generator=generator).to(reader.device)
        mask = torch.ones_like(ids)
        results: dict[str, Any] = {}

        def ours(ids: Any = ids, mask: Any = mask, results: dict[str, Any] = results) -> None:
            results["reader"] = reader.generate(ids, mask, **options)

        def theirs(ids: Any = ids, mask: Any = mask, results: dict[str, Any] = results) -> None:
            results["model"] = reader.model.generate(ids, attention_mask=mask, **options)

        times = interleaved({"model": theirs, "reader": ours}, rounds, synchronize=reader.device.type == "cuda")
        wall, cpu = (ratio(getattr(times["reader"], kind), getattr(times["model"], kind)) for kind in ("wall", "cpu"))
        rows.append(
            {
                "batch": size,
                "model s": times["model"].wall_median,
                "Reader s": times["reader"].wall_median,
                "ratio": wall[0],
                "lowest": wall[1],
                "highest": wall[2],
                "CPU ratio": cpu[0],
                "fastest": fastest(times["reader"], times["model"]),
                "same ids": bool(torch.equal(results["reader"], results["model"])),
            }
        )
    return Report(
        name="generate",
        target=TARGET,
        settings={
            "model": model,
            "prompt_tokens": prompt_tokens,
            "new_tokens": new_tokens,
            "rounds": rounds,
            "threads": threads,
            "device": str(reader.device),
            "dtype": str(reader.dtype).removeprefix("torch."),
        },
        rows=rows,
        notes="Ratios are medians over pairs of rounds that took turns, below 1 the Reader is faster; fastest is the "
        "ratio of the fewest CPU seconds.",
    )
