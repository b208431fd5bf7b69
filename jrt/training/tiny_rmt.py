"""The recipe of `jrt/tiny-rmt`: a BERT of 113 thousand weights that reads thousands of segments, trained on at most 7.

    python -m jrt.training.tiny_rmt --seed 0 --out checkpoint/
    python -m jrt.training.tiny_rmt --seed 0 --update replace --out control/

One model for three tasks (`jrt.training.places`): *memorize*, *detect* and *reason*, whose facts are hidden in varied
sentences. The memory is `jrt.RMT` around transformers' `BertForSequenceClassification`; nothing else is changed. Two
stages, the second with an optimizer of its own:

1. *Learn*: one segment and questions in the words of the fact first, then other forms of questions, then a segment more
   at a time. A level is passed when the last 20 batches of the longest texts were good enough, or after 300 steps. Half
   of the batches are shorter, so that short texts are not forgotten.
2. *Hold*: up to seven segments. A penalty on the mean gate asks the memory to write nothing where there is nothing to
   write (it is there from the last level of the first stage on), and gates that are open in segments without any part
   of a fact are pressed shut, in the texts and in a fresh distractor after them. So training knows where the facts are.

The control is the paper's update (`replace`) with the same steps. A run that was stopped goes on behind stage one.

Texts hold facts of the train split only. How the model reads thousands of segments is measured by `jrt.evals.memory`.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tokenizers
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

import jrt
from jrt.adapters.rmt import RMT
from jrt.training.places import PLACES, Distractors, Kind, Passage, Passages, Split, pieces

PAD, UNKNOWN, START, SEPARATOR = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
KINDS: tuple[Kind, ...] = ("memorize", "detect", "reason")
SPLITS: tuple[Split, ...] = ("train", "heldout")
SEGMENT_LENGTH = 24
MAX_SEGMENTS = 7
CLOSED = -4.0
RECENT = 20
"""How many batches of the longest texts decide about the next level."""
LEVELS = [*((forms, 1) for forms in (1, 2, 3, 4)), *((4, segments) for segments in range(2, MAX_SEGMENTS + 1))]
"""Forms of questions about relations, and segments."""


@dataclass(frozen=True)
class Recipe:
    """What one run does; the defaults made the shipped checkpoint."""

    seed: int = 0
    update: Literal["gated", "replace"] = "gated"
    steps: int = 3000
    rows: Mapping[Kind, int] = field(default_factory=lambda: {"memorize": 8, "detect": 24, "reason": 32})
    questions: int = 4
    """At most, about one text: two related facts answer eight, a fact about a person one."""
    learning_rate: float = 3e-3
    hold_steps: int = 1500
    hold_learning_rate: float = 2e-3
    quiet_weight: float = 1.0
    disturbances: int = 4
    """Segments without facts that each memory is disturbed by in the second stage."""
    num_memory_tokens: int = 4
    write_penalty: float = 0.05
    easy_above: float = 0.9
    """Accuracy on memorize and detect above which a level is passed, ..."""
    reason_above: float = 0.85
    """... if reason is above this, ..."""
    patience: int = 300
    """... or this many steps were spent on it."""


def build_tokenizer() -> Any:
    """Words and marks are tokens; a word that no passage holds is unknown."""
    distractors = Distractors()
    passages = [Passages(kind, split, distractors) for kind in KINDS for split in SPLITS]
    words = {piece.strip() for found in passages for piece in found.vocabulary}
    names = [PAD, UNKNOWN, START, SEPARATOR, *sorted(words)]
    tokenizer = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), "removed", invert=True)
    ends = [(START, names.index(START)), (SEPARATOR, names.index(SEPARATOR))]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {SEPARATOR}", special_tokens=ends)
    special = {"pad_token": PAD, "unk_token": UNKNOWN, "cls_token": START, "sep_token": SEPARATOR}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=["input_ids", "attention_mask"], **special
    )


def build_model(tokenizer: Any, recipe: Recipe) -> Any:
    """An untrained BERT under RMT. The usual standard deviation of 0.02 is for models ten times as wide."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=128,
        hidden_act="relu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=SEGMENT_LENGTH + recipe.num_memory_tokens + 3,
        type_vocab_size=1,
        initializer_range=0.17,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(PLACES)),
        label2id={place: index for index, place in enumerate(PLACES)},
        attn_implementation="eager",  # the fastest for so few tokens on a processor
    )
    method = RMT.for_tokenizer(
        tokenizer,
        num_memory_tokens=recipe.num_memory_tokens,
        segment_length=SEGMENT_LENGTH,
        update=recipe.update,
        write_penalty=recipe.write_penalty if recipe.update == "gated" else 0.0,
        initial_std=0.17,
    )
    return method.adapt(BertForSequenceClassification(config))


