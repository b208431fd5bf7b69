"""The recipe of `jrt/tiny-based` and `jrt/tiny-jrt-rnn`: a causal model and its twin that reads the prompt as a prefix.

    python -m jrt.training.tiny_based --model jrt-rnn --seed 0 --out checkpoint/

Both have the same layers, the same state and the same number of weights: what JRT-RNN spends on the keys and values of
its prefix, Based has in a wider MLP. Both see the same documents in the same order for the same number of steps: facts
read once, the question after them. What the causal model keeps it has to choose before it knows the question.

JRT-RNN has to find the asked fact while it reads, and for few facts keeping all of them is easier to learn. So in the
first stages a linear probe behind the third layer says at every fact whether it is the asked one, and the answers count
little; the probe is thrown away at the end. Based cannot know that at a fact, so it has no probe, and its answers count
in full from the first step. Documents hold facts of the train split only; the evaluation uses the held-out split.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jrt
from jrt.models import BasedConfig, BasedForCausalLM, JRTConfig, JRTForCausalLM
from jrt.prompts import JRTPrompt
from jrt.training.facts import RELATIONS, SUBJECTS, Fact, Split, documents
from jrt.training.tiny_recurrent import build_tokenizer
from jrt.versions import versions

Kind = Literal["based", "jrt-rnn"]
KINDS: tuple[Kind, ...] = ("based", "jrt-rnn")
PROMPTS = {"once": JRTPrompt(passes=1), "twice": JRTPrompt(passes=2)}
NUM_FACTS = 16
PROBED = 3
EVALUATION_SEED = 1000
MAX_NEW_TOKENS = 8


@dataclass(frozen=True)
class Stage:
    """Steps on documents of `num_facts` facts about some of the first `num_names` names.

    `answer` and `probe` are the weights of JRT-RNN's losses.
    """

    num_names: int
    num_facts: int
    steps: int
    answer: float
    probe: float


@dataclass(frozen=True)
class Recipe:
    """What one run does; the defaults made the shipped checkpoints."""

    seed: int = 0
    batch_size: int = 64
    learning_rate: float = 5e-3
    stages: tuple[Stage, ...] = (
        Stage(8, 4, 350, 0.1, 1.0),
        Stage(16, 4, 100, 0.1, 1.0),
        Stage(32, 6, 120, 0.1, 1.0),
        Stage(64, 6, 100, 0.1, 1.0),
        Stage(64, 10, 80, 0.1, 1.0),
        Stage(64, NUM_FACTS, 80, 0.1, 1.0),
        Stage(64, 4, 100, 1.0, 0.3),
        Stage(64, 8, 150, 1.0, 0.3),
        Stage(64, NUM_FACTS, 400, 1.0, 0.3),
    )

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def longer(self, factor: int) -> Recipe:
        """The same with `factor` times the steps in every stage: what the causal model reaches with more training."""
        return replace(self, stages=tuple(replace(stage, steps=factor * stage.steps) for stage in self.stages))


@dataclass(frozen=True)
class Batch:
    """Documents with one question and its answer each, all of one relation and hence of one length.

    Attributes:
        ids: prompt, answer and end, (B, T).
        values: where the values of the facts stand, (N,).
        asked: which fact is asked for, (B,).
    """

    ids: Tensor
    values: Tensor
    asked: Tensor


class Documents:
    """Draws documents of the train split as token ids: the same as their text through the tokenizer, but faster."""

    def __init__(self, tokenizer: Any, seed: int) -> None:
        self.tokenizer = tokenizer
        self.source = torch.Generator().manual_seed(seed)
        self.names = self._ids(SUBJECTS)
        self.dot, self.end = self._ids(["."]), self._ids([tokenizer.eos_token])
        self.trained = {
            key: torch.tensor(
                [[Fact(name, key, value).split == "train" for value in relation.values] for name in SUBJECTS]
            ).float()
            for key, relation in RELATIONS.items()
        }

    def draw(self, num_names: int, num_facts: int, rows: int) -> Batch:
        """`rows` documents of `num_facts` facts about the first `num_names` names."""
        key = list(RELATIONS)[int(torch.randint(len(RELATIONS), (1,), generator=self.source))]
        relation, values = RELATIONS[key], self._ids(RELATIONS[key].values)
        who = torch.rand(rows, num_names, generator=self.source).argsort(1)[:, :num_facts]
        likely = self.trained[key][who].flatten(0, 1)
        what = torch.multinomial(likely, 1, generator=self.source).view(rows, num_facts)
        asked = torch.randint(num_facts, (rows,), generator=self.source)
        said, dot = self._ids(relation.statement.split()), self.dot.expand(rows, num_facts, 1)
        facts = [self.names[who][..., None], said.expand(rows, num_facts, -1), values[what][..., None], dot]
        ids = torch.cat(facts, 2)
        prompt, asking = PROMPTS["once"], relation.question.replace("{subject}", SUBJECTS[0])
        cue = self.tokenizer(prompt.joint + prompt.query(asking).cue)["input_ids"]
        question = torch.tensor(cue).repeat(rows, 1)
        name, answer = (table.gather(1, asked[:, None]) for table in (self.names[who], values[what]))
        question = torch.where(question == self.names[0], name, question)
        length = ids.shape[2]
        row = torch.cat([ids.flatten(1), question, answer, self.end.expand(rows, 1)], 1)
        return Batch(row, torch.arange(num_facts) * length + length - 2, asked)

    def _ids(self, words: Any) -> Tensor:
        return torch.tensor(self.tokenizer.convert_tokens_to_ids(list(words)))


def build_model(kind: Kind, tokenizer: Any) -> BasedForCausalLM:
    """An untrained model of either kind; a Taylor layer keeps 240 sums of values and 30 of keys.

    Queries and keys start large enough to tell tokens apart, and what is read from a sum over a hundred tokens is
    written out large enough to be seen.
    """
    taylor = "prefix" if kind == "jrt-rnn" else "linear"
    options: dict[str, Any] = dict(
        vocab_size=len(tokenizer),
        hidden_size=32,
        mixers=["conv", taylor, "conv", taylor],
        num_attention_heads=2,
        feature_dim=4,
        value_head_dim=8,
        conv_kernel=6,  # "Answer:" stands four tokens after the name it asks for
        initializer_range=0.177,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    if kind == "based":
        model = BasedForCausalLM(BasedConfig(intermediate_size=36, **options))
    else:
        model = JRTForCausalLM(JRTConfig(intermediate_size=32, mask_token_id=tokenizer.unk_token_id, **options))
    for name, parameter in model.named_parameters():
        layer_is_taylor = "layers.1.mixer" in name or "layers.3.mixer" in name
        if layer_is_taylor and "out_proj" in name:
            parameter.data.mul_(6)
        elif layer_is_taylor and ("proj_q" in name or "proj_k" in name):
            parameter.data.mul_(2)
    return model


def losses(model: BasedForCausalLM, probe: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Loss on the answers and their ends, loss of the probe, and the share of right answers; the prompt is the
    prefix."""
    ids = batch.ids
    read = model.transformer(ids[:, :-1], prefix_length=ids.shape[1] - 2, output_hidden_states=True)
    logits = model.lm_head(read.last_hidden_state[:, -2:])
    answer = F.cross_entropy(logits[:, 0], ids[:, -2]) + 0.1 * F.cross_entropy(logits[:, 1], ids[:, -1])
    found = probe(read.hidden_states[PROBED][:, batch.values])[..., 0]
    others = torch.tensor(float(len(batch.values) - 1))
    asked = F.one_hot(batch.asked, len(batch.values)).float()
    finding = F.binary_cross_entropy_with_logits(found, asked.to(found.dtype), pos_weight=others.to(found.dtype))
    return answer, finding, (logits[:, 0].argmax(-1) == ids[:, -2]).float().mean()


