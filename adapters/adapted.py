"""The base of every model that a method has adapted: a module that reads through another one and shares its weights.

The state core, `generate`, saved readings and transformers' Trainer see an adapted model as a model like any other:
`forward` takes and returns a cache, and that cache is the whole state. What a method learns are the parameters that the
adapted model has beside its base.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from jrt.adapters.tied import NamesWeightsOnce
from jrt.errors import InvalidOptionError, StateMismatchError, UnsupportedModelError
from jrt.methods import Method
from jrt.state import Capabilities, State, probe
from jrt.state import generate as generate_from
from jrt.state.generation import mask_of
from jrt.state.probe import refuse_encoders
from jrt.state.running import device_of
from jrt.state.state import forward_parameters

BASE = "base."
"""What the names of the base model's weights begin with."""

PASSING_BY = ("get_base_model", "save_pretrained", "push_to_hub", "prepare_inputs_for_generation")

NOT_TAKEN = {
    "return_dict": ("", ""),
    "output_hidden_states": (
        "there are as many hidden states as segments",
        "Leave it out; reader.base_model(...) gives those of one segment.",
    ),
    "output_attentions": (
        "there is attention in each segment, and none across",
        "Leave it out; reader.base_model(...) gives that of one segment, jrt.inspection that of memory tokens.",
    ),
    "position_ids": ("positions follow from attention_mask", "Leave position_ids out."),
    "cache_position": ("where new tokens stand follows from past_key_values", "Leave cache_position out."),
    "inputs_embeds": ("it puts special tokens and memory beside token ids", "Pass input_ids."),
    "token_type_ids": ("its base is read without them", "Write tokenizer(..., return_token_type_ids=False)."),
}
"""Arguments of stock models that an adapted one has no use for: why, and what to write instead. False and None are
what they do without, and `return_dict` chooses between output and tuple."""