def token_table(passages: Passages, tokenizer: Any) -> NDArray[np.int64]:
    """The tokenizer's id of every piece of a vocabulary, (V,)."""
    return np.array(tokenizer.convert_tokens_to_ids([piece.strip() for piece in passages.vocabulary]), dtype=np.int64)


@dataclass(frozen=True)
class Batch:
    """Texts, and questions about them; all questions are the ends of last segments.

    Attributes:
        before: token ids of all segments but the last, (B, T).
        last: token ids of last segments, (Q, SEGMENT_LENGTH).
        rows: to which text each belongs, (Q,).
        labels: numbers of places, (Q,).
        sizes: how many of them are of each kind.
        quiet: which segments but the last hold no part of a fact, (B, N - 1).
        settled: texts of which no fact goes on in the last segment.
    """

    before: Tensor
    last: Tensor
    rows: Tensor
    labels: Tensor
    sizes: list[int]
    quiet: Tensor
    settled: Tensor


class Drawer:
    """Draws batches of one split."""

    def __init__(self, tokenizer: Any, split: Split) -> None:
        distractors = Distractors()
        self.passages = {kind: Passages(kind, split, distractors) for kind in KINDS}
        self.tables = {kind: token_table(passages, tokenizer) for kind, passages in self.passages.items()}

    def draw(
        self, generator: np.random.Generator, rows: Mapping[Kind, int], num_segments: int, *, forms: int, questions: int
    ) -> Batch:
        """A batch of `rows[kind]` texts of each kind, with up to `questions` questions about each."""
        before: list[NDArray[np.int64]] = []
        last: list[NDArray[np.int64]] = []
        owners, labels, sizes, quiet = [], [], [], []
        for kind, count in rows.items():
            passages, table, asked = self.passages[kind], self.tables[kind], len(last)
            for _ in range(count):
                passage = passages.draw(generator, num_segments * SEGMENT_LENGTH, forms)
                ids = table[passage.pieces]
                every = passages.questions(passage, forms)
                for index in generator.permutation(len(every))[:questions]:
                    asks, answer = every[index]
                    last.append(np.concatenate([ids[-SEGMENT_LENGTH : -len(asks)], table[asks]]))
                    owners.append(len(before))
                    labels.append(PLACES.index(answer))
                before.append(ids[:-SEGMENT_LENGTH])
                quiet.append(_quiet(passage, num_segments))
            sizes.append(len(last) - asked)
        free = torch.tensor(quiet)
        return Batch(
            before=torch.from_numpy(np.stack(before)),
            last=torch.from_numpy(np.stack(last)),
            rows=torch.tensor(owners),
            labels=torch.tensor(labels),
            sizes=sizes,
            quiet=free[:, :-1],
            settled=free[:, -1],
        )

    def distractors(self, generator: np.random.Generator, count: int) -> Tensor:
        """Segments without facts, (count, SEGMENT_LENGTH); they begin and end in the middle of sentences."""
        passages = self.passages["detect"]
        drawn, _ = passages.distractors.draw(generator, count * SEGMENT_LENGTH)
        return torch.from_numpy(self.tables["detect"][drawn].reshape(count, SEGMENT_LENGTH))


