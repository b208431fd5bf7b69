"""A run that kills itself: `killed_run.py DATA OUT BATCH_SIZE KILL_AFTER`; without KILL_AFTER it ends by itself."""

from __future__ import annotations

import sys

from fakes import FakeReader

from jrt.evals import evaluate

if __name__ == "__main__":
    data, out, batch_size, *kill_after = sys.argv[1:]
    reader = FakeReader(kill_after=int(kill_after[0]) if kill_after else None)
    evaluate(
        reader,
        ["squad", "nq"],
        ["once", "twice"],
        data=data,
        out=out,
        batch_size=int(batch_size),
        command="jrt eval",
    )
