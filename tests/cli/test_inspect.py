"""Looking at a memory: the shares are those of the model's own attention, and nothing is left changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import CLS, SEP, build_encoder, random_text
from zoo import build

import jrt as package
from jrt.adapters.rmt import RMT
from jrt.errors import EmptyInputError, InvalidOptionError, UnsupportedModelError
from jrt.inspection import inspect_memory
from jrt.inspection_plot import plot_attention, plot_memory
from jrt.training.tiny_rmt import build_model, build_tokenizer
from jrt.training.tiny_rmt_recipe import Recipe

M, S = 3, 7


def encoder(family: str = "bert", **options: Any) -> Any:
    torch.manual_seed(0)
    method = RMT(num_memory_tokens=M, segment_length=S, initial_std=0.5, cls_token_id=CLS, sep_token_id=SEP, **options)
    return method.adapt(build_encoder(family, "ForSequenceClassification"))


def mean(attention: Any, sources: slice, targets: slice) -> list[list[float]]:
    """Mean share of attention from places to places, by the definition: a loop over layers and heads."""
    return [
        [float(head[sources, targets].sum() / head[sources].sum()) for head in layer[0]] for layer in attention
    ]  # each row of attention sums to 1


def close(found: list[list[float]] | None, expected: list[list[float]]) -> bool:
    return found is not None and torch.allclose(torch.tensor(found), torch.tensor(expected), atol=1e-5)


@torch.no_grad()
def test_shares_are_those_of_the_model_on_the_same_segment() -> None:
    model = encoder(update="gated")
    ids = random_text(1, 3 * S)[0]
    marked = torch.zeros_like(ids, dtype=torch.bool)
    marked[S + 2 : S + 5] = True
    found = inspect_memory(model, ids, marked=marked)
    assert [segment.marked for segment in found.segments] == [False, True, False]
    assert found.answer == model.config.id2label[int(model(ids[None]).logits.argmax())]
    words = model.base.get_input_embeddings()
    model.base.set_attn_implementation("eager")
    for index, segment in enumerate(found.segments):
        memory = model.first_memory(None, 1) if not index else model(ids[None, : index * S]).memory
        ends = [words(torch.tensor([[token]])) for token in (CLS, SEP)]
        inputs = torch.cat([ends[0], memory, ends[1], words(ids[None, index * S : (index + 1) * S]), ends[1]], dim=1)
        attention = model.base(inputs_embeds=inputs, output_attentions=True).attentions
        place, text = slice(1, 1 + M), slice(2 + M, 2 + M + S)
        assert close(segment.memory_to_text, mean(attention, place, text))
        assert close(segment.memory_to_memory, mean(attention, place, place))
        assert close(segment.to_memory, mean(attention, text, place))
        assert close(segment.answer_to_memory, mean(attention, slice(0, 1), place))
        if index == 1:
            assert close(segment.memory_to_marked, mean(attention, place, slice(2 + M + 2, 2 + M + 5)))
        else:
            assert segment.memory_to_marked is None


@torch.no_grad()
def test_the_memory_is_the_one_that_the_model_has() -> None:
    model = encoder(update="gated")
    torch.nn.init.normal_(model.write_gate.weight, std=0.5)
    ids = random_text(1, 4 * S)[0]
    marked = torch.zeros_like(ids, dtype=torch.bool)
    marked[S] = True
    found = inspect_memory(model, ids, marked=marked)
    states = [model.first_memory(None, 1)[0]] + [model(ids[None, : n * S]).memory[0] for n in range(1, 5)]
    for index, segment in enumerate(found.segments):
        before, after = states[index], states[index + 1]
        assert segment.norms == pytest.approx(after.norm(dim=-1).tolist(), rel=1e-4)
        moved = (after - before).norm(dim=-1) / before.norm(dim=-1)
        assert segment.change == pytest.approx(moved.tolist(), rel=1e-3, abs=1e-5)
        origin = states[1] if index == 0 else states[2]
        assert segment.drift == pytest.approx(
            ((after - origin).norm(dim=-1) / origin.norm(dim=-1)).tolist(), rel=1e-3, abs=1e-5
        )
        assert segment.gates is not None and all(0 <= gate <= 1 for gate in segment.gates)
    assert len({tuple(segment.gates or ()) for segment in found.segments}) == 4
    assert inspect_memory(encoder(), ids).segments[0].gates is None


def test_nothing_is_left_changed() -> None:
    model = encoder().train()
    implementation = model.base.config._attn_implementation
    inspect_memory(model, random_text(1, 2 * S)[0])
    assert model.training and model.base.config._attn_implementation == implementation == "sdpa"
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(("length", "sizes"), [(2 * S + 3, [3, S, S]), (2 * S, [S, S]), (2, [2])])
def test_a_short_segment_is_where_the_model_puts_it(length: int, sizes: list[int]) -> None:
    ids = random_text(1, length)[0]
    found = inspect_memory(encoder(), ids)
    assert len(found.segments) == len(sizes) and found.num_tokens == length
    with torch.no_grad():
        assert found.segments[-1].norms == pytest.approx(encoder()(ids[None]).memory[0].norm(dim=-1).tolist(), rel=1e-4)


@torch.no_grad()
def test_a_decoder_reads_in_front_and_writes_behind() -> None:
    torch.manual_seed(0)
    model = RMT(num_memory_tokens=M, segment_length=S, initial_std=0.5).adapt(build("llama"))
    ids = torch.randint(5, 40, (2 * S + 2,))
    found = inspect_memory(model, ids)
    assert len(found.segments) == 3 and found.answer is None
    for segment in found.segments:
        values = torch.tensor([segment.memory_to_text, segment.memory_to_memory])
        if segment is not found.segments[-1]:
            assert torch.allclose(values.sum(0), torch.ones_like(values[0]), atol=1e-5)
            assert values[0].min() > 0
    assert torch.tensor(found.segments[-1].memory_to_text).max() == 0  # not full: read only, and causal
    assert found.segments[1].norms == pytest.approx(model(ids[None]).memory[0].norm(dim=-1).tolist(), rel=1e-4)


@torch.no_grad()
def test_gates_are_those_of_a_write_and_zero_where_a_decoder_writes_nothing() -> None:
    """A full segment moves the memory by its gates; one that is not full lets nothing in."""
    torch.manual_seed(0)
    method = RMT(num_memory_tokens=M, segment_length=S, initial_std=0.5, update="gated")
    model = method.adapt(build("llama"))
    torch.nn.init.normal_(model.write_gate.weight, std=0.1)
    ids = torch.randint(5, 40, (2 * S + 2,))
    *full, last = inspect_memory(model, ids).segments
    for number, segment in enumerate(full):
        assert segment.gates is not None and min(segment.gates) > 0 and min(segment.change) > 0
        mean_write = model(ids[None, : (number + 1) * S]).mean_write * (number + 1)
        before = model(ids[None, : number * S]).mean_write * number if number else 0.0
        assert sum(segment.gates) / M == pytest.approx(float(mean_write - before), rel=1e-4)
    assert last.gates == last.change == [0.0] * M
    assert inspect_memory(model, ids[: 2 * S]).segments == full


def test_refusals() -> None:
    ids = random_text(1, 5)[0]
    with pytest.raises(UnsupportedModelError, match="has no memory tokens"):
        inspect_memory(build_encoder("bert", "ForSequenceClassification"), ids)
    with pytest.raises(UnsupportedModelError, match="has no memory tokens"):
        inspect_memory(RMT(num_memory_tokens=0, segment_length=S).adapt(build_encoder("bert", "Model")), ids)
    with pytest.raises(EmptyInputError):
        inspect_memory(encoder(), ids[:0])
    with pytest.raises(InvalidOptionError, match=r"marked has the shape \(4,\)"):
        inspect_memory(encoder(), ids, marked=torch.ones(4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model for the memory tasks on disk."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, Recipe())
    target = tmp_path_factory.mktemp("rmt") / "model"
    package.Reader(model, [model.method], tokenizer).save_pretrained(target, include_model=True)
    return target


def test_the_command_shows_a_task_and_writes_what_it_found(
    jrt: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    done = jrt("inspect", "memory", folder, "--segments", 5, "--task", "reason", "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.error
    found = done.json
    assert len(found["segments"]) == 5 and found["segments"][-1]["text"].endswith("?")
    text = " ".join(segment["text"] for segment in found["segments"] if segment["marked"])
    assert " of the " in text and found["answer"]
    assert json.loads((tmp_path / "out" / "inspection.json").read_text()) == found
    for name in ("attention.png", "memory.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


def test_the_command_reads_a_text_and_follows_a_part_of_it(
    jrt: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("It rained today. " * 8 + "Mary went to the office. " + "It rained again. " * 8)
    done = jrt("inspect", "memory", folder, "--text", text, "--mark", "Mary went to the office.")
    assert done.code == 0 and done.out.count("yes") in (1, 2) and "Answer:" in done.out
    assert "does not hold 'Mary left'" in jrt("inspect", "memory", folder, "--text", text, "--mark", "Mary left").error
    assert "--mark needs --text" in jrt("inspect", "memory", folder, "--mark", "Mary").error
    assert "--text and --task" in jrt("inspect", "memory", folder, "--text", text, "--task", "reason").error
    text.write_bytes("Mary went to the caf\xe9.".encode("latin-1"))
    assert "text.txt is no UTF-8 text: byte 0xe9 in line 1" in jrt("inspect", "memory", folder, "--text", text).error
    assert "There is no text file" in jrt("inspect", "memory", folder, "--text", tmp_path / "none.txt").error
    assert "no memory task" in jrt("inspect", "memory", folder, "--task", "mqar").error


def test_pictures_say_when_they_cannot_be_written(tmp_path: Path) -> None:
    found = inspect_memory(encoder(), random_text(1, 2 * S)[0])
    for plot in (plot_attention, plot_memory):
        with pytest.raises(package.errors.WriteError, match="could not be written"):
            plot(found, tmp_path / "no" / "folder.png")
