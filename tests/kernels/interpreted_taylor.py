"""Runs the contract of Taylor attention on the Triton kernels in the interpreter and prints the errors as JSON.

A process of its own, started by the test: Triton decides when a kernel is defined whether it is interpreted. Only in
float32: the interpreter's arithmetic on bfloat16 is wrong (it works on the bits as integers).
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

import torch
from taylor_contract import CASES, Subject

from jrt.kernels.taylor import paths

if __name__ == "__main__":
    torch.set_num_threads(1)
    assert paths.choose(paths.Situation(torch.device("cpu"), torch.float32)).path == "triton"
    results = {}
    for name in sys.argv[1:] or CASES:
        start = time.process_time()
        results[name] = CASES[name](Subject(dtype=torch.float32))
        print(f"{name}: {time.process_time() - start:.1f} s", file=sys.stderr)
    print(json.dumps(results))
