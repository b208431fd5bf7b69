"""The recipe of `jrt/tiny-recurrent`: a Mamba-2 of 53 thousand weights that answers from documents of short facts.

    python -m jrt.training.tiny_recurrent --seed 0 --out checkpoint/

Its state holds 256 numbers a layer. To answer after reading once it has to keep every fact of a document; when it knows
the question while it reads, one fact. Two stages, because the second skill builds on the first:

1. *Find*: question first, document after. A linear probe on the second layer says at every fact whether it is the asked
   one. Few names first (8, then 16, 32, 64): 8 are told apart after 150 steps, 64 at once were not after 400.
2. *Answer*: all five prompt formats in equal shares, loss on the answer and on the end after it; the probe stays with a
   small weight and is thrown away at the end. Prompts are rendered by `jrt.JRTPrompt` itself.

Not every seed gets there: the model's card has four.
Documents hold facts of the train split only; the evaluation at the end uses the held-out split and greedy generation.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import Mamba2Config, Mamba2ForCausalLM, PreTrainedTokenizerFast

import jrt
from jrt.prompts import JRTPrompt
from jrt.training.facts import SUBJECTS, Split, document, documents, text_of, words
from jrt.versions import versions

FORMATS = {
    "once": JRTPrompt(passes=1),
    "context_twice": JRTPrompt(passes=2, order="context_first"),
    "question_first": JRTPrompt(passes=1, order="question_first"),
    "repeat": JRTPrompt(passes=2, order="repeat"),
    "twice": JRTPrompt(passes=2),
}
KNOWS_QUESTION = {"question_first": 1, "repeat": 1, "twice": 2}
"""In how many readings of the context, counted from the last, the question has been read before."""

PAD, END, UNKNOWN, NEWLINE, QUESTION, ANSWER = "<pad>", "<eos>", "<unk>", "\n", "Question:", "Answer:"
PROBED_LAYER = 2
NUM_FACTS = 16
EVALUATION_SEED = 1000
MAX_NEW_TOKENS = 8


@dataclass(frozen=True)
class Recipe:
    """What one run does; the defaults made the shipped checkpoint."""

    seed: int = 0
    find_steps: int = 800
    """At most; the stage ends when every level is passed."""
    answer_steps: int = 1600
    batch_size: int = 64
    learning_rate: float = 3e-3
    probe_weight: float = 0.3
    questions: int = 4
    """Questions a document in the formats that read it before any question; the others have room for one."""


@dataclass(frozen=True)
class Batch:
    """Prompts with their answers, padded on the right.

    Attributes:
        ids: tokens, (B, T).
        cues: where the answers begin, (B, Q): the position of each answered "Answer:".
        values: the position of the value in every fact whose reader knows the question, (B, readings * N).
        asked: 1 where that fact is the asked one, (B, readings * N).
    """

    ids: Tensor
    cues: Tensor
    values: Tensor
    asked: Tensor


def build_tokenizer() -> Any:
    """Words, marks, newlines and the two cue words are tokens; everything else is unknown."""
    vocabulary = {word: index for index, word in enumerate([PAD, END, UNKNOWN, NEWLINE, QUESTION, ANSWER, *words()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    token = Regex(rf"{NEWLINE}|{QUESTION}|{ANSWER}|\w+|[^\w\s]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(token, "removed", invert=True)
    around_newlines = [decoders.Replace(" \n", "\n"), decoders.Replace("\n ", "\n")]
    tokenizer.decoder = decoders.Sequence([decoders.WordPiece(cleanup=True), decoders.Fuse(), *around_newlines])
    special = {"pad_token": PAD, "eos_token": END, "unk_token": UNKNOWN}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side="left", model_input_names=["input_ids", "attention_mask"], **special
    )


def build_model(tokenizer: Any) -> Mamba2ForCausalLM:
    """An untrained Mamba-2 whose heads remember for about a hundred tokens from the start.

    The usual time steps of 0.001 to 0.1 write so little that the state is next to nothing beside the skip connection.
    """
    config = Mamba2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=3,
        expand=1,
        num_heads=4,
        head_dim=16,
        state_size=4,
        n_groups=1,
        conv_kernel=6,  # "Answer:" stands five tokens after the name it asks for
        chunk_size=32,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = Mamba2ForCausalLM(config)
    with torch.no_grad():
        for layer in model.backbone.layers:
            layer.mixer.A_log.fill_(math.log(0.02))
            layer.mixer.dt_bias.fill_(math.log(math.expm1(0.5)))
            layer.mixer.D.fill_(0.3)
    return model


def make_batch(
    source: random.Random, tokenizer: Any, name: str, num_facts: int, num_subjects: int, recipe: Recipe
) -> Batch:
    """Draws documents of the train split and renders them in one format."""
    prompt = FORMATS[name]
    readings = KNOWS_QUESTION.get(name, 0)
    count = 1 if readings else min(recipe.questions, num_facts)
    texts, first_asked = [], []
    for _ in range(recipe.batch_size):
        facts = document(source, num_facts, "train", SUBJECTS[:num_subjects])
        chosen = source.sample(range(num_facts), count)
        text = prompt.plan(text_of(facts), facts[chosen[0]].question).text + f" {facts[chosen[0]].value}"
        for index in chosen[1:]:
            text += f"\n{prompt.query(facts[index].question).cue} {facts[index].value}"
        texts.append(text)
        first_asked.append(chosen[0])
    ids = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")["input_ids"]
    cues = _positions(tokenizer, ids, ANSWER)[:, -count:]
    values = _positions(tokenizer, ids, ".") - 1
    asked = F.one_hot(torch.tensor(first_asked), num_facts).float().repeat(1, readings)
    return Batch(ids, cues, values[:, values.shape[1] - readings * num_facts :], asked)


def _positions(tokenizer: Any, ids: Tensor, token: str) -> Tensor:
    """Where a token stands in each row, (B, count); every row holds it equally often."""
    return (ids == tokenizer.convert_tokens_to_ids(token)).nonzero()[:, 1].view(len(ids), -1)


def losses(model: Any, probe: nn.Linear, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Loss on the answers and their ends, loss of the probe, and the share of answers that are right."""
    output = model.backbone(batch.ids, output_hidden_states=True, use_cache=False)
    rows = torch.arange(len(batch.ids))[:, None]
    last = output.last_hidden_state
    logits = model.lm_head(last[rows, batch.cues])
    answers = batch.ids[rows, batch.cues + 1]
    ends = model.lm_head(last[rows, batch.cues + 1])
    answer_loss = F.cross_entropy(logits.flatten(0, 1), answers.flatten())
    end_loss = F.cross_entropy(ends.flatten(0, 1), torch.full_like(answers, model.config.eos_token_id).flatten())
    probe_loss = logits.new_zeros(())
    if batch.values.numel():
        found = probe(output.hidden_states[PROBED_LAYER][rows, batch.values])[..., 0]
        others = batch.asked.shape[1] / batch.asked.sum(1).mean() - 1
        probe_loss = F.binary_cross_entropy_with_logits(found, batch.asked, pos_weight=others)
    return answer_loss + 0.1 * end_loss, probe_loss, (logits.argmax(-1) == answers).float().mean()


