"""What a memory has to know about the model that carries it, found by tiny forwards instead of by the model's name.

A segment goes in as embeddings and comes out as the last hidden state, the one interface that every transformer of
transformers keeps. Between the two lie differences that would break a memory silently: widths that differ, embeddings
that are scaled inside, positions that start late, heads that answer for a token or for the whole sequence.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from jrt.adapters.adapted import refuse_compiled
from jrt.errors import UnsupportedModelError
from jrt.state.running import device_of, evaluating

FIELDS = ("logits", "start_logits", "end_logits", "last_hidden_state", "pooler_output")
"""What a model may answer with; these are the fields of an `RMTOutput`."""

_USE = (
    "Use the model's base class or its head for sequence classification, masked language modelling, token "
    "classification, question answering or causal language modelling."
)
_FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, LookupError)
"""What the models of transformers raise when they are given embeddings that they cannot read."""


@dataclass(frozen=True)
class ModelFacts:
    """What `inspect_model` found.

    Attributes:
        embedding_width: width of what goes in.
        hidden_width: width of the last hidden state.
        embedding_scale: factor that the model multiplies embeddings with before its first layer.
        embedding_std: standard deviation of the token embeddings as they go in.
        max_positions: positions that the model has; None when there is no limit.
        causal: whether a token sees only those before it.
        token_fields: fields of the output that have one entry for every token.
        sequence_fields: fields of the output that have one entry for the whole sequence.
    """

    embedding_width: int
    hidden_width: int
    embedding_scale: float
    embedding_std: float
    max_positions: int | None
    causal: bool
    token_fields: tuple[str, ...]
    sequence_fields: tuple[str, ...]


def unwrapped(model: Any) -> Any:
    """The model of transformers inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def body_of(model: Any) -> Any:
    """The layers below the head: what gives the last hidden state. OPT's head passes by all but the innermost."""
    body = unwrapped(model).base_model
    inner = getattr(body, "decoder", None)
    return inner if isinstance(inner, PreTrainedModel) else body


def layers_of(model: Any) -> list[nn.Module]:
    """The transformer layers, in order; none where the body has no list of modules."""
    return list(next((module for module in body_of(model).modules() if isinstance(module, nn.ModuleList)), []))


def with_hidden(model: Any, **inputs: Any) -> tuple[Any, Tensor]:
    """A forward of the whole model, and the last hidden state beside it, (B, T, D).

    It is caught on its way to the head, so the hidden states of the other layers are never kept. Other threads may
    run the same model meanwhile.
    """
    caught: list[Any] = []
    thread = threading.get_ident()

    def keep(module: nn.Module, arguments: Any, output: Any) -> None:
        if threading.get_ident() == thread:
            caught.append(output[0])

    handle = body_of(model).register_forward_hook(keep)
    try:
        output = model(**inputs)
    finally:
        handle.remove()
    return output, caught[-1]


def inspect_model(model: Any) -> ModelFacts:
    """Runs `model` on a few embeddings and looks at what comes out.

    Raises:
        UnsupportedModelError: the model has no place for a memory.
    """
    _refuse_other_kinds(model)
    try:
        with _trial(model):
            return _inspect(model)
    except torch.OutOfMemoryError:
        raise
    except _FAILURES as error:
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise UnsupportedModelError(
            f"{type(unwrapped(model)).__name__} cannot read one row of embeddings: {reason}", _USE
        ) from error


@contextmanager
def _trial(model: Any) -> Iterator[None]:
    """A run that leaves the model as it was: in evaluation mode, without gradients.

    Modules with quantised weights stay in training mode: on CPUs bitsandbytes packs 4-bit weights at the first run in
    evaluation mode, and no gradient passes packed weights.
    """
    with torch.no_grad(), evaluating(model):
        for module in model.modules():
            if not all(parameter.is_floating_point() for parameter in module.parameters(recurse=False)):
                module.training = True
        yield


def _inspect(model: Any) -> ModelFacts:
    embedding = model.get_input_embeddings()
    known = embedding(torch.arange(min(embedding.num_embeddings, 1024), device=device_of(model)))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 6, known.shape[-1], generator=generator).to(known) * known.std()
    output, hidden = _run(model, noise)
    changed = torch.cat([noise[:, :-1], -noise[:, -1:]], dim=1)  # a shift would vanish in the embeddings' layer norm
    moved = float((_run(model, changed)[1][:, 0] - hidden[:, 0]).abs().max())
    causal = moved <= 1e-5 * float(hidden[:, 0].abs().max())
    token_fields, sequence_fields = _fields(output, _run(model, noise[:, :5])[0], model)
    return ModelFacts(
        embedding_width=known.shape[-1],
        hidden_width=hidden.shape[-1],
        embedding_scale=_embedding_scale(model, noise),
        embedding_std=float(known.float().std()),
        max_positions=max_positions(model),
        causal=causal,
        token_fields=token_fields,
        sequence_fields=sequence_fields,
    )


def _run(model: Any, embeddings: Tensor) -> tuple[Any, Tensor]:
    mask = torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device)
    return with_hidden(model, inputs_embeds=embeddings, attention_mask=mask)


