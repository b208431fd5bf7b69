"""What the six recall tasks have in common: published data on the Hub, or a local file.

Their prompts and windows are those of `jrt.prompts`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

from jrt.errors import DataFormatError
from jrt.evals.hub import dataset_rows
from jrt.evals.items import Item, Row, plain_item, sample
from jrt.evals.tasks.base import Cut, Task
from jrt.prompts import JRTPrompt, Plan, cut_row, document_column, labels, render
from jrt.prompts.recall_tasks import COLUMNS, has_published_columns

SPLIT = "validation"
"""The only split that the published data sets have."""


class RecallTask(Task):
    """A recall task of arXiv 2407.05483, table 1."""

    cuts = True
    dataset: ClassVar[str]

    @property
    def dataset_name(self) -> str:
        """The data set on the Hub."""
        return self.dataset

    @property
    def source(self) -> str:
        return f"hub:{self.dataset_name}"

    def own_items(self, limit: int | None, seed: int) -> list[Item]:
        return sample(self._hub_items(), limit, seed)

    def _hub_items(self) -> Iterator[Item]:
        for index, row in enumerate(dataset_rows(self.dataset_name, SPLIT, task=self.name)):
            yield self.item({**row, "id": f"{self.name}-{index}"}, index)

    def item(self, row: Row, number: int) -> Item:
        """A row of the published data set, or one with `id, context, question, answers`."""
        if not has_published_columns(self.name, row):
            if "context" not in row or "question" not in row:
                columns = ", ".join(COLUMNS[self.name])
                raise DataFormatError(
                    f"the row has the columns {', '.join(row) or 'none'}, which {self.name} cannot read.",
                    f"Give every row id, context, question and answers, or the published columns {columns}.",
                )
            return plain_item(row)
        question = row["question"] if "question" in row else f"{row['key']}:"
        common = {"id": row.get("id", f"{self.name}-{number}"), "context": row[document_column(self.name, row)]}
        item = plain_item({**common, "question": question, "answers": list(labels(self.name, row))})
        if self.name == "squad":
            item = replace(item, context=row["context"])
        known = ("id", "context", "question", "answers")
        return replace(item, extras={column: row[column] for column in row if column not in known})

    def plan(self, item: Item, method: JRTPrompt) -> Plan:
        return render(self.name, item.row, method)

    def cut(self, item: Item, cut: Cut) -> Item | None:
        row = cut_row(
            self.name,
            item.row,
            rule=cut.rule,
            encode=cut.encode,
            decode=cut.decode,
            context_length=cut.context_length,
        )
        return None if row is None else self.item(row, 0)
