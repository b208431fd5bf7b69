"""What a benchmark returns: numbers with everything that is needed to measure them again."""

from __future__ import annotations

import itertools
import json
import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from jrt.files import write_text
from jrt.versions import versions


def machine() -> dict[str, Any]:
    """Processor, threads, load and GPU of this machine, now."""
    import torch

    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


class Report(BaseModel):
    """One run of a benchmark.

    Attributes:
        name: the benchmark's.
        target: what was promised, in words.
        settings: the options of the run.
        rows: measurements, each a flat dictionary; the keys are the table's columns (rows with other keys make
            a table of their own).
        formats: how numbers of a column are shown, e.g. {"OPT-125M": ".2f"}; other numbers have three digits.
        notes: what one has to know to read the table.
        command: what to type to measure again.
        created: when, in UTC, ISO 8601.
        versions: of jrt, torch and transformers.
        machine: where.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    target: str
    settings: dict[str, Any]
    rows: list[dict[str, Any]]
    formats: dict[str, str] = {}
    notes: str = ""
    command: str = ""
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    versions: dict[str, str] = Field(default_factory=lambda: versions("torch", "transformers"))
    machine: dict[str, Any] = Field(default_factory=machine)

    def tables(self) -> Iterator[tuple[list[str], list[list[str]]]]:
        """(columns, cells) of every run of rows that have the same columns."""
        for columns, rows in itertools.groupby(self.rows, key=list):
            styles = [self.formats.get(column, ".3g") for column in columns]
            yield (
                columns,
                [[_cell(value, style) for value, style in zip(row.values(), styles, strict=True)] for row in rows],
            )

    def save(self, path: Path) -> None:
        """Writes the report as JSON, in one step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n")


def _cell(value: Any, style: str) -> str:
    if value is None:
        return ""
    return format(value, style) if isinstance(value, float) else str(value)


def _processor() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
