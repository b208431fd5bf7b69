"""Perplexity: any chunking equals one shot and a float64 loop; windows equal transformers' protocol; refusals."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

import pytest
import torch
from text import DOCUMENT, word_tokenizer
from torch import Tensor
from zoo import build, random_ids

import jrt
from jrt.adapters.infini import InfiniAttention
from jrt.errors import ContextTooLongError, EmptyInputError, InputNotFoundError, InvalidOptionError
from jrt.evals import perplexity as module
from jrt.evals.perplexity import Protocol, perplexity, token_losses

IDS = random_ids(1, 40)
READERS = ["llama", "mamba", "infini"]


def reader(name: str) -> Any:
    if name != "infini":
        return jrt.wrap(build(name), tokenizer=word_tokenizer())
    found = jrt.wrap(build("llama"), InfiniAttention(8), tokenizer=word_tokenizer())
    for parameter in found.model.gates.parameters():
        parameter.data.fill_(0.5)
    return found


def costs(model: Any, ids: Tensor) -> Tensor:
    """What every token of a row but the first costs, in float64, one at a time, from one forward."""
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0].double()
    return torch.stack([row.logsumexp(0) - row[token] for row, token in zip(logits[:-1], ids[0, 1:], strict=True)])


@pytest.mark.parametrize("name", READERS)
def test_any_chunking_is_one_shot(name: str) -> None:
    """To 1e-5 of the largest cost: the models compute in float32, and a scan in parts adds up in another order."""
    found = reader(name)
    expected = costs(found.model, IDS)
    for size in (1, 7, 8, 512):
        assert (token_losses(found, IDS, Protocol(chunk_size=size)) - expected).abs().max() < 1e-5 * expected.max()


def test_the_state_is_read() -> None:
    """What the memory hands on matters: windows as long as a segment, which forget, cost something else."""
    found = reader("infini")
    state, reset = (token_losses(found, IDS, Protocol(way, window=8, stride=8)) for way in ("state", "reset"))
    assert (state[:8] - reset[:8]).abs().max() < 1e-5
    assert (state[8:] - reset[8:]).abs().max() > 1e-2


@pytest.mark.parametrize(("window", "stride"), [(12, 5), (12, 12), (7, 1), (64, 3)])
def test_windows_are_those_of_transformers(window: int, stride: int) -> None:
    """The loop of transformers' page on perplexity, with a maximum length of one more than what is read."""
    found, expected, before = reader("llama"), [], 1
    for begin in range(0, IDS.shape[1], stride):
        end = min(begin + window + 1, IDS.shape[1])
        expected.append(costs(found.model, IDS[:, begin:end])[before - end :] if end > before else torch.empty(0))
        before = end
        if end == IDS.shape[1]:
            break
    losses = token_losses(found, IDS, Protocol("sliding", window=window, stride=stride))
    assert losses.shape == (39,) and (losses - torch.cat(expected)).abs().max() < 1e-5


def test_a_report_adds_up() -> None:
    found = reader("llama")
    texts = [DOCUMENT * 8, DOCUMENT]
    report = perplexity(found, texts, Protocol("sliding", window=100, stride=50))
    rows = [torch.tensor([found.tokenizer(text)["input_ids"]]) for text in texts]
    losses = [token_losses(found, ids, Protocol("sliding", window=100, stride=50)) for ids in rows]
    total, tokens = float(sum(loss.sum() for loss in losses)), sum(map(len, losses))
    assert report["tokens"] == tokens and report["bytes"] == sum(map(len, texts))
    assert report["nats_per_token"] == pytest.approx(total / tokens)
    assert report["perplexity"] == pytest.approx(math.exp(total / tokens))
    assert report["bits_per_byte"] == pytest.approx(total / math.log(2) / report["bytes"])
    first, second = report["by_position"]
    assert (first["tokens"], second["tokens"]) == (128 + len(losses[1]), tokens - 128 - len(losses[1]))
    assert second["nats_per_token"] == pytest.approx(float(losses[0][128:].mean()))


def test_tokens_in_front_are_read_and_not_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    found = reader("llama")
    plain = perplexity(found, [DOCUMENT], Protocol())
    encode = module.encode
    monkeypatch.setattr(module, "encode", lambda *a, special: [1] * special + encode(*a, special=special))
    assert perplexity(found, [DOCUMENT], Protocol())["tokens"] == plain["tokens"] + 1


def test_refusals(tmp_path: Path) -> None:
    llama = reader("llama")
    with pytest.raises(ContextTooLongError, match=r"reads 256 tokens.*299.*--ways sliding,reset --window 256"):
        token_losses(llama, random_ids(1, 300), Protocol())
    assert len(token_losses(llama, random_ids(1, 300), Protocol("reset", window=256, stride=1))) == 299
    assert len(token_losses(reader("infini"), random_ids(1, 300), Protocol())) == 299
    with pytest.raises(ContextTooLongError, match="sliding way reads 299"):
        token_losses(llama, random_ids(1, 300), Protocol("sliding", window=400))
    with pytest.raises(InvalidOptionError, match="reads a text twice"):
        token_losses(llama.with_methods(jrt.JRTPrompt(passes=2)), IDS, Protocol())
    with pytest.raises(EmptyInputError, match="empty"):
        perplexity(llama, ["Mira", " \n"], Protocol())
    with pytest.raises(EmptyInputError, match="nothing to predict"):
        perplexity(llama, ["Mira"], Protocol())
    with pytest.raises(InvalidOptionError, match="stride=0"):
        Protocol(stride=0)
    with pytest.raises(InvalidOptionError, match="no way 'all'"):
        Protocol("all")  # type: ignore[arg-type]
    with pytest.raises(InputNotFoundError, match="no text file"):
        module.read_text(tmp_path / "none.txt")


def test_the_command_writes_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "new" / "out.json"
    text.write_text(DOCUMENT)
    out.parent.mkdir()
    monkeypatch.setattr(jrt, "load", lambda name, *methods, device: reader("mamba"))
    monkeypatch.setattr(sys, "argv", ["x", "tiny", str(text), "--window", "8", "--stride", "4", "--out", str(out)])
    module.main()
    report = json.loads(out.read_text())
    assert [found["way"] for found in report["results"]] == ["state", "sliding", "reset"]
    assert len({found["tokens"] for found in report["results"]}) == 1
    assert report["command"].endswith(f"--out {out}") and set(report["versions"]) >= {"jrt", "torch", "transformers"}
