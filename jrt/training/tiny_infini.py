"""The recipe of `jrt/tiny-infini`: a Llama of 142 thousand weights with Infini-attention that finds a number in a text.

    python -m jrt.training.tiny_infini --seed 0 --out checkpoint/

A stock `LlamaForCausalLM` reads segments of 64 tokens; everything older is in the memory. Training documents have one
segment, then two, up to five (320 tokens at most), and a random depth; the loss is on the number and the end after it.

What makes a memory that was trained on five segments hold for sixteen thousand: ReLU features can write exactly
nothing, and a penalty asks for that wherever it does no harm. It starts small, because a memory that has not been used
yet would be switched off by it. `--plain` is the paper's memory instead: ELU + 1, which cannot be zero, and no penalty.

`python -m jrt.training.passkey_table` measures the result at any length.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import jrt
from jrt.prompts import JRTPrompt, Query
from jrt.training.passkeys import ANSWER_BEGINS, QUESTION, TOKEN, document, number_pieces, tokens_of, words
from jrt.versions import versions

PAD, END, UNKNOWN, NEWLINE = "<pad>", "<eos>", "<unk>", "\n"
CUES = ("Question:", "Answer:")
SEGMENT_LENGTH = 64
IGNORED = -100


@dataclass(frozen=True)
class Recipe:
    """What one run does; the defaults made the shipped checkpoint."""

    seed: int = 0
    plain: bool = False
    """The paper's memory: ELU + 1 and no write penalty."""
    steps: int = 700
    batch_size: int = 32
    learning_rate: float = 3e-3
    gate_learning_rate: float = 1.5e-2
    longest: int = 5
    """Segments of the longest training documents."""
    first_penalty: float = 0.1
    """Of writing, from the second level on."""
    write_penalty: float = 1.0
    """Of writing, from `penalty_from` on."""
    penalty_from: int = 350
    """The step from which writing costs its full price."""


