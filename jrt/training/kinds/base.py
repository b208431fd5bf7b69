"""What a kind of training has to say; everything else is the same for all of them (`jrt.training.run`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from jrt.training.rows import Row, Stage
from jrt.training.settings import Settings


class Kind(ABC):
    """How one kind of model is made, fed and saved.

    Args:
        settings: of the run.

    Attributes:
        tokenizer: of the rows and the model.
        classes: the answers to choose from, where the rows have a list of them.
    """

    name: ClassVar[str]
    settings_class: ClassVar[type[Settings]]
    presets: ClassVar[dict[str, dict[str, Any]]]
    unused_weights: ClassVar[bool] = False
    """Whether a step may leave weights without a gradient, which several processes have to know."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.tokenizer: Any = None
        self.classes: tuple[str, ...] | None = None

    @abstractmethod
    def find_tokenizer(self) -> Any:
        """The tokenizer that the settings name; None where the rows bring one."""

    @abstractmethod
    def build(self) -> Any:
        """The model to train; random weights come from torch's generator. `tokenizer` is set before."""

    @abstractmethod
    def length(self, model: Any, stage: Stage, step: int) -> int:
        """Tokens of the rows of one step."""

    @abstractmethod
    def longest(self, model: Any, stage: Stage) -> int:
        """Tokens of the longest rows of a stage, which are those of its evaluations."""

    @abstractmethod
    def collate(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The arguments of the model's forward for some rows."""

    @abstractmethod
    def save(self, model: Any, folder: Path) -> None:
        """Writes what `jrt.load` reads."""

    @abstractmethod
    def load_weights(self, model: Any, folder: Path) -> None:
        """Puts the weights that `save` wrote into `model`."""

    def stages(self) -> list[Stage]:
        """The parts of the run, in order."""
        return [Stage("all", self.settings.steps, self.settings.learning_rate)]

    def begin(self, model: Any, stage: Stage) -> None:  # noqa: B027, most kinds have nothing to do
        """Called before a stage is trained or resumed."""

    def checkpoint_activations(self, model: Any) -> None:
        """Makes the model compute activations twice instead of keeping them."""
        model.activation_checkpointing_enable()

    def parameter_groups(self, model: Any) -> list[dict[str, Any]]:
        """Groups for the optimizer: matrices decay, vectors do not."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return [
            {"params": [p for p in trained if p.dim() > 1], "weight_decay": self.settings.weight_decay},
            {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        ]

    def measure(self, model: Any) -> dict[str, Any]:
        """What is logged beside the losses, as JSON data."""
        return {}

    def finish(self, folder: Path, log: dict[str, list[dict[str, Any]]]) -> None:  # noqa: B027, see `begin`
        """Called when the model is saved, in the first process, with the run's folder: draws what the log shows."""
