"""A run of training in a process of its own, which may kill itself: `train_child.py JSON`.

Keys: kind, settings, out, resume; `kill_after`: kill at the first report of that step; `kill_in_save`: kill when the
n-th checkpoint has been written and is not in its place; `weights`: save the weights of this process there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import torch
from safetensors.torch import save_file

from jrt.training import run, trainer
from jrt.training.kinds import kind_class


def start(spec: dict[str, Any]) -> None:
    """Runs what `spec` says."""
    torch.set_num_threads(1)
    saves = 0

    def report(stage: str, logged: dict[str, float]) -> None:
        if logged["step"] >= spec.get("kill_after", float("inf")):
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
    run.train(spec["kind"], settings, spec["out"], resume=spec.get("resume", False), report=report)


if __name__ == "__main__":
    start(json.loads(sys.argv[1]))
