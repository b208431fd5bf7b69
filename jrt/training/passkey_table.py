"""How often a model with Infini-attention finds the hidden number: by length, by depth, inside a segment and across a
border.

    python -m jrt.training.passkey_table checkpoint/ --tokens 16384 1048576 --count 15 --out table.json

Four depths are read: the start, the middle, the end, and a random one (`--depths` names fewer). Documents are drawn
with another seed than any training document. A row counts as right when greedy decoding would give exactly the number
and then the end. What is read is streamed through the cache, so memory does not grow with the length.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import jrt
from jrt.training.passkeys import Filler, Passkey, document, tokens_of
from jrt.training.tiny_infini import END, SEGMENT_LENGTH, endings

DEPTHS: dict[str, float | None] = {"start": 0.0, "middle": 0.5, "end": 1.0, "random": None}
CHUNK = 4096
"""Tokens a row in one forward."""
SHUT = -1e4
"""The logit of a gate that lets nothing of the memory through."""


@dataclass(frozen=True)
class Item:
    """A document with question and answer as tokens, and where its number is hidden."""

    depth: str
    made: Passkey
    tokens: list[str]

    @property
    def place(self) -> str:
        """`local` where the answer's own segment holds a part of the hidden sentences, `straddling` where a border cuts
        them, `inside` otherwise. The memory is needed for the last two."""
        answered_in = (len(self.tokens) - 3) // SEGMENT_LENGTH
        if (self.made.start + self.made.length - 1) // SEGMENT_LENGTH == answered_in:
            return "local"
        return "straddling" if self.made.straddles(SEGMENT_LENGTH) else "inside"


def draw(depth: str, num_tokens: int, index: int, seed: int, filler: Filler) -> Item:
    """Item `index` of `num_tokens` tokens in all, answer and end included; half of them end in each cue."""
    source = random.Random(f"passkey-table-{seed}-{num_tokens}-{depth}-{filler}-{index}")
    ending = tokens_of(endings()[index % 2])
    made = document(source, num_tokens - len(ending) - 3, DEPTHS[depth], filler)
    return Item(depth, made, [*made.tokens, *ending, *tokens_of(made.key), END])


@torch.no_grad()
def right(model: Any, tokenizer: Any, items: list[Item]) -> list[bool]:
    """Whether greedy decoding gives the number and the end, for items of one length."""
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(item.tokens) for item in items])
    cache, logits = None, torch.empty(0)
    read = ids[:, :-1]
    for start in range(0, read.shape[1], CHUNK):
        stop = start + CHUNK
        if 0 < read.shape[1] - stop < 3:  # the three answers stay together
            stop = read.shape[1]
        if start >= read.shape[1] or (start and read.shape[1] - start < 3):
            break
        output = model(read[:, start:stop], past_key_values=cache, use_cache=True, logits_to_keep=3)
        cache, logits = output.past_key_values, output.logits
    found: Tensor = (logits.argmax(-1) == ids[:, -3:]).all(1)
    return found.tolist()


def measure(
    model: Any,
    tokenizer: Any,
    num_tokens: int,
    count: int,
    seed: int,
    filler: Filler,
    rows: int,
    depths: Sequence[str] = tuple(DEPTHS),
) -> dict[str, Any]:
    """One length: `count` items a depth, read `rows` at once."""
    indices = [(depth, index) for index in range(count) for depth in depths]
    found, places, of_depths, of_places = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    started, used = time.perf_counter(), time.process_time()
    for start in range(0, len(indices), rows):
        items = [draw(depth, num_tokens, index, seed, filler) for depth, index in indices[start : start + rows]]
        for item, ok in zip(items, right(model, tokenizer, items), strict=True):
            of_depths[item.depth] += 1
            of_places[item.place] += 1
            found[item.depth] += ok
            places[item.place] += ok
        print(f"{num_tokens} tokens: {sum(found.values())} of {sum(of_depths.values())}", flush=True)
    return {
        "tokens": num_tokens,
        "filler": filler,
        "right": sum(found.values()),
        "of": len(indices),
        "depths": {depth: [found[depth], of_depths[depth]] for depth in depths},
        "places": {place: [places[place], of_places[place]] for place in sorted(of_places)},
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - used, 1),
        "peak_resident_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder of jrt.training.tiny_infini, or jrt/tiny-infini")
    parser.add_argument("--tokens", type=int, nargs="+", required=True)
    parser.add_argument("--count", type=int, default=15, help="items a depth and length")
    parser.add_argument("--depths", choices=list(DEPTHS), nargs="+", default=list(DEPTHS))
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--filler", choices=["varied", "cycle"], default="varied")
    parser.add_argument("--rows", type=int, default=20, help="documents read at once")
    parser.add_argument("--memory", choices=["on", "off"], default="on", help="off shuts every gate")
    parser.add_argument("--out", type=Path, required=True, help="JSON; lengths that it has already are kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    reader = jrt.load(arguments.model, device="cpu")
    model = reader.model.eval()
    if arguments.memory == "off":
        with torch.no_grad():
            for gate in model.gates.values():
                gate.fill_(SHUT)
    table = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
    for num_tokens in arguments.tokens:
        row = measure(
            model,
            reader.tokenizer,
            num_tokens,
            arguments.count,
            arguments.seed,
            arguments.filler,
            arguments.rows,
            arguments.depths,
        )
        command = " ".join(["python -m jrt.training.passkey_table", *sys.argv[1:]])
        table.append({"memory": arguments.memory, "seed": arguments.seed, **row, "command": command})
        arguments.out.write_text("[\n" + ",\n".join("  " + json.dumps(row) for row in table) + "\n]\n")


if __name__ == "__main__":
    main()
