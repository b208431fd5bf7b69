"""Tables in Markdown, as reports, cards and `jrt doctor --markdown` print them."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(columns: Sequence[object], rows: Sequence[Sequence[object]], *, numbers: bool = False) -> str:
    """A table, one line a row.

    Args:
        columns: their names.
        rows: their cells; a bar in a cell is escaped.
        numbers: whether columns after the first are aligned right.
    """
    rule = ["---", *["---:" if numbers else "---"] * (len(columns) - 1)]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in [columns, rule, *rows]
    )
