"""The layers of Based and JRT-RNN on top of their embeddings, and the order in which they read a batch's columns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPast

from jrt.errors import InvalidOptionError
from jrt.models.cache import BasedCache, as_cache
from jrt.models.configuration import BasedConfig
from jrt.models.layers import BasedLayer, RootMeanSquareNorm
from jrt.models.regions import Arrangement, Regions, arrange, prefix_lengths, refuse_late_prefix


@dataclass
class BasedModelOutput(BaseModelOutputWithPast):
    """transformers' output, and which columns were read non-causally, (B, T), None where none were."""

    prefix: Tensor | None = None


class Embeddings(nn.Module):
    """Holds the word embeddings under their released name."""

    def __init__(self, config: BasedConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)


class BasedPreTrainedModel(PreTrainedModel):
    """How weights start, and what transformers needs to know of both models."""

    config_class = BasedConfig
    config: BasedConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["BasedLayer"]
    _is_stateful = True  # sums cannot be rolled back, so assisted generation is refused

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Normal with `initializer_range`, less where a layer writes into the residual stream."""
        if isinstance(module, (nn.Linear, nn.Embedding)):
            deviation = self.config.initializer_range
            if getattr(module, "writes_stream", False):
                deviation /= (2 * len(self.config.mixers or ())) ** 0.5
            init.normal_(module.weight, std=deviation)
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Conv1d):
            init.kaiming_uniform_(module.weight, a=5**0.5)
        elif isinstance(module, RootMeanSquareNorm):
            init.ones_(module.weight)


class BasedModel(BasedPreTrainedModel):
    """The layers without the head."""

    def __init__(self, config: BasedConfig) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(BasedLayer(config, mixer) for mixer in config.mixers or ())
        self.ln_f = RootMeanSquareNorm(config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings.word_embeddings = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: BasedCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        prefix_length: int | Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> BasedModelOutput:
        """Reads new columns on top of what `past_key_values` remembers; arguments as in `JRTForCausalLM.forward`.

        Raises:
            InvalidOptionError: neither or both of ids and embeddings, or a mask or prefix that does not fit.
            StateMismatchError: a memory of another model, or a prefix after tokens had been read.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise InvalidOptionError("Either input_ids or inputs_embeds has to be given.", "Pass one of them.")
        x = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        cache = self._cache(past_key_values, use_cache)
        length, past = x.shape[1], 0 if cache is None else cache.length
        arrangement = arrange(attention_mask, past, len(x), length)
        x, regions = self._regions(arrangement.apply(x), arrangement, cache, prefix_length)
        x = x if x.dtype == torch.float64 else x.float()
        streams = []
        for index, layer in enumerate(self.layers):
            if output_hidden_states:
                streams.append(arrangement.restore(x[:, -length:]))
            x = layer(x, regions, None if cache is None else cache.layers[index])
        if cache is not None:
            counted = x.shape[1] if regions.present is None else regions.present.sum(1)
            cache.advance(length, regions.before + counted, regions.padding is not None)
        hidden = arrangement.restore(self.ln_f(x[:, -length:]))
        return BasedModelOutput(
            last_hidden_state=hidden,
            past_key_values=cache,
            hidden_states=(*streams, hidden) if output_hidden_states else None,
            prefix=None if regions.prefix is None else arrangement.restore(regions.prefix[:, -length:, None])[..., 0],
        )

    def _cache(self, past_key_values: BasedCache | None, use_cache: bool | None) -> BasedCache | None:
        """The memory to read with; none in training unless it is asked for, and none with gradient checkpointing."""
        if self.gradient_checkpointing and self.training:
            if past_key_values is not None:
                raise InvalidOptionError(
                    "Gradient checkpointing reads every layer twice, and a memory cannot be read twice.",
                    "Pass no past_key_values, or switch gradient checkpointing off.",
                )
            return None
        wanted = not self.training if use_cache is None else use_cache
        if not wanted and past_key_values is None:
            return None
        return as_cache(past_key_values, len(self.layers))

    def _regions(
        self, x: Tensor, arrangement: Arrangement, cache: BasedCache | None, prefix_length: int | Tensor | None
    ) -> tuple[Tensor, Regions]:
        """The embedded columns, with legacy padding in front where the configuration asks for it, and their regions."""
        batch, length, device = x.shape[0], x.shape[1], x.device
        past = 0 if cache is None else cache.length
        refuse_late_prefix(past, prefix_length)
        before = torch.zeros(batch, dtype=torch.long, device=device)
        if cache is not None:
            before = cache.tokens_before(batch, device)
        present, blank, prefix = arrangement.present, None, None
        if "prefix" in (self.config.mixers or ()) and not past:
            tokens = torch.full_like(before, length) if present is None else present.sum(1)
            lengths = prefix_lengths(prefix_length, self.config.encoder_length, tokens)
            if self.config.padding == "legacy":
                x, present, blank = self._fill(x, tokens, self.config.encoder_length - lengths)
                lengths = lengths.clamp_min(self.config.encoder_length)
            prefix = lengths
        length = x.shape[1]
        counted = torch.ones(batch, length, dtype=torch.long, device=device) if present is None else present.long()
        positions = (counted.cumsum(1) - 1).clamp_min(0) + before[:, None]
        regions = Regions(positions, before, present, blank=blank)
        if present is not None or (cache is not None and cache.padded):
            regions.padding = length - counted.sum(1)
        if prefix is not None:
            inside = positions < prefix[:, None]
            regions.prefix = inside if present is None else inside & present
        return x, regions

    def _fill(self, x: Tensor, tokens: Tensor, missing: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`x` with every row's `missing` columns in front of its `tokens`, and which columns are present and blank."""
        missing = missing.clamp_min(0)
        width = max(x.shape[1], int((tokens + missing).max()))
        filler = self.get_input_embeddings().weight[self.config.filler_token].to(x.dtype)
        x = torch.cat([filler.expand(len(x), width - x.shape[1], -1), x], 1)
        from_end = width - torch.arange(width, device=x.device)
        present, blank = from_end <= (tokens + missing)[:, None], from_end > tokens[:, None]
        return torch.where(blank[..., None], filler, x), present, blank & present
