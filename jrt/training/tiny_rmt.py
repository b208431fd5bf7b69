"""The recipe of `jrt/tiny-rmt`: a BERT of 123 thousand weights that reads thousands of segments, trained on at most 7.

    python -m jrt.training.tiny_rmt --seed 0 --out checkpoint/
    python -m jrt.training.tiny_rmt --seed 0 --memory replace --out control/

One model for three tasks (`jrt.training.passages`): *memorize*, *detect* and *reason*, whose facts are hidden in varied
sentences. The memory is `jrt.RMT` around transformers' `BertForSequenceClassification`; nothing else is changed. Four
stages, each with an optimizer of its own:

1. *Answer*: one segment. What takes long is to match a question's direction with a relation's, and hardly any text
   rewards it at first: a guess between two places is right half of the time, and other hints do better. So it begins
   with pairs of relations that only their directions tell apart, and with questions in the words of the fact. Behind a
   segment without a fact every place is to be equally likely; otherwise the model learns which relations are in
   training, and rules the others out. Most of the later relations are of a place and a town, which no task asks about:
   with so many of them it pays to learn what a relation is instead of which there are.
2. *Carry*: two segments in the same order, and then a segment more at a time, the facts mostly before the last one. A
   level is passed when the last 20 batches of the longest texts were good enough, or after some steps. Half of the
   batches have any number of segments up to that, so that short texts are not forgotten. A memory is slow to hold
   directions as long as only a match of two of them shows whether it does; so relations are asked for their directions
   too ("Locate the garden from the office."), in all stages.
3. *Match*: two segments. Where both relations are on one axis, their directions tell nothing as long as the memory does
   not hold which place was named first. So only such pairs come first, and directions are asked for from the place that
   both relations name, for which half of the relations have to be turned around.
4. *Hold*: up to seven segments. A penalty on the mean gate asks the memory to write nothing where there is nothing to
   write (it is there in the last level of the second stage too). Gates that are open in segments without any part of a
   fact are pressed shut, in the texts and in a fresh distractor after them, and the widest gate of a segment that holds
   a fact, or as much of one as it takes to tell, is pressed open. So training knows where the facts are.

There are four memories with as many weights (`--memory`): the one above (`gated`), the same without being told where
the facts are (`penalty`), the paper's update (`replace`), and ARMT's associative memory (`armt`). `--short` compares
them on *memorize* and *detect* alone, with fewer steps.

Every stage begins with what the one before has saved, so a run that was stopped goes on there to the same weights.
Texts hold facts of the train split only. How the model reads thousands of segments: `jrt.evals.memory`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

import jrt
from jrt.adapters.armt import ARMT
from jrt.adapters.rmt import RMT, SegmentMethod
from jrt.errors import InvalidOptionError, JRTError
from jrt.training.distractors import Distractors
from jrt.training.passages import Passages
from jrt.training.place_batches import ANSWERS, SEGMENT_LENGTH
from jrt.training.places import KINDS, Split
from jrt.training.tiny_rmt_recipe import Memory, Recipe
from jrt.training.tiny_rmt_trainer import Trainer
from jrt.versions import versions

PAD, UNKNOWN, START, SEPARATOR = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
SPLITS: tuple[Split, ...] = ("train", "heldout")


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


def build_method(tokenizer: Any, recipe: Recipe) -> SegmentMethod:
    """The memory of a recipe."""
    shared = {"num_memory_tokens": recipe.num_memory_tokens, "segment_length": SEGMENT_LENGTH, "initial_std": 0.12}
    if recipe.memory == "armt":
        return ARMT.for_tokenizer(tokenizer, key_width=8, **shared)
    if not recipe.gated:
        return RMT.for_tokenizer(tokenizer, **shared)
    return RMT.for_tokenizer(tokenizer, update="gated", write_penalty=recipe.write_penalty, **shared)


def build_model(tokenizer: Any, recipe: Recipe) -> Any:
    """An untrained BERT under a memory.

    The usual standard deviation of 0.02 is for models 16 times as wide. Positions begin as sinusoids, three times as
    large as words: "the word before this one" is then easy to attend to.
    """
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=160 if recipe.memory == "armt" else 192,
        hidden_act="relu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=SEGMENT_LENGTH + recipe.num_memory_tokens + 3,
        type_vocab_size=1,
        initializer_range=0.12,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(ANSWERS)),
        label2id={answer: index for index, answer in enumerate(ANSWERS)},
        attn_implementation="eager",  # of the first stage; what is loaded has the default
    )
    model = BertForSequenceClassification(config)
    positions = model.bert.embeddings.position_embeddings.weight
    half = config.hidden_size // 2
    angles = torch.arange(len(positions))[:, None] * torch.exp(-math.log(100.0) * torch.arange(half) / half)
    with torch.no_grad():
        positions.copy_(3 * config.initializer_range * torch.cat([angles.sin(), angles.cos()], dim=1))
    return build_method(tokenizer, recipe).adapt(model)


def untrained(recipe: Recipe) -> tuple[Any, Any]:
    """The model that a seed begins with, and its tokenizer."""
    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return build_model(tokenizer, recipe), tokenizer


def save(model: Any, tokenizer: Any, recipe: Recipe, seconds: float, folder: Path) -> None:
    """Writes what `jrt.load` reads, and `training.json`: what was run and how long it took."""
    record = {
        "recipe": asdict(recipe),
        "weights": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": round(seconds),
        "versions": versions("python", "torch", "transformers", "tokenizers", "numpy"),
    }
    jrt.Reader(model, [model.method], tokenizer).save_pretrained(folder, include_model=True)
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n")


def train(recipe: Recipe, out: Path) -> None:
    """All stages; each is saved in a folder of its own, the last one in `out` as well.

    Raises:
        InvalidOptionError: `out` holds stages of another recipe.
    """
    model, tokenizer = untrained(recipe)
    seconds = 0.0
    for stage in recipe.stages:
        folder = out / stage.name
        if (folder / "training.json").is_file():
            if json.loads((folder / "training.json").read_text())["recipe"] != json.loads(json.dumps(asdict(recipe))):
                raise InvalidOptionError(f"{folder} was trained by another recipe.", "Name another folder.")
        else:
            started = time.perf_counter()
            Trainer(recipe, stage, model, tokenizer).run()
            seconds += time.perf_counter() - started
            save(model, tokenizer, recipe, seconds, folder)
        reader = jrt.load(str(folder), device="cpu", dtype="float32")
        model, tokenizer = reader.model, reader.tokenizer
        seconds = json.loads((folder / "training.json").read_text())["seconds"]
    save(model, tokenizer, recipe, seconds, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", choices=get_args(Memory), default="gated")
    parser.add_argument("--short", action="store_true", help="memorize and detect alone")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums in a fixed order: the same seed gives the same weights
    recipe = Recipe.comparison if arguments.short else Recipe
    try:
        train(recipe(seed=arguments.seed, memory=arguments.memory), arguments.out)
    except JRTError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
