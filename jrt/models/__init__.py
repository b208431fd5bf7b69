"""Based and JRT-RNN as models of transformers.

Importing this package changes nothing outside it: `register` tells AutoConfig and AutoModelForCausalLM about the
models, and `jrt.load` calls it. Without it, `JRTForCausalLM.from_pretrained` loads a folder or Hub id just as well.
"""

from __future__ import annotations

from jrt.models.causal_lm import BasedForCausalLM, JRTForCausalLM
from jrt.models.configuration import BasedConfig, JRTConfig
from jrt.models.conversion import convert

__all__ = ["BasedConfig", "BasedForCausalLM", "JRTConfig", "JRTForCausalLM", "convert", "register"]


def register() -> None:
    """Tells AutoConfig and AutoModelForCausalLM of transformers about Based and JRT-RNN; calling it again is nothing.

    Example:
        >>> jrt.models.register()
        >>> AutoModelForCausalLM.from_pretrained("my-jrt-rnn")
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    AutoConfig.register(BasedConfig.model_type, BasedConfig, exist_ok=True)
    AutoConfig.register(JRTConfig.model_type, JRTConfig, exist_ok=True)
    AutoModelForCausalLM.register(BasedConfig, BasedForCausalLM, exist_ok=True)
    AutoModelForCausalLM.register(JRTConfig, JRTForCausalLM, exist_ok=True)
