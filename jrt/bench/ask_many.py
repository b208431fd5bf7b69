"""Many questions about one document: `ask_many` reads it once, separate `ask` calls read it once for each question."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Annotated

import typer

from jrt.bench.report import Report
from jrt.bench.timing import fastest, interleaved, ratio

if TYPE_CHECKING:
    from jrt.reader import Reader

TARGET = "20 questions about one 2k-token document at least 10 times faster than 20 separate ask calls"


def run(
    model: Annotated[str, typer.Option("--model", "-m", help="What jrt.load takes.")] = "jrt/tiny-recurrent",
    methods: Annotated[str, typer.Option(help="Methods with the order context_first.")] = "once,context_twice",
    questions: Annotated[int, typer.Option(min=1, help="Questions about the document.")] = 20,
    document_tokens: Annotated[int, typer.Option(min=16, help="Tokens of the document, at least.")] = 2048,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The longest answer.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Pairs of measurements.")] = 5,
    device: Annotated[str, typer.Option(help="auto is cuda, then mps, then cpu.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto is the checkpoint's own.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> Report:
    """20 questions about one document: ask_many against as many ask calls."""
    import torch

    import jrt
    from jrt.methods import parse_method, split_methods

    torch.set_num_threads(threads)
    base = jrt.load(model, device=device, dtype=dtype)
    document, asked = facts(base, document_tokens, questions)
    rows = []
    for name in split_methods(methods):
        reader = base.with_methods(parse_method(name))
        answers: dict[str, list[str]] = {}

        def many(reader: Reader = reader, answers: dict[str, list[str]] = answers) -> None:
            answers["many"] = reader.ask_many(document, asked, max_new_tokens=max_new_tokens)

        def each(reader: Reader = reader, answers: dict[str, list[str]] = answers) -> None:
            answers["each"] = [reader.ask(document, question, max_new_tokens=max_new_tokens) for question in asked]

        times = interleaved({"each": each, "many": many}, rounds, synchronize=base.device.type == "cuda")
        wall, cpu = (ratio(getattr(times["each"], kind), getattr(times["many"], kind)) for kind in ("wall", "cpu"))
        rows.append(
            {
                "method": name,
                "tokens": reader.read(document).num_tokens,
                "ask s": times["each"].wall_median,
                "many s": times["many"].wall_median,
                "ask CPU s": times["each"].cpu_median,
                "many CPU s": times["many"].cpu_median,
                "ratio": wall[0],
                "lowest": wall[1],
                "highest": wall[2],
                "CPU ratio": cpu[0],
                "fastest": fastest(times["each"], times["many"]),
                "equal answers": sum(a == b for a, b in zip(answers["each"], answers["many"], strict=True)),
            }
        )
    return Report(
        name="ask_many",
        target=TARGET,
        settings={
            "model": model,
            "questions": questions,
            "max_new_tokens": max_new_tokens,
            "rounds": rounds,
            "threads": threads,
            "device": str(base.device),
            "dtype": str(base.dtype).removeprefix("torch."),
        },
        rows=rows,
        notes="Ratios are medians over pairs of rounds that took turns; fastest is the ratio of the fewest CPU seconds."
        " Tokens are the document's, every pass counted.",
    )


def facts(reader: Reader, num_tokens: int, num_questions: int) -> tuple[str, list[str]]:
    """A document of short facts of at least `num_tokens` tokens, and questions about some of them."""
    from jrt.tokens import encode
    from jrt.training.facts import document

    random_source = random.Random(0)
    sentences: list[str] = []
    asked: list[str] = []
    while len(encode(reader.tokenizer, " ".join(sentences), special=False)) < num_tokens:
        for fact in document(random_source, 32, "heldout"):
            sentences.append(fact.sentence)
            asked.append(fact.question)
    unique = list(dict.fromkeys(asked))
    return " ".join(sentences), [unique[index % len(unique)] for index in range(num_questions)]
