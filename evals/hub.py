"""Rows of a data set of the Hugging Face Hub, through `datasets`, which is imported only here and only when needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jrt.errors import HubUnavailableError, MissingDependencyError


def dataset_rows(
    name: str, split: str, *, task: str, columns: str = "id, context, question, answers"
) -> Iterator[dict[str, Any]]:
    """The rows of one split, in their order; they stay in a memory-mapped file, not in memory.

    Args:
        name: the data set, `owner/name`.
        split: which part of it.
        task: the task that asks, for the message.
        columns: what a local file would hold in its place, for the message.

    Raises:
        MissingDependencyError: `datasets` is not installed.
        HubUnavailableError: the data set cannot be had.
    """
    local = f"Or pass a local file with {columns}: --data {task}=FILE.jsonl."
    try:
        import datasets
    except ImportError:
        raise MissingDependencyError(
            f"The task {task} reads {name} from the Hugging Face Hub, which needs the package datasets.",
            f'Type pip install "just-read-twice[evals]". {local}',
        ) from None
    try:
        rows = datasets.load_dataset(name, split=split)
    except Exception as error:  # without a network, datasets, huggingface_hub, httpx and fsspec each raise their own
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise HubUnavailableError(
            f"The task {task} reads {name} from the Hugging Face Hub, which failed: {reason}",
            f"Check the network (and HF_HUB_OFFLINE). {local}",
        ) from error
    yield from rows
