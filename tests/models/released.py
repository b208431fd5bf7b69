"""An independent reading of the released models: plain loops in float64 over a state_dict, and tiny random models.

Nothing of `jrt` computes here. Positions, heads and keys are walked one by one, the feature map has all its
1 + D + D^2 entries, and a layer's kind is read from its keys, as the released checkpoints name them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from jrt.models import BasedConfig, BasedForCausalLM, JRTConfig, JRTForCausalLM

VOCABULARY = 64
FILLER = 7
_SMALL: dict[str, Any] = dict(
    vocab_size=VOCABULARY, hidden_size=32, num_attention_heads=2, feature_dim=4, sliding_window=5
)


def build(kind: str, *, dtype: torch.dtype = torch.float64, seed: int = 0, **changes: Any) -> Any:
    """A random model of `kind` ("based" or "jrt"), its weights large enough that what was read matters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "based":
            model = BasedForCausalLM(BasedConfig(**(_SMALL | dict(mixers=["conv", "linear", "sliding"] * 2) | changes)))
        else:
            jrt = dict(mixers=["conv", "prefix", "sliding"] * 2, encoder_length=12, filler_token=FILLER)
            model = JRTForCausalLM(JRTConfig(**(_SMALL | jrt | changes)))
    for parameter in model.parameters():
        parameter.data.mul_(8 if parameter.dim() == 2 else 2)
    return model.eval().to(dtype)


def random_ids(rows: int, columns: int, seed: int = 1) -> Tensor:
    """Token ids, (rows, columns), without 0, which the tests pad with."""
    return torch.randint(1, VOCABULARY, (rows, columns), generator=torch.Generator().manual_seed(seed))


def released_logits(
    weights: dict[str, Tensor], ids: Tensor, *, heads: int, window: int, prefix: int, filled: int = 0
) -> Tensor:
    """The logits of one row, (T, V).

    Args:
        weights: the state_dict.
        ids: (T,).
        heads: attention heads.
        window: tokens before itself that a token sees in softmax attention.
        prefix: tokens that prefix layers read non-causally.
        filled: how many of the first tokens are filler: their keys become zero before the feature map.
    """
    weights = {name: tensor.double() for name, tensor in weights.items()}
    stream = [weights["transformer.embeddings.word_embeddings.weight"][token] for token in ids.tolist()]
    layer = 0
    while (name := f"transformer.layers.{layer}.") + "norm1.weight" in weights:
        own = {key.removeprefix(name): tensor for key, tensor in weights.items() if key.startswith(name)}
        normed = [_norm(x, own["norm1.weight"]) for x in stream]
        if "mixer.Wqkv.weight" in own:
            mixed = _window(own, normed, heads, window)
        elif "mixer.conv.conv.weight" in own:
            mixed = _convolution(own, normed)
        else:
            mixed = _taylor(own, normed, heads, min(prefix, len(normed)), filled)
        stream = [x + y for x, y in zip(stream, mixed, strict=True)]
        stream = [x + _mlp(own, _norm(x, own["norm2.weight"])) for x in stream]
        layer += 1
    head = weights["lm_head.weight"]
    return torch.stack([head @ _norm(x, weights["transformer.ln_f.weight"]) for x in stream])


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean() + 1e-5) * weight


def _silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def _mlp(own: dict[str, Tensor], x: Tensor) -> Tensor:
    a, b = (own["mlp.fc1.weight"] @ x).chunk(2)
    return own["mlp.fc2.weight"] @ (a * _silu(b))


def _convolution(own: dict[str, Tensor], inputs: list[Tensor]) -> list[Tensor]:
    u = [own["mixer.in_proj.weight"] @ x + own["mixer.in_proj.bias"] for x in inputs]
    kernel = own["mixer.conv.conv.weight"][:, 0]
    outputs = []
    for t in range(len(u)):
        total = torch.zeros_like(kernel[:, 0])
        for back in range(kernel.shape[1]):
            if t - back >= 0:
                total = total + kernel[:, -1 - back] * u[t - back].chunk(2)[0]
        gated = _silu(total) * u[t].chunk(2)[1]
        outputs.append(own["mixer.out_proj.weight"] @ gated + own["mixer.out_proj.bias"])
    return outputs


def _window(own: dict[str, Tensor], inputs: list[Tensor], heads: int, window: int) -> list[Tensor]:
    q, k, v = zip(*((own["mixer.Wqkv.weight"] @ x).chunk(3) for x in inputs), strict=True)
    width = len(q[0]) // heads
    outputs = []
    for i in range(len(inputs)):
        parts = []
        for head in range(heads):
            cut = slice(head * width, (head + 1) * width)
            seen = range(max(0, i - window), i + 1)
            scores = torch.stack([_turn(q[i][cut], i) @ _turn(k[j][cut], j) for j in seen]) / math.sqrt(width)
            parts.append(sum(p * v[j][cut] for p, j in zip(scores.softmax(0), seen, strict=True)))
        outputs.append(own["mixer.out_proj.weight"] @ torch.cat(parts))
    return outputs


def _turn(x: Tensor, position: int) -> Tensor:
    """Rotary positions, base 10000, pairs (m, m + half)."""
    half, out = len(x) // 2, x.clone()
    for m in range(half):
        angle = position * 10000 ** (-m / half)
        out[m] = x[m] * math.cos(angle) - x[m + half] * math.sin(angle)
        out[m + half] = x[m] * math.sin(angle) + x[m + half] * math.cos(angle)
    return out


def feature(x: Tensor) -> Tensor:
    """[1, x / d^(1/4), vec(x x^T) / (sqrt(2) sqrt(d))], all 1 + d + d^2 of them."""
    d = len(x)
    return torch.cat([torch.ones(1, dtype=x.dtype), x / d**0.25, torch.outer(x, x).flatten() / math.sqrt(2 * d)])


def _taylor(own: dict[str, Tensor], inputs: list[Tensor], heads: int, prefix: int, filled: int) -> list[Tensor]:
    """Prefix linear attention, equation by equation; without keys of the prefix it is the causal kind."""

    def project(name: str, cut_keys: bool = False) -> list[Tensor]:
        projected = [own[f"mixer.{name}.weight"] @ x for x in inputs]
        return [x * 0 if cut_keys and t < filled else x for t, x in enumerate(projected)]

    q, k, v = project("proj_q"), project("proj_k", True), project("proj_v")
    reads_prefix = "mixer.proj_k_enc.weight" in own
    k_enc, v_enc = (project("proj_k_enc", True), project("proj_v_enc")) if reads_prefix else ([], [])
    keys, values = len(q[0]) // heads, len(v[0]) // heads
    outputs = []
    for i in range(len(inputs)):
        parts = []
        for head in range(heads):
            a, b = slice(head * keys, (head + 1) * keys), slice(head * values, (head + 1) * values)
            query = feature(q[i][a])
            numerator, denominator = torch.zeros(values, dtype=q[0].dtype), torch.zeros((), dtype=q[0].dtype)
            pairs = [(k[j][a], v[j][b]) for j in range(i + 1)]
            pairs += [(k_enc[j][a], v_enc[j][b]) for j in range(prefix)] if reads_prefix else []
            for key, value in pairs:
                weight = query @ feature(key)
                numerator, denominator = numerator + weight * value, denominator + weight
            parts.append(numerator / (denominator + 1e-12))
        outputs.append(own["mixer.out_proj.weight"] @ torch.cat(parts))
    return outputs