def build_tokenizer() -> Any:
    """Words, marks, newlines and two cue words are tokens; a five-digit number is two; everything else is unknown."""
    vocabulary = [PAD, END, UNKNOWN, NEWLINE, *CUES, *words(), *number_pieces()]
    tokenizer = Tokenizer(models.WordPiece({token: index for index, token in enumerate(vocabulary)}, unk_token=UNKNOWN))
    token = Regex("|".join([NEWLINE, *CUES, TOKEN]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(token, "removed", invert=True)
    around_newlines = [decoders.Replace(" \n", "\n"), decoders.Replace("\n ", "\n")]
    tokenizer.decoder = decoders.Sequence([decoders.WordPiece(cleanup=True), decoders.Fuse(), *around_newlines])
    special = {"pad_token": PAD, "eos_token": END, "unk_token": UNKNOWN}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side="left", model_input_names=["input_ids", "attention_mask"], **special
    )


def build_model(tokenizer: Any) -> LlamaForCausalLM:
    """An untrained Llama of two layers."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2**21,  # positions restart in every segment; this only keeps transformers from warning
        attention_bias=True,  # a bias is what moves a ReLU feature below zero for every word but a few
        tie_word_embeddings=True,
        initializer_range=0.1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def build_method(recipe: Recipe) -> jrt.InfiniAttention:
    """The memory of the recipe."""
    options: dict[str, Any] = dict(segment_length=SEGMENT_LENGTH, gate_init=0.0)
    options |= dict(gate_learning_rate=recipe.gate_learning_rate)
    if recipe.plain:
        return jrt.InfiniAttention(feature_map="elu", epsilon=1e-6, **options)
    return jrt.InfiniAttention(feature_map="relu", epsilon=1e-3, write_penalty=recipe.write_penalty, **options)


def endings() -> list[str]:
    """What stands between a document and the answer: `Reader.ask`'s own cue, and that of the task `passkey`."""
    prompt = JRTPrompt(passes=1)
    queries: Sequence[str | Query] = (QUESTION, Query(QUESTION, f"{QUESTION} {ANSWER_BEGINS}", joint="\n"))
    return [prompt.plan("document", query).text.removeprefix("document") for query in queries]


def make_batch(source: random.Random, tokenizer: Any, num_tokens: int, count: int) -> tuple[Tensor, Tensor]:
    """Documents with question and answer, all of `num_tokens` tokens, and the labels: the answer and the end."""
    rows = []
    for _ in range(count):
        ending = tokens_of(source.choice(endings()))
        made = document(source, num_tokens - len(ending) - 3)
        rows.append(tokenizer.convert_tokens_to_ids([*made.tokens, *ending, *tokens_of(made.key), END]))
    ids = torch.tensor(rows)
    labels = torch.full_like(ids, IGNORED)
    labels[:, -3:] = ids[:, -3:]
    return ids, labels


class Trainer:
    """One run; everything random comes from the recipe's seed."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.source = random.Random(f"tiny-infini-{recipe.seed}")
        self.tokenizer = build_tokenizer()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.model = build_method(recipe).adapt(build_model(self.tokenizer)).train()
        self.groups = [{"lr": recipe.learning_rate} | group for group in self.model.parameter_groups(0.01)]
        self.rates = [group["lr"] for group in self.groups]
        self.optimizer = torch.optim.AdamW(self.groups, betas=(0.9, 0.98))
        self.started = time.perf_counter()

    def step(self, number: int, segments: int) -> float:
        """One step on documents of up to `segments` segments; returns the loss on the answers."""
        longest = segments * SEGMENT_LENGTH
        shortest = max(longest - SEGMENT_LENGTH, SEGMENT_LENGTH // 2) + 1
        ids, labels = make_batch(
            self.source, self.tokenizer, self.source.randint(shortest, longest), self.recipe.batch_size
        )
        output = self.model(ids, labels=labels)
        self.optimizer.zero_grad()
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        remaining = (self.recipe.steps - number) / (0.3 * self.recipe.steps)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * min(1.0, (number + 1) / 50) * min(1.0, max(remaining, 0.03))
        self.optimizer.step()
        return float(output.loss.detach() - self.model.write_penalty * output.mean_write.detach())

    def run(self) -> list[int]:
        """All steps; a level more whenever the answers of the longest documents so far are nearly always right.

        Returns:
            the step at which each level was passed.
        """
        passed: list[int] = []
        smooth, recipe = 5.0, self.recipe
        for number in range(recipe.steps):
            level = min(len(passed) + 1, recipe.longest)
            self.model.write_penalty = 0.0 if recipe.plain or level == 1 else recipe.first_penalty
            if not recipe.plain and level == recipe.longest and number >= recipe.penalty_from:
                self.model.write_penalty = recipe.write_penalty
            segments = level if self.source.random() < 0.6 else self.source.randint(1, level)
            loss = self.step(number, segments)
            if segments == level:
                smooth = 0.85 * smooth + 0.15 * loss
            if smooth < 0.15 and len(passed) < recipe.longest:
                passed.append(number + 1)
                smooth = 5.0
                self.say(f"{level} segments after {number + 1} steps")
            if (number + 1) % 100 == 0:
                self.say(f"step {number + 1}: {level} segments, loss {smooth:.4f}")
        return passed

    def say(self, text: str) -> None:
        print(f"{time.perf_counter() - self.started:6.0f} s  {text}", flush=True)


def train(recipe: Recipe) -> tuple[Any, Any, dict[str, Any]]:
    """Runs the recipe; returns the adapted model, its tokenizer and what there is to say about the run."""
    trainer = Trainer(recipe)
    passed = trainer.run()
    record = {
        "recipe": asdict(recipe),
        "passed": passed,
        "weights": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "longest_input": recipe.longest * SEGMENT_LENGTH,
        "seconds": round(time.perf_counter() - trainer.started),
        "versions": versions("python", "torch", "transformers", "tokenizers"),
    }
    return trainer.model.eval(), trainer.tokenizer, record


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """The base, the gates and the method in one folder, as `jrt.load` reads it."""
    reader = jrt.wrap(model.base, model.method, tokenizer=tokenizer)
    reader.model.load_learned(model.learned())
    reader.save_pretrained(folder, include_model=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", action="store_true", help="the paper's memory, for comparison")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums in a fixed order: the same seed gives the same weights
    model, tokenizer, record = train(Recipe(seed=arguments.seed, plain=arguments.plain))
    save(model, tokenizer, arguments.out)
    (arguments.out / "training.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
