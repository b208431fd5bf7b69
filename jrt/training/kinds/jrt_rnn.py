"""`jrt train jrt-rnn`: next tokens after the prefix, hidden tokens in it (arXiv 2407.05483, equation 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from jrt.errors import InvalidOptionError
from jrt.training.kinds.own_model import OwnModel, OwnSettings, padded
from jrt.training.rows import Row


class JRTRNNSettings(OwnSettings):
    """The settings of a JRT-RNN."""

    mlm_probability: float = Field(default=0.15, ge=0, le=1, description="The share of the prefix that is hidden.")
    mlm_weight: float = Field(default=0.25, ge=0, description="Weight of the hidden tokens in the loss.")
    prefix_share: float = Field(default=0.5, gt=0, lt=1, description="The share of a row of text that is the prefix.")


class JRTRNN(OwnModel):
    """A JRT-RNN. The prefix of a row of text is its first part; that of a task's row is the prompt."""

    name = "jrt-rnn"
    settings_class = JRTRNNSettings
    extra_tokens = 1  # the mask token, the last of the vocabulary

    def model_classes(self) -> tuple[Any, Any]:
        from jrt.models import JRTConfig, JRTForCausalLM

        return JRTConfig, JRTForCausalLM

    def config_defaults(self) -> dict[str, Any]:
        return super().config_defaults() | {
            "encoder_length": self.prefix_length,
            "mlm_weight": self.settings.mlm_weight,
        }

    @property
    def prefix_length(self) -> int:
        """Tokens of the prefix of a row of text."""
        return max(1, min(round(self.settings.prefix_share * self.settings.block_size), self.settings.block_size - 1))

    def build(self) -> Any:
        model = super().build()
        longest = model.config.encoder_length
        if self.settings.task is None and self.prefix_length > longest:
            raise InvalidOptionError(
                f"A prefix of {self.prefix_length} tokens was asked for; the model's encoder_length is {longest}.",
                "Use a shorter block_size or prefix_share, or a model with a longer encoder_length.",
            )
        self._mask_token = int(model.config.mask_token_id)
        return model

    def collate(self, rows: Sequence[Row]) -> dict[str, Any]:
        import torch

        if any(row.prefix_length is not None for row in rows):
            lengths = [row.prefix_length or 0 for row in rows]
            return {**padded(rows), "prefix_length": torch.tensor(lengths)}
        batches = [self._with_hidden(row) for row in rows]
        return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}

    def _with_hidden(self, row: Row) -> dict[str, Any]:
        """One row of text with hidden tokens, others every time that it is read."""
        from jrt.models.objective import RegionCollator

        return RegionCollator(
            self._mask_token,
            self.prefix_length,
            len(row.input_ids) - self.prefix_length,
            self.settings.mlm_probability,
            seed=(self.settings.seed << 32) + row.index,
        )([row.input_ids])
