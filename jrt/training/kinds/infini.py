"""`jrt train infini`: a compressive memory on a decoder, with gates that move (arXiv 2404.07143).

What Hugging Face found when they tried (their post "A failed experiment: Infini-attention, and why we should keep
trying"): gates at the common learning rate stay where they start. Here they have a group of their own, without decay
and with a learning rate of 0.01, and their values are in the log and in a plot.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from jrt.files import write_text
from jrt.training.kinds.adapted import AdaptedKind, AdaptedSettings

PAPER: dict[str, dict[str, Any]] = {
    "pretrain": dict(
        method="segment_length=2048",
        segments=16,
        batch_size=64,
        optimizer="adafactor",
        learning_rate=0.01,
        warmup_steps=1000,
        schedule="cosine",
    ),
    "continue": dict(
        method="segment_length=2048", segments=2, batch_size=64, steps=30_000, learning_rate=1e-4, lengths="fixed"
    ),
    "passkey": dict(
        task="passkey:num_words=3500",
        method="segment_length=2048",
        segments=3,
        batch_size=64,
        steps=400,
        learning_rate=1e-4,
    ),
    "gates": dict(
        method="segment_length=64,rule=delta,gate_init=0",
        segments=16,
        batch_size=100,
        steps=25_000,
        learning_rate=1e-5,
        final_learning_rate=1e-6,
        warmup_steps=1500,
        lengths="fixed",
    ),
}
"""The paper's language modelling, continued pre-training and passkey tuning, where it gives numbers; and `gates`, the
run of Hugging Face's post in which the gates spread."""


class InfiniSettings(AdaptedSettings):
    """The settings of an Infini-attention model."""

    curriculum: bool = Field(default=False, description="A stage for every number of segments, from 1 up.")
    gate_learning_rate: float = Field(default=0.01, gt=0, description="The learning rate of the gates.")
    penalty_from: int = Field(default=2, ge=1, description="The write penalty counts from this number of segments on.")


class Infini(AdaptedKind):
    """Infini-attention on a decoder."""

    name = "infini"
    settings_class = InfiniSettings
    presets = PAPER

    def method(self) -> Any:
        method = super().method()
        told = self.saved is not None and "gate_learning_rate" in self.settings.model_fields_set
        if method.gate_learning_rate is not None and not told:
            return method
        return method.model_copy(update={"gate_learning_rate": self.settings.gate_learning_rate})

    def checkpoint_activations(self, model: Any) -> None:
        model.gradient_checkpointing_enable()

    def measure(self, model: Any) -> dict[str, Any]:
        values = {str(layer): [round(float(gate), 6) for gate in gates] for layer, gates in model.gate_values().items()}
        every = [gate for gates in values.values() for gate in gates]
        return {"gates": values, "lowest_gate": min(every), "highest_gate": max(every)}

    def finish(self, folder: Path, log: dict[str, list[dict[str, Any]]]) -> None:
        """Writes `gates.json`, and draws `gates.png` where matplotlib is installed."""
        import json
        from importlib.util import find_spec

        history, before = [], 0
        for entries in log.values():
            found = [entry for entry in entries if "gates" in entry]
            history += [{"step": before + int(entry["step"]), "gates": entry["gates"]} for entry in found]
            before = history[-1]["step"] if history else before
        write_text(folder / "gates.json", json.dumps(history) + "\n")
        if history and find_spec("matplotlib") is not None:
            from jrt.training.gate_plot import draw_gates

            draw_gates(history, folder / "gates.png")
