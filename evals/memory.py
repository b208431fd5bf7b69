"""How far a memory carries: `memorize`, `detect` and `reason` at any number of segments, in constant memory.

    python -m jrt.evals.memory jrt/tiny-rmt --segments 64,512,1024,4096 --limit 500 --out results/seed-0.json

Reads with an encoder under `jrt.RMT` that classifies into answers, places among them, as `jrt/tiny-rmt` does, and whose
tokens are words: lengths and places are counted in words, and a text is given as the tokens of its words. Texts are
given in parts of some segments with the memory handed from one part to the next, so neither the length nor the number
of texts changes what is held. Beside the score stands that of the same weights without a memory (only the last segment
is read), which can answer only where the facts happen to stand there. Scores come by place, by tenth of the text in
which the asked fact stands, and for facts that the border of two segments cuts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import jrt
from jrt.adapters.rmt import SegmentMethod
from jrt.errors import JRTError, UnsupportedModelError
from jrt.evals.statistics import wilson
from jrt.evals.tasks.base import DEFAULT_COUNT
from jrt.evals.tasks.places import PlacesTask
from jrt.evals.tasks.registry import task_class
from jrt.training.passages import Passage
from jrt.training.places import KINDS, PLACES
from jrt.versions import versions

ROWS = 100
"""Texts that are read at once: few enough for the activations to stay in a processor's cache."""
SEGMENTS_AT_ONCE = 16


@dataclass(frozen=True)
class Answered:
    """One item and what was said.

    Attributes:
        answer: the right place.
        said: what was answered; wrong where it is no place.
        said_without_memory: what the last segment alone gives.
        position: where the asked fact begins, in words and marks.
        length: of the text.
        cut: whether the border of two segments cuts the asked fact.
        in_last: whether every fact begins in the last segment.
    """

    answer: str
    said: str
    said_without_memory: str
    position: int
    length: int
    cut: bool
    in_last: bool


def answered(reader: jrt.Reader, task: PlacesTask, *, limit: int = DEFAULT_COUNT, seed: int = 0) -> list[Answered]:
    """Asks the first `limit` items of a task; they are those of `task.items(limit=limit, seed=seed)`.

    Args:
        reader: an encoder that classifies into answers under `jrt.RMT`, whose segments are as long as the task's.
        task: what is asked.
        limit: how many items.
        seed: of the items.

    Raises:
        UnsupportedModelError: the model's tokens are no words; see `token_ids`.
    """
    table = token_ids(reader, task)
    found: list[Answered] = []
    drawn: list[Passage] = []
    for number, (_, generator) in enumerate(task.sources(limit, seed), start=1):
        drawn.append(task.passage(generator))
        if len(drawn) == ROWS or number == limit:
            found += _answer(reader, task, table, drawn)
            drawn = []
    return found


def token_ids(reader: jrt.Reader, task: PlacesTask) -> NDArray[np.int64]:
    """The token of every word and mark of a task, (V,).

    With the user's own text (`task.text`), words may be unknown to the model; generated ones it has to know.

    Raises:
        UnsupportedModelError: a word is several tokens, or an unknown one, or another one at the beginning of a text.
    """
    tokenizer, pieces = reader.need_tokenizer(), task.passages.vocabulary
    words = [piece.strip() for piece in pieces]
    inside, alone = (tokenizer(parts, add_special_tokens=False)["input_ids"] for parts in (pieces, words))
    unknown = tokenizer.unk_token_id if task.text is None else None
    wrong = [
        repr(word)
        for word, ids, first in zip(words, inside, alone, strict=True)
        if len(ids) != 1 or ids != first or ids[0] == unknown
    ]
    if wrong:
        raise UnsupportedModelError(
            f"The tokenizer of {reader.name} has no single token for {', '.join(wrong[:3])}"
            f"{' and others' if len(wrong) > 3 else ''}; here every word is one token.",
            "How often such an encoder is right on held-out facts stands in the training.json that jrt train wrote; "
            "a decoder with any tokenizer is measured by jrt eval --tasks memorize,detect,reason.",
        )
    return np.array(inside, dtype=np.int64)[:, 0]


@torch.inference_mode()
def _answer(reader: jrt.Reader, task: PlacesTask, table: NDArray[np.int64], drawn: list[Passage]) -> list[Answered]:
    model, width = reader.model, task.segment_length
    texts = np.stack([passage.pieces for passage in drawn])
    memory, step = None, SEGMENTS_AT_ONCE * width
    for begin in range(0, task.length, step):
        output = model(_tensor(table[texts[:, begin : begin + step]], model), memory=memory)
        memory = output.memory
    alone = model(_tensor(table[texts[:, -width:]], model)).logits
    said, said_alone = (_said(model, logits) for logits in (output.logits, alone))
    return [
        Answered(
            answer=passage.answer,
            said=with_memory,
            said_without_memory=without,
            position=passage.offsets[passage.asked],
            length=task.length,
            cut=len(passage.segments(width)[passage.asked]) > 1,
            in_last=min(passage.offsets) >= task.length - width,
        )
        for passage, with_memory, without in zip(drawn, said, said_alone, strict=True)
    ]


