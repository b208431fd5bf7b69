"""What a task is: where its items come from, how a question becomes a prompt, how a document is cut.

A task is a frozen pydantic model, so its options have names, types and defaults, and the shorthand
`name:option=value,option=value` makes one. `version` is raised whenever a change could change a score.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from jrt.errors import InvalidOptionError, did_you_mean
from jrt.evals.items import Item, Row, check_limit, plain_item, read_items, sample

if TYPE_CHECKING:
    from jrt.prompts import JRTPrompt, Plan
    from jrt.prompts.window import Decode, Encode

DEFAULT_COUNT = 200
"""How many items a generated task has when there is no limit."""


Kind = Literal["share", "mean"]
"""What the mean of a metric is: a share of right items, with Wilson's interval, or a mean, with the bootstrap's."""


class Cut(NamedTuple):
    """How documents are cut: to `context_length` tokens less those kept free for the answer, by a rule."""

    rule: Literal["compat", "strict"]
    context_length: int
    encode: Encode
    decode: Decode


class Task(BaseModel):
    """Base of all tasks."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str]
    version: ClassVar[int]
    summary: ClassVar[str]
    cuts: ClassVar[bool] = False
    """Whether documents can be cut to a context length."""
    metrics: ClassVar[Mapping[str, Kind]] = {}
    """What `scores` gives, besides the metrics of every task; each has a column in results."""
    shown: ClassVar[tuple[str, ...]] = ()
    """Options that the shorthand shows even at their defaults, because results differ in kind by them."""

    def __init__(self, **options: Any) -> None:
        try:
            super().__init__(**options)
        except ValidationError as error:
            raise InvalidOptionError(_explain(type(self), error)) from None

    def items(self, *, limit: int | None = None, seed: int = 0, path: Path | None = None) -> list[Item]:
        """The items of a run.

        Args:
            limit: how many; None is all that there are.
            seed: draws the sample, or the items themselves where they are generated.
            path: a JSONL file to read instead of the task's own source.

        Raises:
            DataFormatError: the file is broken; the message names the line.
            InvalidOptionError: `limit` is below 1.
        """
        check_limit(limit)
        if path is None:
            return self.own_items(limit, seed)
        return sample(read_items(path, self.item), limit, seed)

    @abstractmethod
    def own_items(self, limit: int | None, seed: int) -> list[Item]:
        """The items when no file is given."""
        raise NotImplementedError

    @property
    @abstractmethod
    def source(self) -> str:
        """Where `own_items` come from."""
        raise NotImplementedError

    def item(self, row: Row, number: int) -> Item:
        """The item of one row of a file; `number` is its line.

        Raises:
            DataFormatError: a column is missing, empty or of another type.
        """
        return plain_item(row)

    def plan(self, item: Item, method: JRTPrompt) -> Plan:
        """The prompt of one item."""
        return method.plan(item.context, item.question)

    def scores(self, item: Item, output: str) -> dict[str, float]:
        """The task's own `metrics` of one answer, 0 to 1; `output` is the answer up to its first newline."""
        return {}

    def cut(self, item: Item, cut: Cut) -> Item | None:
        """The item with its document cut to a window; None where the rule drops it.

        Raises:
            InvalidOptionError: documents of this task are not cut.
        """
        raise InvalidOptionError(
            f"The documents of {self.name} are not cut to a context length.",
            f"Leave out context_length, or choose the length by an option of {self.name}: "
            f"{', '.join(type(self).model_fields) or 'it has none'}.",
        )

    def __str__(self) -> str:
        """The shorthand that makes this task again."""
        changed = self.model_dump(exclude_defaults=True)
        options = ",".join(
            f"{name}={value}" for name, value in self.model_dump().items() if name in changed or name in self.shown
        )
        return f"{self.name}:{options}" if options else self.name


class GeneratedTask(Task):
    """A task whose items are drawn: item i depends on the seed, the options and i only."""

    @abstractmethod
    def generate(self, generator: random.Random, name: str) -> Item:
        """Draws one item called `name`."""
        raise NotImplementedError

    def own_items(self, limit: int | None, seed: int) -> list[Item]:
        return [self.generate(generator, name) for name, generator in self.sources(limit or DEFAULT_COUNT, seed)]

    def sources(self, count: int, seed: int) -> Iterator[tuple[str, random.Random]]:
        """The name of every item and what it is drawn with."""
        for index in range(count):
            name = f"{self.name}-{seed}-{index}"
            yield name, random.Random(f"{self}/{name}")

    @property
    def source(self) -> str:
        return "generated"


def _explain(owner: type[Task], error: ValidationError) -> str:
    """pydantic's findings as sentences, with the closest option name for an unknown one."""
    sentences = []
    for finding in error.errors():
        option = ".".join(str(part) for part in finding["loc"])
        if finding["type"] == "extra_forbidden":
            sentences.append(
                f"The task {owner.name} has no option {option!r}.{did_you_mean(option, owner.model_fields)}"
            )
        else:
            message = finding["msg"].removeprefix("Value error, ")
            sentences.append(f"{owner.name}:{option}={finding['input']!r}: {message}.")
    return " ".join(sentences)
