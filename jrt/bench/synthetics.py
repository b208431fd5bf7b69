"""Memory against accuracy and the order of the input: figure 2 of arXiv 2407.05483 at a scale of minutes.

Which symbol do two lists share? Tiny Based models are trained from nothing for each size of their state: one reads the
lists once, one twice in a row (what `JRTPrompt` does to a prompt), and one is a JRT-RNN, which reads them once and
non-causally. Parameters are equal within 3 % and the state, the data and the steps are equal; every model is trained on
all shapes, short and long list first, and tested on fresh draws of each.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jrt.bench.report import Report
from jrt.errors import InvalidOptionError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

TARGET = "read non-causally or twice, a smaller state finds what a larger one finds in one causal reading"
READINGS = {"once": "causal, read once", "twice": "causal, read twice", "prefix": "JRT-RNN, read once"}
"""The ways of reading, and what the plot calls them."""
_WIDTH, _HEADS, _LAYERS, _MLP = 32, 2, 4, 32


@dataclass(frozen=True)
class Recipe:
    """How every model of a figure is trained."""

    shapes: tuple[tuple[int, int], ...]
    vocab_size: int
    steps: int
    batch_size: int
    learning_rate: float
    test_items: int


def run(
    readings: Annotated[str, typer.Option(help="once, twice and prefix (JRT-RNN).")] = "once,twice,prefix",
    feature_dims: Annotated[str, typer.Option(help="Widths of keys; the state grows with their square.")] = "2,4,8,16",
    shapes: Annotated[str, typer.Option(help="Lengths of the short and the long list.")] = "2x8,4x16,4x32",
    seeds: Annotated[str, typer.Option(help="One model for each.")] = "0,1,2",
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of a model.")] = 3000,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a step.")] = 32,
    learning_rate: Annotated[
        float, typer.Option(help="The highest; it rises for 100 steps and falls at the end.")
    ] = 3e-3,
    vocab_size: Annotated[int, typer.Option(min=8, help="Symbols, four special ones included.")] = 100,
    test_items: Annotated[int, typer.Option(min=1, help="Fresh rows of each shape to test on.")] = 1000,
    keep: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Add finished models to a JSONL file, and do not train them again."),
    ] = None,
    plot_to: Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw the figure.")] = None,
) -> Report:
    """Memory against accuracy, and what the order of two lists costs: small models trained from nothing."""
    import torch

    torch.set_num_threads(1)
    recipe = Recipe(_shapes(shapes), vocab_size, steps, batch_size, learning_rate, test_items)
    for reading in readings.split(","):
        if reading not in READINGS:
            raise InvalidOptionError(f"There is no reading {reading!r}.{did_you_mean(reading, READINGS)}")
    rows = [
        kept(keep, reading, feature_dim, seed, recipe)
        for seed in _numbers(seeds)
        for feature_dim in _numbers(feature_dims)
        for reading in readings.split(",")
    ]
    settings = dict(shapes=shapes, steps=steps, batch_size=batch_size, learning_rate=learning_rate)
    report = Report(
        name="synthetics",
        target=TARGET,
        settings=settings | dict(vocab_size=vocab_size, test_items=test_items, width=_WIDTH, layers=_LAYERS),
        rows=rows,
        notes="Accuracy in percent over fresh rows, means over shapes; state in floats of Taylor attention.",
    )
    if plot_to is not None:
        plot(report, plot_to)
    return report


def kept(file: Path | None, reading: str, feature_dim: int, seed: int, recipe: Recipe) -> dict[str, Any]:
    """A row from the file where it is there, else measured and added to it; several processes may share a file."""
    asked = {
        "reading": reading,
        "feature_dim": feature_dim,
        "seed": seed,
        "recipe": json.loads(json.dumps(asdict(recipe))),
    }
    if file is not None and file.exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            found: dict[str, Any] = json.loads(line)
            if found["asked"] == asked:
                row: dict[str, Any] = found["row"]
                return row
    row = measure(reading, feature_dim, seed, recipe)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"asked": asked, "row": row}) + "\n")
    return row


def measure(reading: str, feature_dim: int, seed: int, recipe: Recipe) -> dict[str, Any]:
    """Trains one model and tests it: a row of the report."""
    started = time.process_time()
    model = trained(reading, feature_dim, seed, recipe)
    seconds = time.process_time() - started
    right = {
        (first, second): accuracy(model, reading, first, second, seed, recipe)
        for short, long in recipe.shapes
        for first, second in ((short, long), (long, short))
    }
    short_first = statistics.mean(share for (first, second), share in right.items() if first < second)
    long_first = statistics.mean(share for (first, second), share in right.items() if first > second)
    return {
        "reading": reading,
        "feature_dim": feature_dim,
        "seed": seed,
        "state": state_floats(feature_dim),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "short first": short_first,
        "long first": long_first,
        "difference": short_first - long_first,
        **{f"{first} then {second}": share for (first, second), share in right.items()},
        "CPU s": seconds,
    }


def state_floats(feature_dim: int) -> int:
    """Numbers that the Taylor attention layers remember: value sums and normalizers."""
    features = 1 + feature_dim + feature_dim * (feature_dim + 1) // 2
    return _LAYERS // 2 * _HEADS * features * (_WIDTH // _HEADS + 1)


def untrained(reading: str, feature_dim: int, recipe: Recipe) -> Any:
    """A model of convolutions and Taylor attention in turns; what JRT-RNN spends on its prefix, the causal one spends
    on wider MLPs."""
    from jrt.models import BasedConfig, BasedForCausalLM, JRTConfig, JRTForCausalLM

    prefix = reading == "prefix"
    spent = _LAYERS // 2 * _WIDTH * (_HEADS * feature_dim + _WIDTH)
    options = dict(
        vocab_size=recipe.vocab_size,
        hidden_size=_WIDTH,
        num_attention_heads=_HEADS,
        feature_dim=feature_dim,
        mixers=["conv", "prefix" if prefix else "linear"] * (_LAYERS // 2),
        intermediate_size=_MLP + (0 if prefix else round(spent / (3 * _WIDTH * _LAYERS))),
        initializer_range=0.1,
    )
    return JRTForCausalLM(JRTConfig(**options)) if prefix else BasedForCausalLM(BasedConfig(**options))


def trained(reading: str, feature_dim: int, seed: int, recipe: Recipe) -> Any:
    """A model after all steps; the loss is on the answer alone."""
    import torch
    import torch.nn.functional as F

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = untrained(reading, feature_dim, recipe).train()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    orders = [shape[::turn] for shape in recipe.shapes for turn in (1, -1)]
    picks = torch.randint(len(orders), (recipe.steps,), generator=torch.Generator().manual_seed(seed)).tolist()
    for step, pick in enumerate(picks):
        rise, fall = min(1.0, (step + 1) / 100), min(1.0, 2 * (1 - step / recipe.steps))
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rise * fall
        inputs, answers = draw(reading, orders[pick], seed * 10**6 + step, recipe.batch_size, recipe)
        loss = F.cross_entropy(answer_logits(model, inputs), answers)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def draw(reading: str, order: Sequence[int], seed: int, count: int, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Rows of one shape and their answers."""
    import torch

    from jrt.evals.tasks.set_disjointness import set_disjointness_arrays

    passes = 2 if reading == "twice" else 1
    inputs, answers = set_disjointness_arrays(seed, count, *order, vocab_size=recipe.vocab_size, num_passes=passes)
    return torch.from_numpy(inputs), torch.from_numpy(answers)