def _fields(longer: Any, shorter: Any, model: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The fields of an output by whether they grow with the input."""
    tensors = {name: value for name, value in longer.items() if isinstance(value, Tensor)}
    if not tensors.keys() <= set(FIELDS):
        raise UnsupportedModelError(
            f"{type(unwrapped(model)).__name__} answers with {', '.join(sorted(tensors.keys() - set(FIELDS)))}, which "
            "RMT cannot put together from segments.",
            _USE,
        )
    grows = {name: value.shape[1:2] != shorter[name].shape[1:2] for name, value in tensors.items()}
    return tuple(name for name in tensors if grows[name]), tuple(name for name in tensors if not grows[name])


def _embedding_scale(model: Any, noise: Tensor) -> float:
    """The factor between what goes in and what the first layer gets, 1 where something else happens in between.

    Two inputs of which one is twice the other differ by the scaled input, whatever positions are added to them.
    """
    layers = layers_of(model)
    if not layers:
        return 1.0
    caught: list[Tensor] = []

    def keep(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        caught.append(arguments[0] if arguments else named["hidden_states"])

    handle = layers[0].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        _run(model, noise)
        _run(model, 2 * noise)
    finally:
        handle.remove()
    if len(caught) != 2 or caught[0].shape != noise.shape:
        return 1.0
    difference, given = (caught[1] - caught[0]).float(), noise.float()
    scale = float((difference * given).sum() / given.square().sum())
    exact = float((difference - scale * given).norm() / difference.norm().clamp_min(1e-9)) < 0.05
    return scale if exact and abs(scale - 1) > 0.02 else 1.0


def max_positions(model: Any) -> int | None:
    """Usable positions, None where there is no limit; RoBERTa and its kin keep their table's first ones for padding."""
    for name, module in body_of(model).named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.num_embeddings - module.padding_idx - 1
    found = getattr(unwrapped(model).config.get_text_config(decoder=True), "max_position_embeddings", None)
    return int(found) if found and found > 0 else None


def _refuse_other_kinds(model: Any) -> None:
    refuse_compiled(model)
    name = type(unwrapped(model)).__name__
    parameters = _parameters(model)
    if "decoder_input_ids" in parameters:
        raise UnsupportedModelError(
            f"{name} is an encoder-decoder model, and RMT hands memory on inside one stack of layers.",
            "Use an encoder (BERT, RoBERTa, ...) or a decoder (OPT, Llama, ...).",
        )
    if "input_ids" not in parameters:
        raise UnsupportedModelError(
            f"{name} reads no token ids.", "Use a model of text: an encoder (BERT, ...) or a decoder (OPT, ...)."
        )
    if {"cache_params", "state"} & parameters:
        raise UnsupportedModelError(
            f"{name} is a recurrent model, and RMT's memory is for transformers.",
            "Leave RMT out: a recurrent model (Mamba, RWKV) reads any length without it.",
        )
    if not {"inputs_embeds", "attention_mask"} <= parameters:
        missing = " and ".join(sorted({"inputs_embeds", "attention_mask"} - parameters))
        raise UnsupportedModelError(
            f"{name} takes no {missing} in its forward, and memory tokens are read as embeddings under a mask.",
            "Use another head of the same model, or another model.",
        )
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise UnsupportedModelError(
            f"{name} carries learned prompt tokens of PEFT, which would be put before the memory in every segment.",
            "Use LoRA or another adapter of weights.",
        )


def refuse_other_decoders(model: Any, facts: ModelFacts) -> None:
    """Says why a causal model is none that RMT reads with.

    Raises:
        UnsupportedModelError: it has no head for language modelling, no explicit positions, or a state that is not keys
            and values.
    """
    name, writes = type(unwrapped(model)).__name__, getattr(unwrapped(model), "can_generate", None)
    if "logits" not in facts.token_fields or (writes is not None and not writes()):
        raise UnsupportedModelError(
            f"{name} is a decoder without a language modelling head, and its answer would be that of the memory tokens "
            "behind the text.",
            "Load it with AutoModelForCausalLM.",
        )
    if not {"position_ids", "past_key_values"} <= _parameters(model):
        raise UnsupportedModelError(
            f"{name} takes no position_ids and past_key_values, so its rows cannot open their segments at different "
            "times.",
            "Use a decoder with explicit positions (OPT, GPT-2, Llama, GPT-NeoX, Qwen, Gemma, ...).",
        )
    embeddings = torch.zeros(1, 2, facts.embedding_width, dtype=model.dtype, device=device_of(model))
    with _trial(model):
        cache = getattr(model(inputs_embeds=embeddings, use_cache=True), "past_key_values", None)
    kinds = {type(layer).__name__ for layer in getattr(cache, "layers", [])}
    if type(cache) is not DynamicCache or not kinds <= {"DynamicLayer", "DynamicSlidingWindowLayer"}:
        raise UnsupportedModelError(
            f"{name} keeps more than keys and values ({', '.join([type(cache).__name__, *sorted(kinds)])}), and "
            "a recurrent state cannot forget the tokens of a segment that has ended.",
            "A model with recurrent layers reads on without RMT.",
        )


def _parameters(model: Any) -> frozenset[str]:
    from jrt.state.state import forward_parameters

    return forward_parameters(model)
