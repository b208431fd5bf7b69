"""What a model can do, found by tiny forwards instead of by its name.

The probe reads 24 random tokens in all ways that matter (at once, in two parts, token by token, beside another row,
with padding on the left) and compares the last logits with those of one forward. A family that gets one of them wrong,
which transformers 5.23 does silently for several, is then served by the exact path that is left.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jrt.errors import UnsupportedModelError
from jrt.state.capabilities import Capabilities, Continuation
from jrt.state.running import device_of, evaluating
from jrt.state.state import State, advance, forward_parameters, prefix_options, reorderable
from jrt.state.tensors import tensors_of

STATE_ARGUMENTS = ("past_key_values", "cache_params", "state")
_FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, NotImplementedError)
_PREFIX, _LENGTH, _PADDING = 15, 24, 5
_EXACT = 5e-5  # of the largest logit: fp32 rounding stays well below, restarted scans and wrong positions far above
_STEP_NOISE = {torch.float32: 5e-4, torch.float64: 5e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def probe(model: Any) -> Capabilities:
    """What `model` can do with a captured state, as it is now: an adapter that is installed counts.

    Args:
        model: a causal language model of transformers, or a PEFT model around one.

    Raises:
        UnsupportedModelError: the model is no causal language model.
    """
    refuse_encoders(model)
    with torch.no_grad(), evaluating(model):
        return _probe(model)


def refuse_encoders(model: Any) -> None:
    """Says that a model writes no text.

    Raises:
        UnsupportedModelError: it is an encoder around which a method has been put.
    """
    if not getattr(model, "writes_text", True):
        raise UnsupportedModelError(
            f"{type(model.base).__name__} is an encoder: it reads, and writes no text.",
            "Call it, or use a decoder (AutoModelForCausalLM).",
        )


def _probe(model: Any) -> Capabilities:
    ids = _random_ids(model)
    reference = _reference(model, ids, _PREFIX)
    name, cache = _state_of(model, ids)
    trial = _Trial(model, name, reference)
    step = trial.error("step", ids[:1]) if cache is not None else float("inf")
    found: dict[str, Any] = dict(
        state_argument=name,
        cache=type(cache).__name__ if cache is not None else "none",
        inputs_embeds="inputs_embeds" in forward_parameters(model),
        max_length=max_length(model),
    )
    if step > _STEP_NOISE.get(compute_dtype(model), 5e-4):
        error = trial.error("replay", ids[:1])
        return Capabilities(
            continuation="replay", batch=False, padding=False, reorderable=False, gaps=False, error=error, **found
        )
    allowed = max(_EXACT, _rounding(model, step) if reorderable(cache) else 0.0)
    chunk = trial.error("chunk", ids[:1])
    reads = getattr(model, "reads_own_state", False) or chunk > allowed or trial.reads_state(ids[:1])
    mode: Continuation = "chunk" if chunk <= allowed and reads else "step"
    batch = trial.error(mode, ids) <= allowed
    padding = batch and trial.error(mode, ids, padded=True) <= allowed
    return Capabilities(
        continuation=mode,
        batch=batch,
        padding=padding,
        reorderable=reorderable(cache),
        gaps=padding and _keeps_gaps(cache),
        error=chunk if mode == "chunk" else step,
        **found,
    )


class _Trial:
    """Ways of reading the same tokens, with capabilities that are still an assumption."""

    def __init__(self, model: Any, name: str | None, reference: Tensor) -> None:
        self.model, self.name, self.reference = model, name, reference
        self.scale = float(reference.abs().max()) + 1e-9

    def error(self, mode: Continuation, ids: Tensor, padded: bool = False) -> float:
        """The largest difference to the logits of one forward, relative to the largest; infinite when reading fails."""
        try:
            logits = self._padded(ids, mode) if padded else self._continued(ids, mode)
        except _FAILURES:
            return float("inf")
        expected = self.reference[: len(logits)]
        if padded and prefix_options(self.model, _PREFIX):  # the padded row's first part, its prefix, is shorter
            expected = _reference(self.model, ids[:1], _PREFIX - _PADDING)
        return float((logits.float() - expected).abs().max()) / self.scale

    def reads_state(self, ids: Tensor) -> bool:
        """Whether a chunk on top of a state depends on the recurrent part of that state.

        A scan that restarts from zero ignores it, and in a model whose weights let it matter little the logits alone do
        not tell. So the recurrent tensors are set to zero: if nothing at all changes, they are not read.
        """
        kept, cleared = self._captured(ids), self._captured(ids)
        recurrent = [tensor for path, tensor in tensors_of(cleared.cache).items() if _is_recurrent(path, tensor)]
        for tensor in recurrent:
            tensor.zero_()
        rest, assumed = ids[:, _PREFIX:], self._assumed("chunk")
        with_state = advance(self.model, kept, rest, capabilities=assumed)
        without = advance(self.model, cleared, rest, capabilities=assumed)
        return not recurrent or not torch.equal(with_state, without)

    def _assumed(self, mode: Continuation) -> Capabilities:
        return Capabilities(self.name, "", mode, True, True, True, True, True, None, 0.0)

    def _captured(self, ids: Tensor) -> State:
        state = State.empty(len(ids), ids.device)
        advance(self.model, state, ids[:, :_PREFIX], capabilities=self._assumed("chunk"))
        return state

    def _continued(self, ids: Tensor, mode: Continuation) -> Tensor:
        """The first tokens, several more on top of the state, then the last one."""
        state, assumed = State.empty(len(ids), ids.device), self._assumed(mode)
        advance(self.model, state, ids[:, :_PREFIX], capabilities=assumed)
        advance(self.model, state, ids[:, _PREFIX:-1], capabilities=assumed)
        return advance(self.model, state, ids[:, -1:], capabilities=assumed)

    def _padded(self, ids: Tensor, mode: Continuation) -> Tensor:
        """The first row, padded on the left beside a longer one, in two parts."""
        filler = ids[1:, :_PADDING]
        rows = torch.cat([torch.cat([filler, ids[:1]], dim=1), torch.cat([ids[1:], filler], dim=1)])
        mask = torch.ones_like(rows)
        mask[0, :_PADDING] = 0
        state, assumed = State.empty(2, ids.device), self._assumed(mode)
        advance(self.model, state, rows[:, :_PREFIX], mask[:, :_PREFIX], capabilities=assumed)
        return advance(self.model, state, rows[:, _PREFIX:], mask[:, _PREFIX:], capabilities=assumed)[:1]


def _is_recurrent(path: str, tensor: Tensor) -> bool:
    """Running sums; keys, values and the inputs of a convolution are kept as they were, and counters are no sums."""
    window = any(part in ("keys", "values", "conv_states") for part in path.split("."))
    return tensor.is_floating_point() and tensor.dim() > 0 and not window


def _random_ids(model: Any) -> Tensor:
    """Two rows of tokens, (2, 24), the same at every call and from no global seed."""
    try:
        vocabulary = model.get_input_embeddings().num_embeddings
    except (AttributeError, NotImplementedError):
        raise UnsupportedModelError(
            f"{type(model).__name__} has no token embeddings.", "jrt needs a causal language model of transformers."
        ) from None
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocabulary, (2, _LENGTH), generator=generator)
    return ids.to(device_of(model))


def _reference(model: Any, ids: Tensor, prefix: int) -> Tensor:
    """The last logits of one forward per row, (B, V); a model with a prefix has `prefix` tokens of it."""
    config = model.config
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{type(model).__name__} is an encoder-decoder model.", "jrt's readings need a decoder-only language model."
        )
    options = prefix_options(model, prefix)
    outputs = [model(input_ids=row[None], use_cache=False, **options) for row in ids]
    if not hasattr(outputs[0], "logits") or outputs[0].logits.shape[:2] != ids[:1].shape:
        raise UnsupportedModelError(
            f"{type(model).__name__} returns no logits for every token, so it generates no text.",
            "Load it with AutoModelForCausalLM.",
        )
    return torch.cat([output.logits[:, -1] for output in outputs]).float()


def _state_of(model: Any, ids: Tensor) -> tuple[str | None, Any]:
    """The name and value of the state that a forward returns."""
    try:
        output = model(input_ids=ids[:1, :2], use_cache=True)
    except _FAILURES:  # some configurations have no cache that works; they are read again
        return None, None
    for name in STATE_ARGUMENTS:
        if name in forward_parameters(model) and getattr(output, name, None) is not None:
            return name, getattr(output, name)
    return None, None


def _keeps_gaps(cache: Any) -> bool:
    """Padding inside a row is masked exactly by full attention only: windows count it, convolutions see it."""
    from transformers.cache_utils import DynamicLayer

    if hasattr(cache, "keeps_gaps"):
        return bool(cache.keeps_gaps)
    return all(type(layer) is DynamicLayer for layer in getattr(cache, "layers", [None]))


def max_length(model: Any) -> int | None:
    """The longest input in tokens, without running the model.

    A purely recurrent model has no limit, whatever length its config says it was trained on, and an adapted one says
    what its memory allows; of the others it is the number of positions.
    """
    if hasattr(model, "reads_own_state"):
        return model.max_length
    if "past_key_values" not in forward_parameters(model) and any(
        name in forward_parameters(model) for name in STATE_ARGUMENTS
    ):
        return None
    config = model.config.get_text_config(decoder=True)
    maximum = getattr(config, "max_position_embeddings", None)
    return int(maximum) if maximum else None


def compute_dtype(model: Any) -> torch.dtype:
    """The data type that the model computes in."""
    dtype: torch.dtype = getattr(model, "dtype", torch.float32)
    return dtype


def _rounding(model: Any, step: float) -> float:
    """How far two orders of the same sums may differ in half precision; 0 in single, where rounding stays below _EXACT.

    Caches that transformers' own class does not describe get no such margin: an error of theirs could hide in it.
    """
    numbers = torch.finfo(compute_dtype(model))
    return max(8 * step, 4 * numbers.eps) if numbers.bits < 32 else 0.0
