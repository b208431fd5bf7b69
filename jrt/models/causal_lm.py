"""Based and JRT-RNN as language models: the head, the losses, and transformers' `generate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from jrt.models.cache import BasedCache
from jrt.models.configuration import BasedConfig, JRTConfig
from jrt.models.model import BasedModel, BasedPreTrainedModel
from jrt.models.objective import foreseeable, mean_cross_entropy, next_token_targets, prefix_objective


@dataclass
class JRTOutput(CausalLMOutputWithPast):
    """transformers' output with the two parts of the loss beside it."""

    ntp_loss: Tensor | None = None
    mlm_loss: Tensor | None = None


class BasedForCausalLM(BasedPreTrainedModel, GenerationMixin):
    """A Based language model.

    Example:
        >>> config = BasedConfig(vocab_size=64, hidden_size=32, num_attention_heads=2)
        >>> BasedForCausalLM(config).generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, eos_token_id=None).shape
        torch.Size([1, 7])
    """

    _tied_weights_keys = {"lm_head.weight": "transformer.embeddings.word_embeddings.weight"}

    def __init__(self, config: BasedConfig) -> None:
        super().__init__(config)
        self.transformer = BasedModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """The first forward makes the memory; transformers' own cache would hold keys that nobody asks for."""
        return False

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: BasedCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
    ) -> Any:
        """transformers' contract.

        Args:
            input_ids: tokens, (B, T).
            attention_mask: 1 for tokens and 0 for padding, wherever it stands, (B, T); after a memory (B, past + T).
            past_key_values: what an earlier forward returned; it is changed.
            inputs_embeds: in place of `input_ids`, (B, T, hidden_size).
            labels: the tokens to predict, unshifted, (B, T); -100 where nothing is asked. Padding predicts nothing.
            use_cache: whether the memory is returned; None is yes, except in training.
            output_hidden_states: whether the residual stream before every layer is returned, and the normed last.
            logits_to_keep: logits of that many last columns, or of the columns with these indices; 0 is all.
            return_dict: whether the output is transformers' own class; None is what the config says.
        """
        read = self.transformer(
            input_ids, attention_mask, past_key_values, inputs_embeds, use_cache, None, bool(output_hidden_states)
        )
        logits = self._logits(read.last_hidden_state, 0 if labels is not None else logits_to_keep)
        asked = foreseeable(labels, attention_mask, (logits.shape[0], logits.shape[1]))
        loss = None if asked is None else mean_cross_entropy(logits, next_token_targets(asked))
        output = CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=read.past_key_values, hidden_states=read.hidden_states
        )
        return self._returned(output, return_dict)

    def _logits(self, hidden: Tensor, keep: int | Tensor) -> Tensor:
        if isinstance(keep, Tensor):
            hidden = hidden[:, keep]
        elif keep:
            hidden = hidden[:, -keep:]
        logits: Tensor = self.lm_head(hidden)
        return logits

    def _returned(self, output: CausalLMOutputWithPast, return_dict: bool | None) -> Any:
        wanted = self.config.return_dict if return_dict is None else return_dict
        return output if wanted else output.to_tuple()


class JRTForCausalLM(BasedForCausalLM):
    """JRT-RNN: a Based model whose Taylor attention has read the whole prefix before its first position.

    The first forward fixes the prefix: the prompt, or its first `encoder_length` tokens, or `prefix_length`. What is
    read on top of the memory is causal. So `generate` reads a prompt non-causally, question and all, and a document
    that is read first is the prefix of everything that is asked about it.
    """

    config_class = JRTConfig
    config: JRTConfig

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """As transformers does it; the prefix belongs to the first forward only."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, inputs_embeds=inputs_embeds, **kwargs)
        memory = inputs.get("past_key_values")
        if memory is not None and memory.get_seq_length():
            inputs.pop("prefix_length", None)
        return inputs

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: BasedCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        prefix_length: int | Tensor | None = None,
        mlm_labels: Tensor | None = None,
    ) -> Any:
        """As `BasedForCausalLM.forward`, and:

        Args:
            labels: those inside the prefix are not asked for: its positions have seen them.
            prefix_length: tokens of each row that are read non-causally, for all rows or for each, (B,); None is
                `encoder_length`. More than a row has is the whole row.
            mlm_labels: the hidden tokens of the prefix at their own places, (B, T), -100 elsewhere.

        Raises:
            InvalidOptionError: nothing is left to learn, because the prefix covers every label.
        """
        read = self.transformer(
            input_ids,
            attention_mask,
            past_key_values,
            inputs_embeds,
            use_cache,
            prefix_length,
            bool(output_hidden_states),
        )
        learns = labels is not None or mlm_labels is not None
        output = JRTOutput(past_key_values=read.past_key_values, hidden_states=read.hidden_states)
        output.logits = self._logits(read.last_hidden_state, 0 if learns else logits_to_keep)
        if learns:
            asked = foreseeable(labels, attention_mask, (output.logits.shape[0], output.logits.shape[1]))
            losses = prefix_objective(output.logits, asked, mlm_labels, read.prefix, self.config.mlm_weight)
            output.loss, output.ntp_loss, output.mlm_loss = losses
        return self._returned(output, return_dict)