def answer_logits(model: Any, inputs: Tensor) -> Tensor:
    """Logits at the last token, (B, V); everything before it is the prefix of a JRT-RNN."""
    prefix = {"prefix_length": inputs.shape[1] - 1} if model.config.model_type == "jrt_rnn" else {}
    logits: Tensor = model(inputs, logits_to_keep=1, use_cache=False, **prefix).logits[:, 0]
    return logits


def accuracy(model: Any, reading: str, first: int, second: int, seed: int, recipe: Recipe) -> float:
    """Right answers to fresh rows of one order, in percent."""
    import torch

    inputs, answers = draw(reading, (first, second), 10**9 + seed, recipe.test_items, recipe)
    with torch.no_grad():
        right = sum(
            int((answer_logits(model, part).argmax(-1) == asked).sum())
            for part, asked in zip(inputs.split(250), answers.split(250), strict=True)
        )
    return 100 * right / len(answers)


def plot(report: Report, path: Path) -> None:
    """Accuracy against the size of the state with the short and with the long list first, and their difference: the
    mean over seeds as a line, every seed as a point."""
    from jrt.bench.plotting import figure_of
    from jrt.evals.plotting import COLORS

    panels = ("short first", "long first", "difference")
    colors = dict(zip(READINGS, (COLORS[0], COLORS[3], COLORS[2]), strict=True))
    with figure_of(path, len(panels)) as axes:
        for panel, name in zip(axes, panels, strict=True):
            for reading in dict.fromkeys(row["reading"] for row in report.rows):
                points = [(row["state"], row[name]) for row in report.rows if row["reading"] == reading]
                sizes = sorted({size for size, _ in points})
                means = [statistics.mean(value for own, value in points if own == size) for size in sizes]
                panel.plot(sizes, means, color=colors[reading], marker="o", label=READINGS[reading], linewidth=2)
                panel.scatter(*zip(*points, strict=True), color=colors[reading], s=14, alpha=0.6, linewidths=0)
            panel.set(xscale="log", xlabel="state, floats", title=name)
            panel.set_xticks(sizes, [str(size) for size in sizes])
            panel.minorticks_off()
        axes[0].set_ylabel("right answers, %")
        axes[2].set_ylabel("points")
        axes[2].axhline(0, color="#333333", linewidth=0.8)
        for panel in axes[:2]:
            panel.set_ylim(0, 103)
        axes[0].legend(frameon=False, fontsize=8, loc="upper left")


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InvalidOptionError(f"{text!r} is no list of numbers.", "Write 2,4,8.") from None


def _shapes(text: str) -> tuple[tuple[int, int], ...]:
    try:
        shapes = [tuple(int(length) for length in part.split("x")) for part in text.split(",")]
        return tuple((short, long) for short, long in shapes if short < long or _unordered(short, long))
    except ValueError:
        raise InvalidOptionError(f"{text!r} is no list of shapes.", "Write 2x8,4x32: short x long.") from None


def _unordered(short: int, long: int) -> bool:
    raise InvalidOptionError(
        f"The short list of {short}x{long} is not the shorter one.", "Write 2x8,4x32: short x long."
    )
