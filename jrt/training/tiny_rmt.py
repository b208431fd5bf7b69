"""The recipe of `jrt/tiny-rmt`: a BERT of 113 thousand weights that reads thousands of segments, trained on at most 7.

    python -m jrt.training.tiny_rmt --seed 0 --out checkpoint/
    python -m jrt.training.tiny_rmt --seed 0 --update replace --out control/

One model for three tasks (`jrt.training.places`): *memorize*, *detect* and *reason*, whose facts are hidden in varied
sentences. The memory is `jrt.RMT` around transformers' `BertForSequenceClassification`; nothing else is changed. The
first batches have one segment; one more is added whenever the last 20 batches of the longest kind were good enough, and
half of the batches are shorter, so that short texts are not forgotten. From seven segments on, a penalty on the mean
gate asks the memory to write nothing where there is nothing to write. The control is the paper's update (`replace`)
with the same steps.

Texts hold facts of the train split only. How the model reads thousands of segments is measured by `jrt.evals.memory`.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Mapping
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
from jrt.training.places import PLACES, Distractors, Kind, Passages, Split

PAD, UNKNOWN, START, SEPARATOR = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
KINDS: tuple[Kind, ...] = ("memorize", "detect", "reason")
SPLITS: tuple[Split, ...] = ("train", "heldout")
SEGMENT_LENGTH = 24
MAX_SEGMENTS = 7
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
    """

    before: Tensor
    last: Tensor
    rows: Tensor
    labels: Tensor
    sizes: list[int]


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
        before, last, owners, labels, sizes = [], [], [], [], []
        for kind, count in rows.items():
            passages, table, asked = self.passages[kind], self.tables[kind], len(last)
            for _ in range(count):
                passage = passages.draw(generator, num_segments * SEGMENT_LENGTH, forms)
                ids = table[passage.pieces]
                every = passages.questions(passage, forms)
                for index in generator.permutation(len(every))[:questions]:
                    pieces, answer = every[index]
                    last.append(np.concatenate([ids[-SEGMENT_LENGTH : -len(pieces)], table[pieces]]))
                    owners.append(len(before))
                    labels.append(PLACES.index(answer))
                before.append(ids[:-SEGMENT_LENGTH])
            sizes.append(len(last) - asked)
        tensors = (torch.from_numpy(np.stack(found)) for found in (before, last))
        return Batch(*tensors, torch.tensor(owners), torch.tensor(labels), sizes)


class Trainer:
    """One run; everything random comes from the recipe's seed."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.tokenizer = recipe, build_tokenizer()
        self.generator = np.random.default_rng(recipe.seed)
        self.drawer = Drawer(self.tokenizer, "train")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.model = build_model(self.tokenizer, recipe).train()
        self.penalty, self.model.write_penalty = self.model.write_penalty, 0.0
        groups = self.model.parameter_groups(weight_decay=0.01)
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
        self.level, self.level_began = 0, 0
        self.recent: list[Tensor] = []
        self.started = time.perf_counter()

    def step(self, number: int) -> None:
        """One batch, and what follows from how well it went."""
        forms, longest = LEVELS[self.level]
        short = self.generator.random() < 0.5
        count = int(self.generator.integers(1, longest + 1)) if short else longest
        recipe = self.recipe
        batch = self.drawer.draw(self.generator, recipe.rows, count, forms=forms, questions=recipe.questions)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * self.rate(number)
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
        if self.passed(number) and self.level + 1 < len(LEVELS):
            self.say(f"level {self.level} passed at step {number + 1}: {self.shares()}")
            self.level, self.level_began, self.recent = self.level + 1, number + 1, []
            if self.level + 1 == len(LEVELS):
                self.model.write_penalty = self.penalty

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor, float]:
        """The loss with its penalty, the answers, and the mean gate before the last segment."""
        if not batch.before.shape[1]:
            output = self.model(batch.last, labels=batch.labels)
            return output.loss, output.logits, float("nan")
        read = self.model(batch.before)
        output = self.model(batch.last, labels=batch.labels, memory=read.memory[batch.rows])
        if read.mean_write is None:
            return output.loss, output.logits, 1.0
        return output.loss + self.model.write_penalty * read.mean_write, output.logits, float(read.mean_write)

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
        return min(1.0, (number + 1) / 100, max(0.02, (1 - number / self.recipe.steps) / 0.3))

    def say(self, text: str) -> None:
        print(f"{time.perf_counter() - self.started:6.0f} s  {text}", flush=True)


def train(recipe: Recipe) -> tuple[Any, Any, dict[str, Any]]:
    """Runs the recipe; returns the model, its tokenizer and what there is to say about the run."""
    trainer = Trainer(recipe)
    for number in range(recipe.steps):
        trainer.step(number)
    packages: tuple[Any, ...] = (torch, transformers, tokenizers, np)
    record = {
        "recipe": {**asdict(recipe), "rows": dict(recipe.rows)},
        "weights": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "segments": LEVELS[trainer.level][1],
        "seconds": round(time.perf_counter() - trainer.started),
        "versions": {"python": platform.python_version(), **{p.__name__: str(p.__version__) for p in packages}},
    }
    trainer.model.write_penalty = trainer.penalty
    return trainer.model.eval(), trainer.tokenizer, record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--update", choices=("gated", "replace"), default="gated")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums in a fixed order: the same seed gives the same weights
    model, tokenizer, record = train(Recipe(seed=arguments.seed, update=arguments.update, steps=arguments.steps))
    jrt.Reader(model, [model.method], tokenizer).save_pretrained(arguments.out, include_model=True)
    (arguments.out / "training.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