def _quiet(passage: Passage, num_segments: int) -> list[bool]:
    """Which segments hold no part of a fact."""
    touched = set()
    for fact, offset in zip(passage.facts, passage.offsets, strict=True):
        end = offset + len(pieces(fact)) - 1
        touched |= set(range(offset // SEGMENT_LENGTH, end // SEGMENT_LENGTH + 1))
    return [segment not in touched for segment in range(num_segments)]


@dataclass(frozen=True)
class Stage:
    """One optimizer and one schedule.

    Attributes:
        number: draws differ from stage to stage.
        levels: forms of questions about relations, and segments; the last stays until the end.
        steps: batches.
        learning_rate: the highest.
        quiet_weight: of the loss on gates that are open where there is no fact.
    """

    number: int
    levels: list[tuple[int, int]]
    steps: int
    learning_rate: float
    quiet_weight: float = 0.0


class Trainer:
    """One stage of a run; everything random comes from the recipe's seed and the stage's number."""

    def __init__(self, recipe: Recipe, stage: Stage, model: Any, tokenizer: Any) -> None:
        self.recipe, self.stage, self.model, self.penalty = recipe, stage, model.train(), model.method.write_penalty
        self.generator = np.random.default_rng([recipe.seed, stage.number] if stage.number else recipe.seed)
        self.drawer = Drawer(tokenizer, "train")
        self.optimizer = torch.optim.AdamW(model.parameter_groups(weight_decay=0.01), betas=(0.9, 0.98))
        self.level, self.level_began = 0, 0
        self.model.write_penalty = 0.0 if len(stage.levels) > 1 else self.penalty
        self.recent: list[Tensor] = []
        self.started = time.perf_counter()

    def run(self) -> None:
        """All steps; the model is in evaluation mode afterwards."""
        for number in range(self.stage.steps):
            self.step(number)
        self.model.write_penalty = self.penalty
        self.model.eval()

    def step(self, number: int) -> None:
        """One batch, and what follows from how well it went."""
        forms, longest = self.stage.levels[self.level]
        short = self.generator.random() < 0.5
        count = int(self.generator.integers(1, longest + 1)) if short else longest
        recipe = self.recipe
        batch = self.drawer.draw(self.generator, recipe.rows, count, forms=forms, questions=recipe.questions)
        for group in self.optimizer.param_groups:
            group["lr"] = self.stage.learning_rate * self.rate(number)
        loss, logits, gate = self.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        right = (logits.argmax(-1) == batch.labels).float().split(batch.sizes)
        if count == longest:
            self.recent = [*self.recent[1 - RECENT :], torch.stack([part.mean() for part in right])]
        if (number + 1) % 100 == 0:
            self.say(f"step {number + 1}, {forms} forms, {longest} segments: {self.shares()}, gate {gate:.4f}")
        if self.level + 1 < len(self.stage.levels) and self.passed(number):
            self.say(f"level {self.level} passed at step {number + 1}: {self.shares()}")
            self.level, self.level_began, self.recent = self.level + 1, number + 1, []
            if self.level + 1 == len(self.stage.levels):
                self.model.write_penalty = self.penalty

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor, float]:
        """The loss with its penalty, the answers, and the mean gate before the last segment."""
        if not batch.before.shape[1]:
            output = self.model(batch.last, labels=batch.labels)
            return output.loss, output.logits, float("nan")
        with self.writes() as gates:
            read = self.model(batch.before)
            output = self.model(batch.last, labels=batch.labels, memory=read.memory[batch.rows])
            if read.mean_write is None:
                return output.loss, output.logits, 1.0
            loss = output.loss + self.model.write_penalty * read.mean_write
            if self.stage.quiet_weight:
                values = torch.stack(gates[: batch.quiet.shape[1]], dim=1)[batch.quiet]
                loss = loss + self.stage.quiet_weight * (_above(values) + self.disturbed(read.memory, batch, gates))
        return loss, output.logits, float(read.mean_write.detach())

    def disturbed(self, memory: Tensor, batch: Batch, gates: list[Tensor]) -> Tensor:
        """What fresh segments without facts would write into the memories that the texts have left."""
        settled = memory[batch.settled]
        if not len(settled):
            return memory.sum() * 0.0
        repeated = settled.repeat(self.recipe.disturbances, 1, 1)
        self.model(self.drawer.distractors(self.generator, len(repeated)), memory=repeated)
        return _above(gates[-1])

    @contextmanager
    def writes(self) -> Iterator[list[Tensor]]:
        """What goes into the gates' sigmoid in every segment that is read in the block, (B, m, 1) each."""
        caught: list[Tensor] = []
        if self.recipe.update == "replace":
            yield caught
            return
        handle = self.model.write_gate.register_forward_hook(lambda module, given, output: caught.append(output))
        try:
            yield caught
        finally:
            handle.remove()

    def passed(self, number: int) -> bool:
        """Whether the next level begins."""
        if len(self.recent) < RECENT:
            return False
        memorize, detect, reason = torch.stack(self.recent).mean(0).tolist()
        good = min(memorize, detect) > self.recipe.easy_above and reason > self.recipe.reason_above
        return good or number + 1 - self.level_began >= self.recipe.patience

    def shares(self) -> str:
        mean = torch.stack(self.recent).mean(0).tolist() if self.recent else [0.0] * len(KINDS)
        return ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in zip(KINDS, mean, strict=True))

    def rate(self, number: int) -> float:
        """Warm-up over 100 steps, the last 30 % falling to nearly nothing."""
        return min(1.0, (number + 1) / 100, max(0.02, (1 - number / self.stage.steps) / 0.3))

    def say(self, text: str) -> None:
        print(f"{time.perf_counter() - self.started:6.0f} s  {text}", flush=True)