def _tensor(ids: NDArray[np.int64], model: Any) -> Tensor:
    return torch.from_numpy(ids).to(model.device)


def _said(model: Any, logits: Tensor) -> list[str]:
    return [model.config.id2label[index] for index in logits.argmax(-1).tolist()]


def summary(items: Sequence[Answered]) -> dict[str, Any]:
    """Shares with Wilson's 95 % intervals: of all items, by place, by tenth of the text, and of cut facts."""
    tenths = [item.position * 10 // item.length for item in items]
    return {
        "all": _share(items),
        "without_memory": _share(items, without_memory=True),
        "facts_in_last_segment": sum(item.in_last for item in items),
        "by_place": {place: _share([item for item in items if item.answer == place]) for place in PLACES},
        "by_tenth": [_share([i for i, at in zip(items, tenths, strict=True) if at == tenth]) for tenth in range(10)],
        "cut": _share([item for item in items if item.cut]),
    }


def _share(items: Sequence[Answered], *, without_memory: bool = False) -> dict[str, Any] | None:
    """Right and asked with the interval in percent; None where nothing was asked."""
    if not items:
        return None
    right = sum((item.said_without_memory if without_memory else item.said) == item.answer for item in items)
    estimate = wilson(right, len(items))
    return {"right": right, "of": len(items), **{k: round(100 * v, 2) for k, v in estimate._asdict().items()}}


def measure(
    reader: jrt.Reader, kinds: Sequence[str], segments: Sequence[int], *, split: str, limit: int, seed: int
) -> Iterator[dict[str, Any]]:
    """One record for each task and number of segments."""
    for count in segments:
        for kind in kinds:
            task = task_class(kind)(num_segments=count, segment_length=reader.model.segment_length, split=split)
            assert isinstance(task, PlacesTask)
            started = time.perf_counter()
            items = answered(reader, task, limit=limit, seed=seed)
            seconds = round(time.perf_counter() - started, 1)
            yield {"task": str(task), "kind": kind, "segments": count, "seconds": seconds, **summary(items)}


def _reader(name: str) -> jrt.Reader:
    """A reader whose model can be asked.

    Raises:
        UnsupportedModelError: it is no classifier with `jrt.RMT` or `jrt.ARMT` around it.
    """
    reader = jrt.load(name, device="cpu")
    if not isinstance(getattr(reader.model, "method", None), SegmentMethod) or PLACES[0] not in reader.config.label2id:
        raise UnsupportedModelError(
            f"{name} is no classifier of places that reads in segments.",
            "Pass jrt/tiny-rmt or a model trained like it.",
        )
    return reader


def _counts(text: str) -> list[int]:
    """Positive numbers with commas between them, each once."""
    if not all(part.strip().isdecimal() and int(part) > 0 for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of positive numbers such as 64,512.")
    return list(dict.fromkeys(int(part) for part in text.split(",")))


def _count(text: str) -> int:
    if len(found := _counts(text)) != 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number.")
    return found[0]


def _kinds(text: str) -> list[str]:
    if unknown := [name for name in text.split(",") if name not in KINDS]:
        raise argparse.ArgumentTypeError(f"there is no task {unknown[0]!r} here; there are {', '.join(KINDS)}.")
    return list(dict.fromkeys(text.split(",")))


def _file(text: str) -> Path:
    if (path := Path(text)).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder; name a file in it, such as {path / 'run-64.json'}.")
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder, a Hub id or jrt/tiny-rmt")
    parser.add_argument("--tasks", type=_kinds, default=",".join(KINDS))
    parser.add_argument("--segments", type=_counts, default="64,512,1024,4096")
    parser.add_argument("--split", choices=("train", "heldout"), default="heldout")
    parser.add_argument("--limit", type=_count, default=500, help="items a task and number of segments")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=_file, required=True, help="RUN-ANYTHING.json for jrt.evals.memory_table")
    return parser


def main() -> None:
    parser = _parser()
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        _write_report(arguments)
    except JRTError as error:
        parser.error(str(error))


def _write_report(arguments: argparse.Namespace) -> None:
    """Measures, and writes what there is so far after every task and number of segments."""
    reader = _reader(arguments.model)
    report: dict[str, Any] = {
        "command": "python -m jrt.evals.memory " + " ".join(sys.argv[1:]),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "method": reader.model.method.to_dict(),
        "limit": arguments.limit,
        "seed": arguments.seed,
        "split": arguments.split,
        "versions": versions("python", "torch", "transformers"),
        "results": [],
    }
    options: dict[str, Any] = {"split": arguments.split, "limit": arguments.limit, "seed": arguments.seed}
    for record in measure(reader, arguments.tasks, arguments.segments, **options):
        report["results"].append(record)
        shares = f"{record['all']['value']} % [{record['all']['low']}, {record['all']['high']}]"
        print(f"{record['segments']:6} {record['kind']:9} {shares} in {record['seconds']} s", flush=True)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
