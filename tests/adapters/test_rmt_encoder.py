"""RMT around encoders: the unwrapped model where nothing is added, a plain loop over slices otherwise."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
sys.path.insert(0, str(Path(__file__).parent))

import pytest
import torch
from encoders import CLS, FAMILIES, HEADS, SEP, build_encoder, random_text
from rmt_oracle import encoder_row
from torch import Tensor

import jrt
from jrt.adapters.rmt import RMT

CLOSE = dict(rtol=1e-4, atol=1e-4)
CASES = [(family, head) for family in FAMILIES for head in HEADS if (family, head) != ("modernbert", HEADS[-1])]


def padded(lengths: list[int], side: str = "right", special: bool = False) -> tuple[Tensor, Tensor]:
    """Random rows of different length, (B, T), and their mask."""
    rows = random_text(len(lengths), max(lengths))
    mask = torch.zeros_like(rows)
    for row, length in enumerate(lengths):
        kept = slice(0, length) if side == "right" else slice(rows.shape[1] - length, None)
        mask[row, kept] = 1
        if special:
            rows[row, kept][0], rows[row, kept][-1] = CLS, SEP
    return rows.masked_fill(mask == 0, 0), mask


def gated(model: Any) -> Any:
    """The model with gates that differ from token to token."""
    torch.manual_seed(3)
    torch.nn.init.normal_(model.write_gate.weight, std=0.5)
    torch.nn.init.normal_(model.write_norm.weight)
    return model


def adapted(family: str, head: str, **options: Any) -> Any:
    torch.manual_seed(0)
    method = RMT(**(dict(num_memory_tokens=3, segment_length=7, initial_std=0.5) | options))
    model = method.adapt(build_encoder(family, head))
    return gated(model) if model.method.update == "gated" else model


@pytest.mark.parametrize(("family", "head"), CASES)
@torch.no_grad()
def test_without_memory_one_segment_is_the_model_itself(family: str, head: str) -> None:
    base = build_encoder(family, head)
    model = RMT(num_memory_tokens=0, segment_length=40, cls_token_id=CLS, sep_token_id=SEP).adapt(base)
    ids, mask = padded([20, 20], special=True)
    expected, found = base(ids), model(ids)
    assert model.fields
    for name in model.fields:
        assert torch.equal(found[name], expected[name]), name
    ids, mask = padded([20, 11], special=True)
    expected, found = base(ids, attention_mask=mask), model(ids, mask)
    for name in model.facts.token_fields:
        assert torch.allclose(found[name][mask.bool()], expected[name][mask.bool()], **CLOSE), name
    for name in model.facts.sequence_fields:
        assert torch.allclose(found[name], expected[name], **CLOSE), name


@pytest.mark.parametrize(("family", "head"), CASES)
@torch.no_grad()
def test_ragged_batches_equal_a_plain_loop_over_each_row(family: str, head: str) -> None:
    number = CASES.index((family, head))
    side, update = ("left", "right")[number % 2], ("replace", "gated")[number % 2]
    alignment = ("left", "right", "center")[number % 3]
    special = dict(cls_token_id=CLS, sep_token_id=SEP) if number % 5 else {}
    model = adapted(family, head, alignment=alignment, update=update, **special)
    ids, mask = padded([23, 9, 4, 16], side, special=True)
    found = model(ids, mask)
    assert found.memory.shape == (4, 3, model.facts.hidden_width) and (found.mean_write is None) == (
        update == "replace"
    )
    offset = 3 + 2 * bool(special)
    for row in range(4):
        kept = mask[row].bool()
        answers, places, memory = encoder_row(model, ids[row, kept].tolist())
        assert torch.allclose(found.memory[row], memory[0], **CLOSE)
        for name in model.facts.sequence_fields:
            assert torch.allclose(found[name][row], answers[-1][name][0], **CLOSE)
        for name in model.facts.token_fields:
            for answer, place in zip(answers, places, strict=True):
                expected = answer[name][0, offset : offset + len(place)]
                assert torch.allclose(found[name][row, kept][place], expected, **CLOSE)
            if special:
                ends = torch.stack([answers[-1][name][0, 0], answers[-1][name][0, -1]])
                assert torch.allclose(found[name][row, kept][[0, -1]], ends, **CLOSE)


@torch.no_grad()
def test_padding_between_the_tokens_of_a_row_is_not_read() -> None:
    model = adapted("bert", "ForMaskedLM", alignment="left")
    ids = random_text(2, 20)
    mask = torch.ones_like(ids)
    mask[0, [3, 4, 11]] = 0
    found = model(ids, mask)
    alone = model(ids[:1, mask[0].bool()])
    assert torch.allclose(found.logits[:1, mask[0].bool()], alone.logits, **CLOSE)
    assert torch.allclose(found.memory[:1], alone.memory, **CLOSE)
    assert not found.logits[0, [3, 4, 11]].any()


@pytest.mark.parametrize("update", ["replace", "gated"])
@torch.no_grad()
def test_calls_that_hand_the_memory_on_equal_one_call(update: str) -> None:
    model = adapted("bert", "ForMaskedLM", alignment="left", update=update)
    ids = random_text(2, 24)
    whole = model(ids)
    memory, logits = None, []
    for part in ids.split([7, 14, 3], dim=1):
        output = model(part, memory=memory)
        memory = output.memory
        logits.append(output.logits)
    assert torch.allclose(torch.cat(logits, dim=1), whole.logits, **CLOSE)
    assert torch.allclose(memory, whole.memory, **CLOSE)


@torch.no_grad()
def test_only_the_columns_that_are_asked_for_are_answered() -> None:
    model = adapted("bert", "ForMaskedLM", alignment="left")
    ids, mask = padded([24, 15], "left")
    whole, last = model(ids, mask), model(ids, mask, logits_to_keep=2)
    assert last.logits.shape[1] == 2
    assert torch.allclose(last.logits, whole.logits[:, -2:], **CLOSE)
    heads = []
    model.base.cls.register_forward_hook(lambda *_: heads.append(1))
    model(ids, mask, logits_to_keep=2)
    assert len(heads) == 2, "segments that are not asked for run no head; these columns are in the last two"


def test_losses_are_those_of_transformers() -> None:
    ids, mask = padded([20, 11], special=True)
    tokens = random_text(2, 20, seed=5).masked_fill(mask == 0, -100)
    tokens[:, ::3] = -100
    cases: list[tuple[str, dict[str, Tensor]]] = [
        ("ForSequenceClassification", {"labels": torch.tensor([2, 0])}),
        ("ForSequenceClassification", {"labels": torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]])}),
        ("ForMaskedLM", {"labels": tokens}),
        ("ForTokenClassification", {"labels": torch.where(tokens == -100, -100, tokens % 3)}),
    ]
    for head, labels in cases:
        base = build_encoder("bert", head)
        model = RMT(num_memory_tokens=0, segment_length=40, cls_token_id=CLS, sep_token_id=SEP).adapt(base)
        assert torch.allclose(model(ids, mask, **labels).loss, base(ids, mask, **labels).loss, **CLOSE)
    ids = ids[:1]
    base = build_encoder("bert", "ForQuestionAnswering")
    model = RMT(num_memory_tokens=0, segment_length=40, cls_token_id=CLS, sep_token_id=SEP).adapt(base)
    for end in (9, 99):
        spans = {"start_positions": torch.tensor([4]), "end_positions": torch.tensor([end])}
        if end == 99:  # past the input: transformers ignores it, and the mean over nothing is no number
            assert torch.isnan(model(ids, **spans).loss) == torch.isnan(base(ids, **spans).loss)
        else:
            assert torch.allclose(model(ids, **spans).loss, base(ids, **spans).loss, **CLOSE)


@torch.no_grad()
def test_token_types_follow_their_tokens() -> None:
    base = build_encoder("bert", "ForTokenClassification")
    ids, mask = padded([20, 11], special=True)
    types = (torch.arange(20) > 6).long().expand(2, -1)
    model = RMT(num_memory_tokens=0, segment_length=40, cls_token_id=CLS, sep_token_id=SEP).adapt(base)
    expected, found = base(ids, mask, types).logits, model(ids, mask, token_type_ids=types).logits
    assert torch.allclose(found[mask.bool()], expected[mask.bool()], **CLOSE)
    assert not torch.allclose(model(ids, mask).logits[mask.bool()], expected[mask.bool()], **CLOSE)


@torch.no_grad()
def test_a_gate_can_write_exactly_nothing_and_everything() -> None:
    model = adapted("bert", "ForSequenceClassification", update="gated")
    assert float(RMT(update="gated").adapt(build_encoder("bert", "Model")).write_gate.bias) == 1.0
    ids, memory = random_text(2, 30), torch.randn(2, 3, 32)
    model.write_gate.weight.zero_()
    model.write_gate.bias.fill_(-4.0)
    nothing = model(ids, memory=memory)
    assert torch.equal(nothing.memory, memory) and float(nothing.mean_write) == 0.0
    model.write_gate.bias.fill_(4.0)
    replaced = adapted("bert", "ForSequenceClassification")(ids, memory=memory)
    assert torch.allclose(model(ids, memory=memory).memory, replaced.memory, **CLOSE)


def test_the_penalty_counts_in_training_only() -> None:
    model = adapted("bert", "ForSequenceClassification", update="gated", write_penalty=0.5)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    ids, labels = random_text(2, 30), torch.tensor([0, 1])
    plain = model(ids, labels=labels)
    trained = model.train()(ids, labels=labels)
    assert torch.allclose(trained.loss, plain.loss + 0.5 * plain.mean_write, **CLOSE)
    model.write_penalty = 0.0
    assert torch.allclose(model(ids, labels=labels).loss, plain.loss, **CLOSE)


@torch.no_grad()
def test_hidden_states_are_not_collected() -> None:
    import weakref

    model = adapted("bert", "ForSequenceClassification")
    alive: list[Any] = []
    most = []

    def count(module: Any, arguments: Any, output: Any) -> None:
        alive.append(weakref.ref(output[0]))
        most.append(sum(reference() is not None for reference in alive))

    model.base.bert.register_forward_hook(count)
    model(random_text(2, 7 * 40))
    assert len(most) == 40 and max(most) <= 2


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks for it
def test_an_adapter_of_weights_below_the_memory_is_trained() -> None:
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(r=2, target_modules=["query", "value"], task_type="SEQ_CLS", init_lora_weights=False)
    base = peft.get_peft_model(build_encoder("bert", "ForSequenceClassification"), lora).eval()
    model = RMT(num_memory_tokens=3, segment_length=7, cls_token_id=CLS, sep_token_id=SEP).adapt(base)
    ids = random_text(2, 20)
    found = model(ids, token_type_ids=torch.ones_like(ids), labels=torch.tensor([0, 2]))
    found.loss.backward()
    answers, _, memory = encoder_row(model, ids[1].tolist())
    assert torch.allclose(model(ids).logits[1], answers[-1].logits[0], **CLOSE)
    assert not torch.allclose(found.memory[1], memory[0], **CLOSE), "the types are read"
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert "initial_memory" in trained and all(
        "lora" in name or "classifier" in name for name in trained - {"initial_memory"}
    )


@torch.no_grad()
def test_a_reader_holds_an_encoder_and_saves_its_memory(tmp_path: Path) -> None:
    method = RMT(num_memory_tokens=3, segment_length=7, update="gated")
    reader = jrt.wrap(build_encoder("bert", "ForSequenceClassification"), method)
    ids = random_text(2, 30)
    reader.save_pretrained(tmp_path / "saved")
    again = jrt.Reader.from_pretrained(tmp_path / "saved", build_encoder("bert", "ForSequenceClassification"))
    assert set(reader.model.learned()) == {
        "initial_memory", "write_norm.weight", "write_norm.bias", "write_gate.weight", "write_gate.bias",
    }  # fmt: skip
    assert torch.equal(again(ids).logits, reader(ids).logits)
    fresh = jrt.wrap(build_encoder("bert", "ForSequenceClassification"), method)
    assert not torch.equal(fresh(ids).logits, reader(ids).logits)