def train(kind: Kind, recipe: Recipe) -> tuple[BasedForCausalLM, Any, dict[str, Any]]:
    """Runs the recipe; returns the model, its tokenizer and what there is to say about the run."""
    tokenizer = build_tokenizer()
    source = Documents(tokenizer, recipe.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = build_model(kind, tokenizer).train()
        probe = nn.Linear(model.config.hidden_size, 1)
    parameters = [*model.parameters(), *(probe.parameters() if kind == "jrt-rnn" else [])]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.01)
    started, done, smooth = time.perf_counter(), 0, 0.0
    for stage in recipe.stages:
        for _ in range(stage.steps):
            batch = source.draw(stage.num_names, stage.num_facts, recipe.batch_size)
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * min(1.0, (done + 1) / 50, 2.5 * (1 - done / recipe.steps))
            answer, finding, right = losses(model, probe, batch)
            optimizer.zero_grad()
            (answer if kind == "based" else stage.answer * answer + stage.probe * finding).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            done, smooth = done + 1, 0.95 * smooth + 0.05 * right.item()
            if done % 50 == 0:
                where = f"{stage.num_names} names, {stage.num_facts} facts"
                told = f"{100 * smooth:.0f} % right, probe {finding.item():.2f}"
                print(f"{time.perf_counter() - started:6.0f} s  step {done}, {where}: {told}", flush=True)
    record = {
        "model": kind,
        "parameters": model.num_parameters(),
        "recipe": asdict(recipe),
        "seconds": round(time.perf_counter() - started),
        "versions": versions("python", "torch", "transformers", "tokenizers"),
    }
    return model.eval(), tokenizer, record


def evaluate(model: Any, tokenizer: Any, *, count: int, seed: int, num_facts: int, split: Split) -> dict[str, Any]:
    """Asks as a user would, greedily, and counts the answers that hold the right value."""
    items = list(documents(seed, count, num_facts, split))
    results = {}
    for name, prompt in PROMPTS.items():
        reader = jrt.wrap(model.eval(), prompt, tokenizer=tokenizer)
        plans = [reader.plan(item.context, item.question) for item in items]
        answers = reader.answer_plans(plans, max_new_tokens=MAX_NEW_TOKENS, stop=reader.stop, batch_size=50)
        right = sum(item.answers[0] in answer.text for item, answer in zip(items, answers, strict=True))
        results[name] = {"right": right, "of": count}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=KINDS, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longer", type=int, default=1, metavar="FACTOR", help="steps are multiplied by this")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums in a fixed order: the same seed gives the same weights
    model, tokenizer, record = train(arguments.model, Recipe(seed=arguments.seed).longer(arguments.longer))
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
