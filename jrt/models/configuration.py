"""What a Based or JRT-RNN model is made of, and the published sizes.

A layer's mixer is named in `mixers`: `conv` (a gated short convolution), `sliding` (attention to a few tokens back),
`linear` (causal Taylor attention) or `prefix` (Taylor attention that starts from a state of the whole prefix).
"""

from __future__ import annotations

from typing import Any, Self

from transformers import PreTrainedConfig

from jrt.errors import InvalidOptionError, UnknownNameError, did_you_mean

MIXERS = ("conv", "sliding", "linear", "prefix")
SIZES: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "360m": (1024, 26, (1, 6, 11, 16, 21)),
    "1.3b": (1792, 36, (1, 6, 11, 16, 21, 27, 33)),
}
"""Width, layers of JRT-RNN, and which of them are Taylor attention; a window follows each, the rest are `conv`."""


class BasedConfig(PreTrainedConfig):
    """Configuration of `BasedForCausalLM` (arXiv 2402.18668).

    Args:
        vocab_size: tokens, those included that only fill the embedding up.
        hidden_size: width of the residual stream.
        mixers: the mixer of every layer; None is one of each kind.
        num_attention_heads: heads of `linear`, `prefix` and `sliding`.
        feature_dim: width of a query and a key in Taylor attention.
        value_head_dim: width of a value in Taylor attention; None is hidden_size / heads.
        intermediate_size: hidden width of the gated MLP; None is twice hidden_size.
        conv_kernel: inputs that one output of `conv` sees.
        sliding_window: tokens before itself that a token sees in `sliding`.
        rope_theta: base of the rotary positions in `sliding`.
        rms_norm_eps: epsilon of the norms.
        initializer_range: standard deviation of the first weights; those that write into the residual stream are
            divided by sqrt(2 * layers).
        tie_word_embeddings: whether the head is the embedding.

    Raises:
        InvalidOptionError: a mixer that does not exist or does not belong here, or heads that do not divide the width.
    """

    model_type = "jrt_based"
    default_mixers = ("conv", "linear", "sliding")

    vocab_size: int = 50264
    hidden_size: int = 1024
    mixers: list[str] | tuple[str, ...] | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int = 16
    feature_dim: int = 16
    value_head_dim: int | None = None
    intermediate_size: int | None = None
    conv_kernel: int = 3
    sliding_window: int = 128
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        self.mixers = list(self.default_mixers if self.mixers is None else self.mixers)
        self._check()
        self.num_hidden_layers = len(self.mixers)
        self.value_head_dim = self.value_head_dim or self.hidden_size // self.num_attention_heads
        self.intermediate_size = self.intermediate_size or 2 * self.hidden_size
        super().__post_init__(**kwargs)

    @classmethod
    def preset(cls, size: str, **changes: Any) -> Self:
        """The configuration of a published size, "360m" or "1.3b".

        Args:
            size: which one.
            **changes: options that differ from it.

        Raises:
            UnknownNameError: no such size was published.

        Example:
            >>> JRTConfig.preset("360m").num_hidden_layers
            26
        """
        if size not in SIZES:
            raise UnknownNameError(f"There is no published size {size!r}.{did_you_mean(size, SIZES)}")
        width, layers, taylor = SIZES[size]
        mixers = ["conv"] * (layers + cls._more_layers(size))
        for layer in taylor:
            mixers[layer : layer + 2] = cls.default_mixers[1:]
        return cls(**({"hidden_size": width, "mixers": mixers} | changes))

    @classmethod
    def _more_layers(cls, size: str) -> int:
        """Based has a layer more at 360M, for the weights that JRT-RNN spends on the prefix."""
        return 1 if size == "360m" else 0

    def _check(self) -> None:
        kinds = [kind for kind in MIXERS if kind != "prefix" or self.default_mixers[1] == "prefix"]
        for mixer in self.mixers or ():
            if mixer not in kinds:
                raise InvalidOptionError(f"{type(self).__name__} has no mixer {mixer!r}.{did_you_mean(mixer, kinds)}")
        if self.num_hidden_layers not in (None, len(self.mixers or ())):
            raise InvalidOptionError(
                f"num_hidden_layers is {self.num_hidden_layers}, and {len(self.mixers or ())} mixers are named.",
                "Name one mixer for every layer and leave num_hidden_layers out.",
            )
        width, heads = self.hidden_size, self.num_attention_heads
        if heads < 1 or width % heads or ("sliding" in (self.mixers or ()) and width // heads % 2):
            raise InvalidOptionError(
                f"{heads} heads do not cut a width of {width} into parts that rotary positions can halve.",
                "Choose num_attention_heads so that hidden_size / heads is an even number.",
            )
        if self.conv_kernel < 2 or self.sliding_window < 1:
            raise InvalidOptionError(
                f"conv_kernel is {self.conv_kernel} and sliding_window {self.sliding_window}.",
                "A convolution sees 2 tokens or more, a window 1 or more before itself.",
            )


class JRTConfig(BasedConfig):
    """Configuration of `JRTForCausalLM` (arXiv 2407.05483, section 4): everything of `BasedConfig`, and

    Args:
        encoder_length: the longest prefix that is read non-causally unless a call says otherwise, in tokens.
        padding: how prompts shorter than encoder_length are read. "strict": as they are. "legacy": as the released
            checkpoints were evaluated, filled up on the left to encoder_length with `filler_token`, which the
            convolutions and windows read like any token and whose Taylor keys are zero, so that each still counts.
        filler_token: what "legacy" fills with; 220 is the space of GPT-2's tokenizer.
        mask_token_id: what stands for the hidden tokens in the masked part of the objective.
        mlm_weight: weight of that part.

    Raises:
        InvalidOptionError: as in `BasedConfig`, a padding that does not exist, or a token outside the vocabulary.
    """

    model_type = "jrt_rnn"
    default_mixers = ("conv", "prefix", "sliding")

    encoder_length: int = 1024
    padding: str = "strict"
    filler_token: int = 220
    mask_token_id: int | None = None
    mlm_weight: float = 0.25

    @classmethod
    def _more_layers(cls, size: str) -> int:
        return 0

    def _check(self) -> None:
        super()._check()
        if self.mask_token_id is None:
            self.mask_token_id = self.vocab_size - 1  # 50263 in the published models
        if self.padding not in ("strict", "legacy"):
            raise InvalidOptionError(
                f"There is no padding {self.padding!r}.{did_you_mean(self.padding, ('strict', 'legacy'))}"
            )
        if self.encoder_length < 0:
            raise InvalidOptionError(f"encoder_length is {self.encoder_length}.", "Choose 0 tokens or more.")
        wrong = self.filler_token if self.padding == "legacy" else self.mask_token_id
        if not 0 <= wrong < self.vocab_size or not 0 <= self.mask_token_id < self.vocab_size:
            raise InvalidOptionError(
                f"filler_token is {self.filler_token} and mask_token_id {self.mask_token_id}, "
                f"and the vocabulary ends at {self.vocab_size - 1}.",
                "Choose tokens of the vocabulary.",
            )
