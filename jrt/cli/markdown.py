"""The page around the table of architectures: `jrt doctor --architectures --markdown` is the only source of
`jrt/state/README.md`."""

from __future__ import annotations

import platform
from importlib.metadata import version

_PAGE = """# jrt.state: exact continuation, by architecture

A captured state is only worth something if continuing from it gives what the full prompt gives. transformers does not
promise that: some scans restart from zero when several tokens follow a state, some positions are counted wrongly, some
rows of a batch disturb each other, some caches take no beams. `jrt.probe` finds out by tiny forwards what a model can
do, and `jrt.state.advance` then takes the fastest way that is exact.

Made by

    jrt doctor --architectures --markdown > jrt/state/README.md

with {versions},
on tiny random models, float32, CPU. An error is the largest difference of the last logits to those of one plain forward
over the full prompt, relative to the largest logit.

- *continues by*: `chunk` (several tokens at once are exact when positions and masks are given rightly), `step` (one at
  a time), `replay` (the prompt is read again, because no state comes out of the model).
- *its error in one chunk*: transformers alone, nothing but the state and the rest of the prompt passed, one row. Where
  it is small beside `step`, the scan restarts from zero too, but the random weights let the state matter little; the
  probe clears the state and sees that nothing changes.
- *batched*: one state holds all rows of a padded batch; where it cannot, every row has a state of its own.
- *largest error of jrt*: over prompts in parts of 1, 5 and all tokens, left-padded rows of different length, and three
  questions of different length after one document.

{table}
"""


def page(table: str) -> str:
    """The whole page."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return _PAGE.format(versions=f"{packages}, Python {platform.python_version()}", table=table).rstrip("\n")
