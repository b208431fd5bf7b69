"""Key-value retrieval: the value of one of many random keys of a JSON object (arXiv 2307.03172, section 3)."""

from __future__ import annotations

import json
import random
import uuid

from pydantic import Field

from jrt.evals.items import Item
from jrt.evals.tasks.base import GeneratedTask
from jrt.prompts import JRTPrompt, Plan, Query


class KVRetrieval(GeneratedTask):
    """Look up a random key, where nothing but exact recall helps.

    Attributes:
        num_pairs: keys in the object; the paper uses 75, 140 and 300.
    """

    name = "kv_retrieval"
    version = 1
    summary = "the value of a random key of a JSON object"

    num_pairs: int = Field(default=75, ge=1, strict=True)

    def generate(self, generator: random.Random, name: str) -> Item:
        pairs = {_uuid(generator): _uuid(generator) for _ in range(self.num_pairs)}
        key = generator.choice(list(pairs))
        lines = ",\n ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in pairs.items())
        return Item(name, "{" + lines + "}", key, (pairs[key],))

    def plan(self, item: Item, method: JRTPrompt) -> Plan:
        sentence = f'Extract the value of the key "{item.question}" from the JSON object below.'
        return method.plan(item.context, Query(sentence, f'Key: "{item.question}"\nCorresponding value:', joint="\n\n"))


def _uuid(generator: random.Random) -> str:
    return str(uuid.UUID(int=generator.getrandbits(128), version=4))
