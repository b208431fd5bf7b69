"""Summaries of long documents, from a file of yours or a data set of the Hub; scored with ROUGE, see `jrt.evals.rouge`.

The book summaries of Infini-attention's table (arXiv 2404.07143) are one use; any documents with summaries are another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from jrt.errors import DataFormatError, InvalidOptionError
from jrt.evals.hub import dataset_rows
from jrt.evals.items import Item, Row, plain_item, sample
from jrt.evals.rouge import rouge
from jrt.evals.tasks.base import Kind, Task
from jrt.prompts import JRTPrompt, Plan, Query

QUESTION = "Summarise the text above in one paragraph."


class Summarisation(Task):
    """Write the summary of a document.

    Attributes:
        dataset: a data set of the Hub, `owner/name`; None needs a file.
        split: which part of it.
        document_column: the column that holds the documents.
        summary_column: the column that holds the right summaries: a text, or a list of several.
    """

    name = "summarisation"
    version = 1
    summary = "the summary of a long document, scored with ROUGE; documents come from a file or the Hub"
    metrics: ClassVar[Mapping[str, Kind]] = {"rouge_1": "mean", "rouge_2": "mean", "rouge_l": "mean"}

    dataset: str | None = None
    split: str = "test"
    document_column: str = "document"
    summary_column: str = "summary"

    @property
    def source(self) -> str:
        return f"hub:{self.dataset}" if self.dataset else "file"

    def own_items(self, limit: int | None, seed: int) -> list[Item]:
        if self.dataset is None:
            raise InvalidOptionError(
                "summarisation reads documents from a file or from the Hub, and neither is given.",
                'Add --data summarisation=FILE.jsonl with {"document": ..., "summary": ...} a line, or write '
                "summarisation:dataset=OWNER/NAME,document_column=...,summary_column=....",
            )
        return sample(self._hub_items(self.dataset), limit, seed)

    def _hub_items(self, dataset: str) -> Iterator[Item]:
        columns = f"{self.document_column}, {self.summary_column}"
        for index, row in enumerate(dataset_rows(dataset, self.split, task=self.name, columns=columns)):
            yield self.item({**row, "id": f"{self.name}-{index}"}, index)

    def item(self, row: Row, number: int) -> Item:
        """A row with a document and its summary, or one with `id, context, question, answers`."""
        if "context" in row and "answers" in row:
            return plain_item(row)
        missing = [column for column in (self.document_column, self.summary_column) if column not in row]
        if missing:
            raise DataFormatError(
                f"the row has the columns {', '.join(row) or 'none'}; {', '.join(missing)} is missing.",
                "Name yours: summarisation:document_column=...,summary_column=....",
            )
        common = {"id": row.get("id", f"{self.name}-{number}"), "question": QUESTION}
        return plain_item({**common, "context": row[self.document_column], "answers": row[self.summary_column]})

    def plan(self, item: Item, method: JRTPrompt) -> Plan:
        return method.plan(item.context, Query(item.question, f"{item.question}\nSummary:", joint="\n\n"))

    def scores(self, item: Item, output: str) -> dict[str, float]:
        """ROUGE-1, -2 and -L, 0 to 1. Their geometric mean is one of means, so `jrt.evals.rouge` gives it for a run."""
        found = rouge(output, item.answers)
        return {name: found[name] for name in self.metrics}
