"""Runs the contract of Taylor attention on the Triton kernels in the interpreter and prints the errors as JSON.

A process of its own, started by the test: Triton decides when a kernel is defined whether it is interpreted. Only in
float32: the interpreter's arithmetic on bfloat16 is wrong (it works on the bits as integers).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from unittest import mock

os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

import torch
from taylor_contract import CASES, Subject

from jrt.kernels.taylor import paths, tune, tuning


def tuned() -> dict[str, float]:
    """The whole way of tuning: what is launched, compared, timed and written. Pretends that the last candidate wins."""
    launches = [tuning.Launch(16, 16, 4, 1), tuning.Launch(32, 16, 4, 1)]
    times = iter(range(1000, 0, -1))
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(tune, "candidates", lambda *_: launches):
        table = Path(folder) / "tuned.json"
        sizes = dict(batch=1, heads=1, length=17, widths=(16,), dtype=torch.float32, device="cpu")
        found = tune.tune(**sizes, timer=lambda call: (call(), float(next(times)))[1], table=table)
        (written,) = json.loads(table.read_text()).values()
    right = all(launch == tuning.Launch(32, 16, 4, 1, fill=8) for launch, _ in found.values())
    agrees = written == {key: asdict(launch) for key, (launch, _) in found.items()}
    return {"wrong launch": float(not right), "other in the file": float(not agrees), "missing": 3.0 - len(found)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    assert paths.choose(paths.Situation(torch.device("cpu"), torch.float32)).path == "triton"
    results = {}
    cases = CASES | {"tuned": lambda _: tuned()}
    for name in sys.argv[1:] or cases:
        start = time.process_time()
        results[name] = cases[name](Subject(dtype=torch.float32))
        print(f"{name}: {time.process_time() - start:.1f} s", file=sys.stderr)
    print(json.dumps(results))
