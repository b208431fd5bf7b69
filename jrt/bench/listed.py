"""Options that are lists of numbers, e.g. `--lengths 512,2048`."""

from __future__ import annotations

from jrt.errors import InvalidOptionError


def numbers(listed: str, option: str) -> list[int]:
    """The numbers of a comma-separated list; none for an empty one.

    Raises:
        InvalidOptionError: a part is no number of 1 or more.

    Example:
        >>> numbers("512, 2048", "--lengths")
        [512, 2048]
    """
    parts = [part.strip() for part in listed.split(",")] if listed.strip() else []
    for part in parts:
        if not part.isdecimal() or int(part) == 0:
            raise InvalidOptionError(f"{option} {listed!r}: {part!r} is no number of 1 or more.", f"{option} 512,2048")
    return [int(part) for part in parts]