def _above(values: Tensor) -> Tensor:
    """How far the gates' inputs lie above `CLOSED`, squared: a gate is exactly 0 below log(0.1 / 1.1) = -2.4."""
    return (values - CLOSED).clamp_min(0.0).square().mean() if values.numel() else values.sum()


def untrained(recipe: Recipe) -> tuple[Any, Any]:
    """The model that a seed begins with, and its tokenizer."""
    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return build_model(tokenizer, recipe), tokenizer


def save(model: Any, tokenizer: Any, recipe: Recipe, seconds: float, folder: Path) -> None:
    """Writes what `jrt.load` reads, and `training.json`: what was run and how long it took."""
    packages: tuple[Any, ...] = (torch, transformers, tokenizers, np)
    record = {
        "recipe": {**asdict(recipe), "rows": dict(recipe.rows)},
        "weights": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": round(seconds),
        "versions": {"python": platform.python_version(), **{p.__name__: str(p.__version__) for p in packages}},
    }
    jrt.Reader(model, [model.method], tokenizer).save_pretrained(folder, include_model=True)
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--update", choices=("gated", "replace"), default="gated")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums in a fixed order: the same seed gives the same weights
    recipe = Recipe(seed=arguments.seed, update=arguments.update)
    first, started = arguments.out / "first-stage", time.perf_counter()
    if (first / "training.json").is_file():
        reader = jrt.load(str(first), device="cpu", dtype="float32")
        model, tokenizer = reader.model, reader.tokenizer
        started -= json.loads((first / "training.json").read_text())["seconds"]
    else:
        model, tokenizer = untrained(recipe)
        Trainer(recipe, Stage(0, LEVELS, recipe.steps, recipe.learning_rate), model, tokenizer).run()
        save(model, tokenizer, recipe, time.perf_counter() - started, first)
    Trainer(
        recipe,
        Stage(1, LEVELS[-1:], recipe.hold_steps, recipe.hold_learning_rate, recipe.quiet_weight),
        model,
        tokenizer,
    ).run()
    save(model, tokenizer, recipe, time.perf_counter() - started, arguments.out)


if __name__ == "__main__":
    main()
