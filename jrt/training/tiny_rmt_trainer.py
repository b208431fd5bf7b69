"""A stage of `jrt.training.tiny_rmt`: draws batches, takes steps, and goes up the levels."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jrt.training.place_batches import Batch, Drawer, Wanted
from jrt.training.places import FORMS, PLACES
from jrt.training.tiny_rmt_recipe import MAX_SEGMENTS, Level, Recipe, Stage

CLOSED = -4.0
"""What goes into the sigmoid of a gate that is told to shut; from log(0.1 / 1.1) = -2.4 down it is exactly 0."""
OPEN = 1.0
"""What goes into the sigmoid of the widest gate where it is told to open."""
RECENT = 20
"""How many batches of the longest texts decide about the next level."""


class Trainer:
    """A stage; everything random comes from the recipe's seed and the stage's name."""

    def __init__(self, recipe: Recipe, stage: Stage, model: Any, tokenizer: Any) -> None:
        self.recipe, self.stage, self.model, self.penalty = recipe, stage, model.train(), model.write_penalty
        self.generator = np.random.default_rng([recipe.seed, *map(ord, stage.name)])
        self.drawer = Drawer(tokenizer, "train")
        self.optimizer = torch.optim.AdamW(model.parameter_groups(weight_decay=recipe.weight_decay), betas=(0.9, 0.98))
        self.level, self.level_began = 0, 0
        self.groups = [*stage.rows, *(["directions"] if "reason" in stage.rows else [])]
        self.model.write_penalty = self.penalty if stage.told else 0.0
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
        recipe, level = self.recipe, self.stage.levels[self.level]
        short = self.generator.random() < 0.5
        count = int(self.generator.integers(1, level.segments + 1)) if short else level.segments
        longest = count == level.segments
        batch = self.drawer.draw(
            self.generator, self.stage.rows, count, self.wanted(level, longest), unanswerable=recipe.unanswerable
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.stage.learning_rate * self.rate(number)
        loss, logits, gate = self.loss(batch, self.recipe.told_weight * min(1.0, 2 * number / self.stage.steps))
        if recipe.unanswerable:
            loss = loss + recipe.unanswerable_weight * unanswered(self.model(batch.unanswerable).logits)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        right = (logits.argmax(-1) == batch.labels).float().split(batch.sizes)
        if longest:
            self.recent = [*self.recent[1 - RECENT :], torch.stack([part.mean() for part in right])]
        if (number + 1) % 100 == 0:
            self.say(f"step {number + 1}, {level.forms} forms, {level.segments} segments: {self.shares()}, {gate:.4f}")
        if self.level + 1 < len(self.stage.levels) and self.passed(number):
            self.say(f"level {self.level} passed at step {number + 1}: {self.shares()}")
            self.level, self.level_began, self.recent = self.level + 1, number + 1, []
            if self.stage.levels[self.level].segments == MAX_SEGMENTS:
                self.model.write_penalty = self.penalty

    def wanted(self, level: Level, longest: bool) -> Wanted:
        """What texts are like at a level; the shorter ones are asked in all forms, and not only about directions."""
        return Wanted(
            forms=level.forms if longest else FORMS,
            questions=self.recipe.questions,
            cut_share=self.recipe.cut_share,
            carried_share=self.recipe.carried_share,
            shared_share=self.stage.shared_share,
            landmark_share=level.landmark_share,
            only_directions=level.only_directions and longest,
            one_axis=level.one_axis and longest,
            turned=self.stage.turned,
        )

    def loss(self, batch: Batch, told_weight: float) -> tuple[Tensor, Tensor, float]:
        """The loss with its penalties, the answers, and the mean gate before the last segment."""
        if not batch.before.shape[1]:
            logits = self.model(batch.last).logits
            return self.answered(logits, batch), logits, float("nan")
        with self.writes() as gates:
            read = self.model(batch.before)
            logits = self.model(batch.last, memory=read.memory[batch.rows]).logits
            loss = self.answered(logits, batch)
            if not self.recipe.gated:
                return loss, logits, 1.0
            loss = loss + self.model.write_penalty * read.mean_write
            if self.stage.told and self.recipe.memory == "gated":
                loss = loss + told_weight * self.told(gates, batch, read.memory)
        return loss, logits, float(read.mean_write.detach())

    def answered(self, logits: Tensor, batch: Batch) -> Tensor:
        """The cross entropy of the answers: the mean over questions, or over tasks."""
        losses = nn.functional.cross_entropy(logits, batch.labels, reduction="none")
        if not self.stage.tasks_count_alike:
            return losses.mean()
        return torch.stack([part.mean() for part in losses.split(batch.sizes)]).mean()

    def told(self, gates: list[Tensor], batch: Batch, memory: Tensor) -> Tensor:
        """How far gates are open without a fact, in the texts and in a segment after them, and shut where one is."""
        values = torch.stack(gates[: batch.quiet.shape[1]], dim=1)
        shut = (OPEN - values[batch.clear].amax(dim=1)).clamp_min(0.0).square()
        return _above(values[batch.quiet]) + _mean(shut) + _above(self.disturbed(memory, batch, gates))

    def disturbed(self, memory: Tensor, batch: Batch, gates: list[Tensor]) -> Tensor:
        """The gates of fresh segments without facts that are read with the memories which the texts have left."""
        settled = memory[batch.settled]
        if not len(settled):
            return memory.new_zeros(0)
        repeated = settled.repeat(self.recipe.disturbances, 1, 1)
        self.model(self.drawer.distractors(self.generator, len(repeated)), memory=repeated)
        return gates[-1]

    @contextmanager
    def writes(self) -> Iterator[list[Tensor]]:
        """What goes into the gates' sigmoid in every segment that is read in the block, (B, m, 1) each."""
        caught: list[Tensor] = []
        if not self.recipe.gated:
            yield caught
            return
        handle = self.model.write_gate.register_forward_hook(lambda module, given, output: caught.append(output))
        try:
            yield caught
        finally:
            handle.remove()

    def passed(self, number: int) -> bool:
        """Whether the next level begins."""
        return self.good() or number + 1 - self.level_began >= self.stage.levels[self.level].patience

    def good(self) -> bool:
        """Whether the last batches of the longest texts were answered well enough."""
        if len(self.recent) < RECENT:
            return False
        recipe, shares = self.recipe, torch.stack(self.recent).mean(0).tolist()
        needed = [recipe.reason_above if kind == "reason" else recipe.easy_above for kind in self.stage.rows]
        # directions, the last share, decide nothing: no task asks for them
        return all(share > least for share, least in zip(shares[: len(needed)], needed, strict=True))

    def shares(self) -> str:
        mean = torch.stack(self.recent).mean(0).tolist() if self.recent else [0.0] * len(self.groups)
        return ", ".join(f"{kind} {100 * share:.1f} %" for kind, share in zip(self.groups, mean, strict=True))

    def rate(self, number: int) -> float:
        """Warm-up over 100 steps, and the linear fall to nearly nothing at the end."""
        falling = (1 - number / self.stage.steps) / (1 - self.stage.falls_from)
        return min(1.0, (number + 1) / 100, max(0.02, falling))

    def say(self, text: str) -> None:
        print(f"{time.perf_counter() - self.started:6.0f} s  {self.stage.name}: {text}", flush=True)


def unanswered(logits: Tensor) -> Tensor:
    """The cross entropy of answers, (U, A), with equal shares of the places, which come first."""
    return -logits.log_softmax(-1)[:, : len(PLACES)].mean()


def _above(values: Tensor) -> Tensor:
    """How far the gates' inputs lie above `CLOSED`, squared, in the mean."""
    return _mean((values - CLOSED).clamp_min(0.0).square())


def _mean(values: Tensor) -> Tensor:
    """The mean, of nothing too."""
    return values.mean() if values.numel() else values.sum()
