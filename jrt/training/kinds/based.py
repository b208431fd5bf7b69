"""`jrt train based`: the causal twin of JRT-RNN, next tokens only."""

from __future__ import annotations

from typing import Any

from jrt.training.kinds.own_model import OwnModel


class Based(OwnModel):
    """A Based language model (arXiv 2402.18668)."""

    name = "based"

    def model_classes(self) -> tuple[Any, Any]:
        from jrt.models import BasedConfig, BasedForCausalLM

        return BasedConfig, BasedForCausalLM
