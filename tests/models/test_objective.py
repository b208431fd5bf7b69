"""The two losses ask for exactly the tokens that they should, and the collator hides what it says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from released import build, random_ids
from text import word_tokenizer

from jrt.errors import InvalidOptionError, TokenizerError
from jrt.models.objective import RegionCollator

MASK = 63


def blocks(count: int, length: int) -> list[list[int]]:
    return (random_ids(count, length) % 60).tolist()


@settings(deadline=None, max_examples=40)
@given(encoder=st.integers(1, 40), decoder=st.integers(1, 10), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_the_collator_hides_the_share_and_asks_for_the_rest(
    encoder: int, decoder: int, share: float, seed: int
) -> None:
    rows = blocks(3, encoder + decoder)
    batch = RegionCollator(MASK, encoder, decoder, share, seed)(rows)
    ids = torch.tensor(rows)
    hidden = batch["mlm_labels"] != -100
    assert bool((batch["input_ids"][hidden] == MASK).all()) and torch.equal(batch["mlm_labels"][hidden], ids[hidden])
    assert torch.equal(batch["input_ids"][~hidden], ids[~hidden])
    expected = max(1, round(share * encoder)) if share else 0
    assert hidden[:, :encoder].sum(1).tolist() == [expected] * 3 and not hidden[:, encoder:].any()
    assert bool((batch["labels"][:, :encoder] == -100).all())
    assert torch.equal(batch["labels"][:, encoder:], ids[:, encoder:])
    assert batch["prefix_length"].tolist() == [encoder] * 3 and bool((batch["attention_mask"] == 1).all())


def test_what_is_hidden_follows_from_seed_and_block_alone() -> None:
    rows = blocks(6, 50)
    together = RegionCollator(MASK, 40, 10)(rows)["mlm_labels"]
    collator = RegionCollator(MASK, 40, 10)
    alone = torch.cat([collator([row])["mlm_labels"] for row in reversed(rows)]).flip(0)
    assert torch.equal(together, alone)
    assert len({tuple((row != -100).nonzero()[:, 0].tolist()) for row in together}) == 6, "not the same places always"
    assert not torch.equal(together, RegionCollator(MASK, 40, 10, seed=1)(rows)["mlm_labels"])


def test_places_are_hidden_evenly() -> None:
    batch = RegionCollator(MASK, 20, 1, 0.15)(blocks(2000, 21))
    counts = (batch["mlm_labels"] != -100).sum(0)[:20].float()
    assert float(counts.mean()) == 300 and float(counts.std()) < 3 * 300**0.5


def test_shorter_blocks_are_padded_on_the_right() -> None:
    rows = [blocks(1, 12)[0], blocks(1, 9)[0]]
    collator = RegionCollator(MASK, 8, 4)
    batch = collator([{"input_ids": row} for row in rows])
    assert batch["attention_mask"].sum(1).tolist() == [12, 9]
    assert batch["labels"][1].tolist() == [-100] * 8 + rows[1][8:] + [-100] * 3
    model = build("jrt")
    losses = model(**batch)
    expected = [model(**collator([row])) for row in rows]
    total = sum(output.ntp_loss * count for output, count in zip(expected, (4, 1), strict=True)) / 5
    assert float((losses.ntp_loss - total).detach().abs()) < 1e-12


def test_the_loss_is_what_its_formula_says() -> None:
    model, rows = build("jrt"), blocks(2, 14)
    batch = RegionCollator(MASK, 8, 6, 0.4)(rows)
    output = model(**batch)
    ids, logits = torch.tensor(rows), output.logits
    ntp = F.cross_entropy(logits[:, 7:13].flatten(0, 1), ids[:, 8:].flatten())
    hidden = batch["input_ids"][:, :8] == MASK
    mlm = F.cross_entropy(logits[:, :8][hidden], ids[:, :8][hidden])
    assert float((output.ntp_loss - ntp).detach().abs()) < 1e-12
    assert float((output.mlm_loss - mlm).detach().abs()) < 1e-12
    assert float((output.loss - ntp - 0.25 * mlm).detach().abs()) < 1e-12


def test_labels_inside_the_prefix_are_not_asked_for() -> None:
    model, ids = build("jrt"), random_ids(2, 14)
    some = ids.clone()
    some[:, :5] = -100
    assert torch.equal(model(ids, labels=ids, prefix_length=5).loss, model(ids, labels=some, prefix_length=5).loss)
    for padding in ("strict", "legacy"):
        with pytest.raises(InvalidOptionError, match="nothing to learn"):
            build("jrt", padding=padding)(ids, labels=ids, prefix_length=14)
    free = build("jrt")(ids, labels=ids, prefix_length=0).loss
    assert (
        float(
            (
                free
                - F.cross_entropy(build("jrt")(ids, prefix_length=0).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
            )
            .detach()
            .abs()
        )
        < 1e-12
    )


@pytest.mark.parametrize("model_type", ["based", "jrt"])
def test_padding_predicts_nothing_on_either_side(model_type: str) -> None:
    model, ids = build(model_type), random_ids(2, 21)
    options = {"prefix_length": 0} if model_type == "jrt" else {}
    alone = [model(row, labels=row, **options).loss * (row.shape[1] - 1) for row in (ids[:1], ids[1:, 8:])]
    expected = sum(alone) / (20 + 12)
    for shift in (0, -8):
        mask = torch.ones_like(ids)
        mask[1, :8] = 0
        rows, mask = (torch.stack([x[0], x[1].roll(shift)]) for x in (ids, mask))
        labels = rows.masked_fill(mask == 0, -100)
        torch.testing.assert_close(model(rows, mask, labels=labels, **options).loss, expected)
    for labels in (ids[:, 1:], torch.cat([ids, ids], 1)):
        with pytest.raises(InvalidOptionError, match="labels have the shape"):
            model(ids, labels=labels, **options)


def test_half_precision_logits_are_summed_in_float32() -> None:
    model, ids = build("jrt", dtype=torch.bfloat16), random_ids(2, 14)
    assert model(ids, labels=ids, prefix_length=5).loss.dtype == torch.float32


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(TokenizerError, match="mask token"):
        RegionCollator(word_tokenizer(), 8, 4)
    for arguments in ((0, 4), (8, 0), (8, 4, 1.5)):
        with pytest.raises(InvalidOptionError, match="encoder_length"):
            RegionCollator(MASK, *arguments)
    for length in (8, 13):
        with pytest.raises(InvalidOptionError, match=f"has {length} tokens"):
            RegionCollator(MASK, 8, 4)(blocks(1, length))
    tokenizer = word_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "<unk>"})
    assert RegionCollator(tokenizer, 8, 4).mask_id == tokenizer.unk_token_id
