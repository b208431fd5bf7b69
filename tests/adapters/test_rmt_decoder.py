"""RMT around decoders: the unwrapped model where nothing is added, a plain loop over slices otherwise."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rmt_models import DECODERS, build_decoder, decoder, left_padded
from rmt_oracle import decoder_row
from torch.nn.functional import cross_entropy
from zoo import random_ids

from jrt.adapters.rmt import RMT

CLOSE = dict(rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_without_memory_one_segment_is_the_model_itself(name: str) -> None:
    base = build_decoder(name)
    model = RMT(num_memory_tokens=0, segment_length=32).adapt(base)
    ids, mask = left_padded([20, 13])
    expected, found = base(ids, labels=ids), model(ids, labels=ids)
    assert torch.equal(found.logits, expected.logits)
    assert torch.allclose(found.loss, expected.loss, **CLOSE)
    found = model(ids, mask)
    alone = base(ids[1:, 7:])
    assert torch.allclose(found.logits[1:, 7:], alone.logits, **CLOSE)
    assert not found.logits[1, :7].any()


@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_ragged_batches_equal_a_plain_loop_over_each_row(name: str) -> None:
    update = ("replace", "gated")[DECODERS.index(name) % 2]
    model = decoder(name, update=update)
    ids, mask = left_padded([23, 9, 4, 18])
    for found in (model(ids, mask), model(ids, mask, use_cache=False)):
        for row in range(4):
            logits, memory = decoder_row(model, ids[row, mask[row].bool()].tolist())
            assert torch.allclose(found.logits[row, mask[row].bool()], logits, **CLOSE)
            assert torch.allclose(found.memory[row], memory[0], **CLOSE)
    assert found.past_key_values is None


def test_widths_and_scales_are_found() -> None:
    narrow, scaled = decoder("opt_narrow"), decoder("granite")
    assert narrow.facts.embedding_width == narrow.facts.hidden_width == 32, "OPT maps its last hidden state back"
    assert scaled.facts.embedding_scale == pytest.approx(6.0, rel=1e-4)
    std = RMT(segment_length=6, num_memory_tokens=100).adapt(build_decoder("granite")).initial_memory.detach().std()
    assert float(std) == pytest.approx(6 * float(scaled.base.get_input_embeddings().weight.detach().std()), rel=0.1)


@settings(max_examples=12, deadline=None)
@given(st.data())
@torch.no_grad()
def test_any_cut_of_any_padding_equals_one_call(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["llama", "gpt2", "mistral_window", "gemma3"]))
    model = decoder(name, update="gated", segment_length=data.draw(st.integers(1, 9)))
    width = data.draw(st.integers(2, 24))
    ids = random_ids(3, width)
    bits = st.lists(st.integers(0, 1), min_size=width, max_size=width).filter(any)
    mask = torch.tensor([data.draw(bits) for _ in range(3)])
    cuts = sorted(data.draw(st.sets(st.integers(1, width - 1), max_size=6)))
    cache, logits, memory = None, [], None
    for start, end in zip([0, *cuts], [*cuts, width], strict=True):
        if not mask[:, start:end].any():
            logits.append(torch.zeros(3, end - start, 128))
            continue
        output = model(ids[:, start:end], mask[:, :end], past_key_values=cache)
        cache, memory = output.past_key_values, output.memory
        logits.append(output.logits)
    for row in range(3):
        kept = mask[row].bool()
        expected, last = decoder_row(model, ids[row, kept].tolist())
        assert torch.allclose(torch.cat(logits, dim=1)[row, kept], expected, **CLOSE)
        assert memory is not None and torch.allclose(memory[row], last[0], **CLOSE)


@torch.no_grad()
def test_calls_that_hand_the_memory_on_equal_one_call() -> None:
    model = decoder(update="gated")
    ids = random_ids(2, 21)
    whole = model(ids)
    first = model(ids[:, :12])
    second = model(ids[:, 12:], memory=first.memory)
    assert torch.allclose(torch.cat([first.logits, second.logits], dim=1), whole.logits, **CLOSE)
    assert torch.allclose(second.memory, whole.memory, **CLOSE)


def test_the_loss_goes_over_the_borders_of_segments() -> None:
    model = decoder(update="gated")
    ids, mask = left_padded([23, 12])
    labels = ids.masked_fill(mask == 0, -100)
    labels[0, 5:9] = -100
    found = model(ids, mask, labels=labels).loss
    total, count = torch.tensor(0.0), 0
    for row in range(2):
        kept = mask[row].bool()
        logits, _ = decoder_row(model, ids[row, kept].tolist())
        targets = labels[row, kept][1:]
        total = total + cross_entropy(logits[:-1], targets, ignore_index=-100, reduction="sum")
        count += int((targets != -100).sum())
    assert torch.allclose(found, total / count, **CLOSE)
    trained = model.train()(ids, mask, labels=labels)
    assert trained.logits is None and torch.allclose(trained.loss, found, **CLOSE)
    assert trained.past_key_values is None
    assert model(ids, mask, labels=labels, logits_to_keep=1).logits.shape == (2, 1, 128)


@torch.no_grad()
def test_only_the_logits_that_are_asked_for_are_computed() -> None:
    model = decoder()
    ids, mask = left_padded([23, 9])
    whole, last = model(ids, mask).logits, model(ids, mask, logits_to_keep=3).logits
    assert last.shape[1] == 3 and torch.allclose(last, whole[:, -3:], **CLOSE)
    columns = []
    model.base.lm_head.register_forward_hook(lambda module, arguments, output: columns.append(output.shape[1]))
    model(ids, mask, logits_to_keep=1)
    assert columns == [1, 1], "the rows end in different steps, and neither answers for more than its last token"


@torch.no_grad()
def test_the_state_does_not_grow_with_the_text() -> None:
    from jrt.state.tensors import tensors_of

    model = decoder(segment_length=7)
    sizes, cache = [], None
    mask = torch.ones(2, 0, dtype=torch.long)
    for number in range(60):
        ids = random_ids(2, 5, seed=number)
        new = torch.ones_like(ids)
        new[0, : number % 4] = 0
        mask = torch.cat([mask, new], dim=1)
        cache = model(ids, mask, past_key_values=cache, use_cache=True).past_key_values
        sizes.append(sum(tensor.numel() for tensor in tensors_of(cache).values()))
        assert cache.live.shape[1] <= 2 * (7 + 2), "columns are at most those of the open segments"
    assert max(sizes[30:]) <= max(sizes[:30])


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks for it
def test_an_adapter_of_weights_below_the_memory_is_read_and_trained() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    method = RMT(num_memory_tokens=2, segment_length=6, initial_std=1.0)
    model = method.adapt(peft.get_peft_model(build_decoder("llama"), lora).eval())
    ids, mask = left_padded([20, 9])
    found = model(ids, mask, labels=ids.masked_fill(mask == 0, -100))
    logits, memory = decoder_row(model, ids[1, 11:].tolist())
    assert torch.allclose(found.logits[1, 11:], logits, **CLOSE) and torch.allclose(found.memory[1], memory[0], **CLOSE)
    plain = method.adapt(build_decoder("llama"))
    with torch.no_grad():
        plain.initial_memory.copy_(model.initial_memory)
    assert not torch.allclose(plain(ids, mask).logits, found.logits, **CLOSE)
    found.loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert "initial_memory" in trained and all("lora" in name for name in trained - {"initial_memory"})
    assert set(model.learned()) == {"initial_memory"}


@torch.no_grad()
def test_half_precision_carries_the_memory_in_single() -> None:
    base = build_decoder("llama").to(torch.bfloat16)
    model = RMT(num_memory_tokens=2, segment_length=6, update="gated").adapt(base)
    found = model(random_ids(2, 20))
    assert found.logits.dtype == torch.bfloat16
    assert found.memory.dtype == model.initial_memory.dtype == torch.float32
    assert found.memory.isfinite().all()
