"""A run of training in a process of its own, which may kill itself: `train_child.py JSON`.

Keys: kind, settings, out. `kill_after`: kill at the first report of that step, of `stage` where it is given.
`kill_in_save`: kill when so many checkpoints have been written and the last is not in its place. `weights`: save the
weights of this process there.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from jrt.evals.training_rows import TaskRows
from jrt.training import run, trainer
from jrt.training.kinds import kind_class

TINY = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "feature_dim": 4,
    "intermediate_size": 16,
    "sliding_window": 4,
    "initializer_range": 0.1,
}


def start(spec: dict[str, Any]) -> None:
    """Runs what `spec` says."""
    torch.set_num_threads(1)
    saves = 0

    def report(stage: str, logged: dict[str, float]) -> None:
        if stage == spec.get("stage", stage) and logged["step"] >= spec.get("kill_after", float("inf")):
            os.kill(os.getpid(), signal.SIGKILL)

    placed = trainer.put_in_place

    def place(*arguments: Any) -> None:
        nonlocal saves
        saves += 1
        if saves == spec.get("kill_in_save"):
            os.kill(os.getpid(), signal.SIGKILL)
        placed(*arguments)

    trainer.put_in_place = place
    if "weights" in spec:
        finished = run._Run.stages

        def stages(self: Any) -> Any:
            log = finished(self)
            own = {name: tensor.contiguous().clone() for name, tensor in self.model.state_dict().items()}
            save_file(own, spec["weights"])
            return log

        run._Run.stages = stages
    settings = kind_class(spec["kind"]).settings_class(**spec["settings"])
    rows = TaskRows(settings.task, settings.methods, settings.seed).with_tokenizer if settings.task else None
    run.train(spec["kind"], settings, spec["out"], resume=spec.get("resume", False), task_rows=rows, report=report)


def child(spec: dict[str, Any], **environment: str) -> subprocess.Popen[str]:
    """This file in a process of its own."""
    program = [sys.executable, str(Path(__file__)), json.dumps(spec, default=str)]
    surroundings = os.environ | {"OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"} | environment
    return subprocess.Popen(program, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


if __name__ == "__main__":
    start(json.loads(sys.argv[1]))
