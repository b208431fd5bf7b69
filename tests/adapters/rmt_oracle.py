"""RMT once more, as plain as it can be said: one row, Python slices, no masks, no cache, nothing shared with the code.

The models run on embeddings of exactly one segment at a time, and the memory is read off the list of all hidden states.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def pieces(tokens: list[Any], length: int, alignment: str) -> list[list[Any]]:
    """The segments of a row."""
    if not tokens:
        return [[]]
    if alignment == "left":
        return [tokens[start : start + length] for start in range(0, len(tokens), length)]
    if alignment == "right":
        found: list[list[Any]] = []
        while tokens:
            tokens, piece = tokens[:-length], tokens[-length:]
            found.insert(0, piece)
        return found
    count = -(-len(tokens) // length)
    sizes = [len(tokens) // count + (number < len(tokens) % count) for number in range(count)]
    return [tokens[sum(sizes[:number]) : sum(sizes[: number + 1])] for number in range(count)]


def updated(model: Any, old: Tensor, output: Tensor) -> Tensor:
    """The memory behind a segment, (1, m, D)."""
    if model.method.update == "replace":
        return output
    mean, variance = output.mean(-1, keepdim=True), output.var(-1, unbiased=False, keepdim=True)
    normed = (output - mean) / torch.sqrt(variance + 1e-5) * model.write_norm.weight + model.write_norm.bias
    gate = 1.2 * torch.sigmoid(normed @ model.write_gate.weight.T + model.write_gate.bias) - 0.1
    gate = torch.minimum(torch.maximum(gate, torch.tensor(0.0)), torch.tensor(1.0))
    return old * (1 - gate) + output * gate


def as_embeddings(model: Any, memory: Tensor) -> Tensor:
    """The memory as the base model reads it."""
    if hasattr(model, "projection"):
        memory = memory @ model.projection.weight.T
    return memory / model.facts.embedding_scale


def encoder_row(model: Any, ids: list[int], memory: Tensor | None = None) -> tuple[list[Any], list[Tensor], Tensor]:
    """Reads one row without padding.

    Returns:
        What the base model answers for each segment, the columns of the input that its text tokens have, and the last
        memory.
    """
    method, base = model.method, model.base
    columns = list(range(len(ids)))
    if method.cls_token_id is not None and ids[0] == method.cls_token_id:
        columns = columns[1:]
    if method.sep_token_id is not None and ids[-1] == method.sep_token_id:
        columns = columns[:-1]
    memory = model.initial_memory[None] if memory is None else memory
    embed = base.get_input_embeddings()
    answers, places = [], []
    for piece in pieces(columns, model.segment_length, method.alignment or "right"):
        before = [] if method.cls_token_id is None else [method.cls_token_id]
        behind = [ids[column] for column in piece]
        if method.sep_token_id is not None:
            behind = [method.sep_token_id] * bool(method.num_memory_tokens) + behind + [method.sep_token_id]
        parts = [embed(torch.tensor([before], dtype=torch.long)), as_embeddings(model, memory)]
        parts.append(embed(torch.tensor([behind], dtype=torch.long)))
        answer = base(inputs_embeds=torch.cat(parts, dim=1), output_hidden_states=True)
        output = answer.hidden_states[-1][:, len(before) : len(before) + method.num_memory_tokens]
        memory = updated(model, memory, output)
        answers.append(answer)
        places.append(torch.tensor(piece, dtype=torch.long))
    return answers, places, memory


def decoder_row(model: Any, ids: list[int], memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Reads one row without padding, segment by segment, each from its first token.

    Returns:
        The logits of every token, (T, V), and the memory behind the last full segment, (1, m, D).
    """
    memory = model.initial_memory[None] if memory is None else memory
    m, length, logits = model.method.num_memory_tokens, model.segment_length, []
    embed = model.base.get_input_embeddings()
    for piece in pieces(ids, length, "left"):
        read = as_embeddings(model, memory)
        parts = [read, embed(torch.tensor([piece]))] + ([read] if len(piece) == length else [])
        answer = model.base(inputs_embeds=torch.cat(parts, dim=1), output_hidden_states=True, use_cache=False)
        logits.append(answer.logits[0, m : m + len(piece)])
        if len(piece) == length:
            memory = updated(model, memory, answer.hidden_states[-1][:, m + length :])
    return torch.cat(logits), memory