class AdaptedModel(NamesWeightsOnce):
    """A model as a method reads it. Subclasses write `forward`, which takes the full mask and no positions.

    Args:
        base: the model that reads; shared, and never changed but by training.
        method: the method's configuration.
    """

    main_input_name = "input_ids"
    accepts_loss_kwargs = False
    """Whether `forward` takes `num_items_in_batch`; Trainer asks, and the base's answer is about the base."""
    writes_text = True
    """Whether it can generate; encoders cannot."""
    reads_own_state = True
    """The probe's tokens are fewer than a segment, so it cannot see that the memory is read; tests of ours show it."""

    def __init__(self, base: Any, method: Method) -> None:
        super().__init__()
        self.base = base
        self.method = method
        self._capabilities: Capabilities | None = None

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """`forward`, with what stock code passes to every model of transformers.

        Raises:
            InvalidOptionError: an argument that has no meaning in segments.
        """
        foreign = named.keys() & NOT_TAKEN.keys()
        if not foreign:
            return super().__call__(*inputs, **named)
        taken = forward_parameters(self)
        for name in sorted(foreign - taken - {"return_dict"}):
            value, (reason, instead) = named.pop(name), NOT_TAKEN[name]
            if value is not None and value is not False:
                raise InvalidOptionError(f"{type(self).__name__} takes no {name}: {reason}.", instead)
        as_tuple = "return_dict" not in taken and named.pop("return_dict", None) is False
        output = super().__call__(*inputs, **named)
        return output.to_tuple() if as_tuple else output

    def __getattr__(self, name: str) -> Any:
        """What transformers asks of a model (config, generation_config, ...) and this class does not say, `base` says.

        Not its weights and modules, and not what would pass this class by: saving, or the model below PEFT's.
        """
        try:
            return super().__getattr__(name)
        except AttributeError:
            found = None if name in PASSING_BY else getattr(super().__getattr__("base"), name)
            if name in PASSING_BY:
                raise AttributeError(
                    f"{type(self).__name__} has no {name}, and its base's would pass the method by. Save with "
                    "Reader.save_pretrained; put PEFT around the base model and the method around that."
                ) from None
            if isinstance(found, (Tensor, nn.Module)):
                raise
            return found

    @property
    def device(self) -> torch.device:
        return device_of(self.base)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.base.dtype
        return dtype

    @property
    def name_or_path(self) -> str:
        return str(getattr(self.base, "name_or_path", ""))

    @property
    def max_length(self) -> int | None:
        """The longest input in tokens; None, because that is what a memory is for."""
        return None

    @property
    def capabilities(self) -> Capabilities:
        """What `probe` finds; probed at first use."""
        if self._capabilities is None:
            self._capabilities = probe(self)
        return self._capabilities

    def follow_mode(self) -> None:
        """Puts what the method adds into the mode of the base, which stays as it is."""
        self.training = self.base.training
        for module in self.children():
            if module is not self.base:
                module.train(self.training)

    def generate(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **generation: Any) -> Any:
        """transformers' `generate` (greedy, sampling, beams, streaming) on an empty state.

        Args:
            input_ids: prompts, (B, T), padded on the left.
            attention_mask: 1 for tokens, 0 for padding, (B, T); None means that pad tokens are padding.
            **generation: what transformers' `generate` takes.

        Raises:
            EmptyInputError: there is no prompt.
            InvalidOptionError: padding on the right, or an option that cannot work here.
            UnsupportedModelError: it is an encoder.
        """
        refuse_encoders(self)
        if input_ids is None:
            raise InvalidOptionError("generate got no input_ids.", "Pass prompts as token ids, input_ids=...")
        if "memory" in generation:
            raise InvalidOptionError(
                "generate begins with an empty memory.", "Write reader.read(text).ask(question) instead."
            )
        mask = mask_of(self, input_ids, generation) if attention_mask is None else attention_mask
        state = State.empty(len(input_ids), input_ids.device)
        return generate_from(self, state, input_ids, mask, capabilities=self.capabilities, **generation)

    def learned(self) -> dict[str, Tensor]:
        """What the method learns: every weight that is not the base model's, by name."""
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith(BASE)}

    def load_learned(self, tensors: dict[str, Tensor]) -> None:
        """Puts saved learned weights in place.

        Raises:
            StateMismatchError: they belong to another configuration.
        """
        own = self.learned()
        for name in sorted(own.keys() | tensors.keys()):
            found, wanted = tensors.get(name), own.get(name)
            if found is None or wanted is None or found.shape != wanted.shape:
                raise StateMismatchError(
                    f"The learned part {name!r} is {_shape(found)} in the saved weights and {_shape(wanted)} in "
                    f"{self.method}.",
                    "Load it with the method that it was saved with.",
                )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors[name])

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for an optimizer: matrices decay, vectors (biases, norms, gates) do not."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [
            {"params": [parameter for parameter in trained if parameter.dim() > 1], "weight_decay": weight_decay},
            {"params": [parameter for parameter in trained if parameter.dim() <= 1], "weight_decay": 0.0},
        ]


def refuse_compiled(model: Any) -> None:
    """Says what to compile instead.

    Raises:
        UnsupportedModelError: the model is compiled, and what a method puts into it would not be seen.
    """
    if hasattr(model, "_orig_mod"):
        raise UnsupportedModelError(
            f"{type(model._orig_mod).__name__} is compiled already, so a method cannot change how it reads.",
            "Compile what jrt.wrap returns: torch.compile(jrt.wrap(model, ...)).",
        )


def first_kept(width: int, logits_to_keep: int) -> int:
    """The first of `width` columns whose logits are asked for; 0 means all.

    Raises:
        InvalidOptionError: no number of columns was given.
    """
    if not isinstance(logits_to_keep, int) or logits_to_keep < 0:
        raise InvalidOptionError(
            f"logits_to_keep={logits_to_keep!r} is no number of last columns.", "Pass 0 for all, or 1 or more."
        )
    return max(0, width - logits_to_keep) if logits_to_keep else 0


def _shape(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else "x".join(str(size) for size in tensor.shape) or "a number"