class Trainer:
    """The two stages on one model; everything random comes from the recipe's seed."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.source = random.Random(f"tiny-recurrent-{recipe.seed}")
        self.tokenizer = build_tokenizer()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.model = build_model(self.tokenizer).train()
            self.probe = nn.Linear(self.model.config.hidden_size, 1)
        self.parameters = [*self.model.parameters(), *self.probe.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, betas=(0.9, 0.98), weight_decay=0.01)
        self.started = time.perf_counter()

    def step(self, batch: Batch, rate: float, answer_weight: float, probe_weight: float) -> tuple[float, float, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * rate
        answer_loss, probe_loss, right = losses(self.model, self.probe, batch)
        self.optimizer.zero_grad()
        (answer_weight * answer_loss + probe_weight * probe_loss).backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return answer_loss.item(), probe_loss.item(), right.item()

    def find(self) -> int:
        """Stage one; returns the steps it took. A level is passed when the probe is nearly always right."""
        levels = [(8, 4), (16, 4), (32, 6), (64, 6), (64, 10), (64, 16)]  # names, facts
        level, smooth = 0, 1.0
        for step in range(self.recipe.find_steps):
            names, num_facts = levels[level]
            batch = make_batch(self.source, self.tokenizer, "question_first", num_facts, names, self.recipe)
            _, probe_loss, _ = self.step(batch, min(1.0, (step + 1) / 100), answer_weight=0.1, probe_weight=1.0)
            smooth = 0.9 * smooth + 0.1 * probe_loss
            if smooth < 0.15:
                self.say(f"find: {names} names, {num_facts} facts after {step + 1} steps")
                level, smooth = level + 1, 1.0
            if level == len(levels):
                return step + 1
        return self.recipe.find_steps

    def answer(self) -> None:
        """Stage two: documents of 2 up to more and more facts, as the formats that know the question get them right."""
        longest, smooth = 6, dict.fromkeys(FORMATS, 0.0)
        for step in range(self.recipe.answer_steps):
            name = list(FORMATS)[step % len(FORMATS)]
            rate = min(1.0, 2.5 * (1 - step / self.recipe.answer_steps))
            batch = make_batch(
                self.source, self.tokenizer, name, self.source.randint(2, longest), len(SUBJECTS), self.recipe
            )
            _, _, right = self.step(batch, rate, answer_weight=1.0, probe_weight=self.recipe.probe_weight)
            smooth[name] = 0.9 * smooth[name] + 0.1 * right
            if min(smooth[known] for known in KNOWS_QUESTION) > 0.8 and longest < NUM_FACTS:
                longest, smooth = min(longest + 2, NUM_FACTS), dict.fromkeys(FORMATS, 0.0)
            if (step + 1) % 100 == 0:
                shares = ", ".join(f"{key} {100 * value:.0f} %" for key, value in smooth.items())
                self.say(f"answer: step {step + 1}, 2 to {longest} facts: {shares}")

    def say(self, text: str) -> None:
        print(f"{time.perf_counter() - self.started:6.0f} s  {text}", flush=True)


def evaluate(model: Any, tokenizer: Any, *, count: int, seed: int, num_facts: int, split: Split) -> dict[str, Any]:
    """Asks as a user would, greedily, and counts the answers that hold the right value."""
    items = list(documents(seed, count, num_facts, split))
    results = {}
    for name, prompt in FORMATS.items():
        reader = jrt.wrap(model.eval(), prompt, tokenizer=tokenizer)
        plans = [reader.plan(item.context, item.question) for item in items]
        answers = reader.answer_plans(plans, max_new_tokens=MAX_NEW_TOKENS, stop=reader.stop, batch_size=32)
        right = sum(item.answers[0] in answer.text for item, answer in zip(items, answers, strict=True))
        results[name] = {"right": right, "of": count}
    return results


def train(recipe: Recipe) -> tuple[Mamba2ForCausalLM, Any, dict[str, Any]]:
    """Runs the recipe; returns the model, its tokenizer and what there is to say about the run."""
    trainer = Trainer(recipe)
    find_steps = trainer.find()
    trainer.answer()
    record = {
        "recipe": {**recipe.__dict__, "find_steps": find_steps},
        "seconds": round(time.perf_counter() - trainer.started),
        "versions": versions("python", "torch", "transformers", "tokenizers"),
    }
    return trainer.model.eval(), trainer.tokenizer, record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums in a fixed order: the same seed gives the same weights
    model, tokenizer, record = train(Recipe(seed=arguments.seed))
    model.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    record["evaluation"] = {"seed": EVALUATION_SEED, "num_facts": NUM_FACTS, "max_new_tokens": MAX_NEW_TOKENS}
    counts: dict[Split, int] = {"heldout": 500, "train": 200}
    for split, count in counts.items():
        record[split] = evaluate(model, tokenizer, count=count, seed=EVALUATION_SEED, num_facts=NUM_FACTS, split=split)
        print(split, {name: f"{100 * r['right'] / r['of']:.1f} %" for name, r in record[split].items()})
    (arguments.out / "training.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
