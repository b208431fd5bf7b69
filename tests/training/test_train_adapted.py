"""Training methods on base models: stages of segments, gates, penalties, and what is saved and resumed."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from built_kind import built
from safetensors.torch import load_file
from train_child import child

import jrt
from jrt.errors import InvalidOptionError, UnknownNameError, UnsupportedModelError
from jrt.evals.training_rows import TaskRows
from jrt.training.kinds import kind_class
from jrt.training.kinds.adapted import AdaptedKind
from jrt.training.run import Trained, train
from jrt.training.trainer import FINISHED

torch.set_num_threads(1)
KINDS = ("rmt", "infini")


def run(kind: str, options: dict[str, Any], out: Path, **arguments: Any) -> Trained:
    chosen = kind_class(kind).settings_class(**options)
    rows = TaskRows(chosen.task, chosen.methods, chosen.seed).with_tokenizer if chosen.task else None
    return train(kind, chosen, out, task_rows=rows, **arguments)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a saved reader."""
    return load_file(folder / "model.safetensors") | load_file(folder / "learned.safetensors")


@pytest.fixture(scope="module")
def unbroken(adapted: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    folder = tmp_path_factory.mktemp("unbroken")
    return {kind: run(kind, adapted[kind], folder / kind) for kind in KINDS}


@pytest.mark.parametrize(
    ("kind", "death"),
    [("rmt", {"stage": "2-segments", "kill_after": 3}), ("infini", {"kill_in_save": 4})],  # the first save of stage 2
)
def test_killed_in_a_later_stage_and_resumed_is_unbroken(
    kind: str, death: dict[str, Any], adapted: dict[str, Any], unbroken: dict[str, Trained], tmp_path: Path
) -> None:
    killed = child({"kind": kind, "settings": adapted[kind], "out": tmp_path / "run", **death})
    said, _ = killed.communicate(timeout=600)
    assert killed.returncode == -signal.SIGKILL, said
    stages = {path.parent.name for path in (tmp_path / "run").glob("checkpoints/*/checkpoint-*")}
    assert stages == ({"1-segments", "2-segments"} if kind == "rmt" else {"1-segments"})
    steps: list[tuple[str, float]] = []
    told = {"resume": True, "report": lambda stage, logged: steps.append((stage, logged["step"]))}
    resumed = run(kind, adapted[kind], tmp_path / "run", **told)
    assert min(steps) == ("2-segments", 3 if kind == "rmt" else 1) and max(steps) == ("2-segments", 6)
    expected = weights(unbroken[kind].folder)
    found = weights(resumed.folder)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    for stage, entries in unbroken[kind].log.items():
        assert [e["loss"] for e in resumed.log[stage] if "loss" in e] == [e["loss"] for e in entries if "loss" in e]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_reads_like_what_was_trained(
    kind: str, adapted: dict[str, Any], bases: dict[str, Path], unbroken: dict[str, Trained]
) -> None:
    folder = unbroken[kind].folder
    reader = jrt.load(str(folder), device="cpu")
    assert [method.kind for method in reader.methods] == [kind]
    original = load_file(bases["encoder" if kind == "rmt" else "decoder"] / "model.safetensors")
    trained = load_file(folder / "model.safetensors")
    shared = [name for name in original if name in trained and trained[name].dim() > 1]
    assert shared and all(not torch.equal(original[name], trained[name]) for name in shared if "position" not in name)
    if kind == "rmt":
        assert reader.model.base.config.id2label[0] == "bathroom"
        assert reader.model.method.sep_token_id == reader.tokenizer.sep_token_id
    checkpoint = folder.parent / "checkpoints" / "2-segments" / "checkpoint-6"
    assert (checkpoint / FINISHED).exists()
    again = jrt.load(str(checkpoint), device="cpu").model.learned()
    assert all(torch.equal(again[name], tensor) for name, tensor in reader.model.learned().items())


def test_stages_and_lengths(adapted: dict[str, Any]) -> None:
    kind, model = built("rmt", adapted["rmt"] | {"segments": 3, "first_steps": 5, "first_learning_rate": 1e-4})
    stages = kind.stages()
    assert [(s.segments, s.steps, s.learning_rate) for s in stages] == [(1, 5, 1e-4), (2, 6, 1e-2), (3, 6, 1e-2)]
    drawn = [[kind.length(model, stage, step) for step in range(200)] for stage in stages]
    for stage, lengths in zip(stages, drawn, strict=True):
        assert set(lengths) == {24 * count for count in range(1, stage.segments + 1)}
        assert kind.longest(model, stage) == 24 * stage.segments
    fixed, _ = built("rmt", adapted["rmt"] | {"segments": 3, "lengths": "fixed", "curriculum": False})
    (only,) = fixed.stages()
    assert {fixed.length(model, only, step) for step in range(20)} == {72}


def test_rows_of_a_task_fill_the_segments_and_keep_the_splits_apart(adapted: dict[str, Any]) -> None:
    kind, _ = built("rmt", adapted["rmt"])
    rows, tokenizer = TaskRows("memorize", "once", 0).with_tokenizer(kind.tokenizer)
    facts: dict[str, set[str]] = {"train": set(), "validation": set()}
    for split, said in facts.items():
        for index in range(100):
            row = rows(split, index, 48)  # type: ignore[arg-type]
            assert 40 <= len(row.input_ids) <= 48
            words = tokenizer.decode(row.input_ids[: row.prefix_length], skip_special_tokens=True)
            said.add(words.split(".")[0].strip())
            batch = kind.collate([row])
            assert batch["labels"].tolist() == [list(kind.classes or ()).index(str(row.answer))]
            assert batch["input_ids"].shape[1] == row.prefix_length
    assert len(facts["train"]) > 20 and len(facts["validation"]) > 5 and not facts["train"] & facts["validation"]


def test_a_stage_ends_when_its_target_is_reached(adapted: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    trained = run("rmt", adapted["rmt"] | {"target_loss": 100.0}, out)
    assert list(trained.log) == ["1-segments", "2-segments"]
    for stage, entries in trained.log.items():
        assert max(entry["step"] for entry in entries) == 3
        assert (out / "checkpoints" / stage / "checkpoint-3" / FINISHED).exists()
    before = weights(trained.folder)
    after = weights(run("rmt", adapted["rmt"] | {"target_loss": 100.0}, out, resume=True).folder)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_stage_hands_on_its_best_checkpoint_and_the_last_one_is_the_model(
    adapted: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load = AdaptedKind.load_weights
    monkeypatch.setattr(
        AdaptedKind, "load_weights", lambda self, model, folder: (loaded.append(str(folder)), load(self, model, folder))
    )
    options = adapted["rmt"] | dict(load_best_model_at_end=True, keep=1, save_every=100, evaluate_every=2, steps=7)
    trained = run("rmt", options | dict(learning_rate=0.3, evaluation_rows=16, schedule="constant"), tmp_path)
    best = {}
    for stage, entries in trained.log.items():
        scores = {entry["step"]: entry["eval_accuracy"] for entry in entries if "eval_accuracy" in entry}
        assert set(scores) == {2, 4, 6, 7}, "the last step is evaluated too"
        best[stage] = max(scores, key=lambda step: (scores[step], -step))
        kept = sorted(path.name for path in (tmp_path / "checkpoints" / stage).iterdir())
        assert kept == sorted({f"checkpoint-{best[stage]}", "checkpoint-7"})
    assert set(best.values()) != {7}, "a run in which the last step is not always the best one"
    folders = [tmp_path / "checkpoints" / stage / f"checkpoint-{step}" for stage, step in best.items()]
    assert loaded == [str(folder) for folder in folders]
    for name, tensor in weights(folders[-1]).items():
        assert torch.equal(tensor, weights(trained.folder)[name])


def test_the_optimizer_goes_on_where_it_is_asked_to(adapted: dict[str, Any], tmp_path: Path) -> None:
    for restart, counted in ((True, 3), (False, 6)):
        out = tmp_path / str(restart)
        run("rmt", adapted["rmt"] | {"restart_optimizer": restart, "steps": 3, "evaluation_rows": 0}, out)
        state = torch.load(out / "checkpoints" / "2-segments" / "checkpoint-3" / "optimizer.pt")["state"]
        assert {int(entry["step"]) for entry in state.values()} <= set(range(1, counted + 1))
        assert max(int(entry["step"]) for entry in state.values()) == counted
        last = json.loads((out / "training.json").read_text())["log"]["2-segments"][0]["learning_rate"]
        assert last == pytest.approx(1e-2 * (1.0 if restart else 0.5), rel=1e-6)  # the cosine at its start and halfway


@pytest.mark.parametrize("kind", KINDS)
def test_the_optimizer_goes_on_at_the_learning_rate_of_the_stage(
    kind: str, adapted: dict[str, Any], tmp_path: Path
) -> None:
    changes = {"first_learning_rate": 1e-4, "learning_rate": 1e-3, "schedule": "constant", "restart_optimizer": False}
    options = adapted[kind] | changes | {"steps": 3, "save_every": 1, "keep": 9, "evaluation_rows": 0}
    trained = run(kind, options, tmp_path)
    for stage, rate in (("1-segments", 1e-4), ("2-segments", 1e-3)):
        logged = [entry["learning_rate"] for entry in trained.log[stage] if "learning_rate" in entry]
        assert logged == pytest.approx([rate] * 3)
        saved = torch.load(tmp_path / "checkpoints" / stage / "checkpoint-3" / "optimizer.pt")["param_groups"]
        assert [group["lr"] for group in saved] == pytest.approx([rate] * 2 + [0.01] * (len(saved) - 2))
        assert len(saved) == (3 if kind == "infini" else 2), "gates have a group of their own"


def test_gates_have_a_learning_rate_of_their_own_and_are_drawn(
    adapted: dict[str, Any], unbroken: dict[str, Trained]
) -> None:
    kind, model = built("infini", adapted["infini"] | {"gate_learning_rate": 0.5})
    *others, gates = kind.parameter_groups(model)
    assert gates["lr"] == 0.5 and gates["weight_decay"] == 0.0
    assert {id(gate) for gate in gates["params"]} == {id(gate) for gate in model.gates.parameters()}
    assert sum(len(group["params"]) for group in others) + 2 == len(list(model.parameters()))
    out = unbroken["infini"].folder.parent
    history = json.loads((out / "gates.json").read_text())
    assert [entry["step"] for entry in history] == list(range(1, 13))
    assert set(history[0]["gates"]) == {"0", "1"} and len(history[0]["gates"]["0"]) == 2
    values = jrt.load(str(out / "model"), device="cpu").model.gate_values()
    assert history[-1]["gates"]["1"] == pytest.approx(values[1].tolist(), abs=1e-6)
    assert (out / "gates.png").read_bytes()[:4] == b"\x89PNG"


def test_only_what_is_learned_is_trained(adapted: dict[str, Any], bases: dict[str, Path], tmp_path: Path) -> None:
    options = adapted["infini"] | {"learned_only": True, "curriculum": False, "gate_learning_rate": 0.1}
    trained = run("infini", options, tmp_path / "run")
    before, after = load_file(bases["decoder"] / "model.safetensors"), weights(trained.folder)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    gates = jrt.load(str(trained.folder), device="cpu").model.gate_values()
    assert all(abs(float(value) - torch.sigmoid(torch.tensor(-4.0))) > 1e-3 for value in gates[0])
    with pytest.raises(InvalidOptionError, match="adds no weights to learn"):
        run(
            "rmt",
            adapted["rmt"] | {"learned_only": True, "method": "num_memory_tokens=0,segment_length=24"},
            tmp_path / "no",
        )


def test_the_write_penalty_starts_with_its_stage(adapted: dict[str, Any]) -> None:
    method = "num_memory_tokens=2,segment_length=24,update=gated,write_penalty=0.05"
    kind, model = built("rmt", adapted["rmt"] | {"method": method, "segments": 3, "penalty_from": 3})
    penalties = []
    for stage in kind.stages():
        kind.begin(model, stage)
        penalties.append(model.write_penalty)
    assert penalties == [0.0, 0.0, 0.05]


def test_text_for_decoders(options: dict[str, Any], adapted: dict[str, Any], tmp_path: Path) -> None:
    text = {"task": None, "text": options["text"], "tokenizer": options["tokenizer"], "steps": 3}
    memory = "num_memory_tokens=2,segment_length=24,update=gated,write_penalty=0.1"
    for kind, changes in (("infini", {"optimizer": "adafactor"}), ("rmt", {"method": memory})):
        chosen = adapted["infini"] | text | changes | {"checkpoint_activations": True}
        trained = run(kind, chosen, tmp_path / kind)
        entries = [entry for entry in trained.log["2-segments"] if "loss" in entry]
        assert len(entries) == 3 and all(entry["loss"] > 0 for entry in entries)
        if kind == "rmt":
            assert all(0 < entry["mean_write"] <= 1 for entry in entries)
        assert jrt.load(str(trained.folder), device="cpu").methods[0].kind == kind


def test_what_is_written_is_measured_in_bfloat16_as_in_float32(adapted: dict[str, Any], tmp_path: Path) -> None:
    """In the first stage no row fills its segment: nothing is written, so nothing is measured."""
    method = "num_memory_tokens=2,segment_length=24,update=gated"
    options = adapted["infini"] | {"method": method, "lengths": "fixed", "steps": 3}
    logs = [run("rmt", options | {"bf16": bf16}, tmp_path / str(bf16)).log for bf16 in (False, True)]
    for name, count in (("mean_write", 3), ("eval_mean_write", 1), ("eval_accuracy", 1)):
        wide, narrow = ([entry[name] for entry in log["2-segments"] if name in entry] for log in logs)
        assert len(wide) == count and narrow == pytest.approx(wide, abs=0.02), name
        assert name == "eval_accuracy" or not any(name in entry for log in logs for entry in log["1-segments"])
    wide, narrow = ([entry["loss"] for entry in log["1-segments"] if "loss" in entry] for log in logs)
    assert wide != narrow and narrow == pytest.approx(wide, rel=0.02), "it does compute in bfloat16"


def test_an_encoder_does_not_foresee_what_it_sees(
    options: dict[str, Any], adapted: dict[str, Any], tmp_path: Path
) -> None:
    text = {"task": None, "text": options["text"], "tokenizer": options["tokenizer"]}
    for name, changes in (("text", text), ("task", {})):
        with pytest.raises(UnsupportedModelError, match=r"encoder.*--head classification --task.*--model gpt2"):
            run("rmt", adapted["rmt"] | changes | {"head": "causal"}, tmp_path / name)


def test_a_head_of_other_classes_gives_way_to_a_new_one(adapted: dict[str, Any], tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    two = AutoModelForSequenceClassification.from_pretrained(adapted["rmt"]["model"], num_labels=2)
    two.save_pretrained(tmp_path / "two")
    AutoTokenizer.from_pretrained(adapted["rmt"]["model"]).save_pretrained(tmp_path / "two")
    _, model = built("rmt", adapted["rmt"] | {"model": str(tmp_path / "two")})
    assert model.base.config.num_labels == 6 and model.base.classifier.weight.shape == (6, 16)
    assert torch.equal(model.base.bert.embeddings.word_embeddings.weight, two.bert.embeddings.word_embeddings.weight)
    config = json.loads((tmp_path / "two" / "config.json").read_text())
    (tmp_path / "two" / "config.json").write_text(json.dumps(config | {"intermediate_size": 24}))
    with pytest.raises(UnsupportedModelError, match=r"do not fit its config.json: .*is \(16"):
        built("rmt", adapted["rmt"] | {"model": str(tmp_path / "two")})


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("rmt", {"model": ""}, "base model is needed"),
        ("rmt", {"task": "passkey"}, "A classifier chooses from a list of answers"),
        ("rmt", {"method": "num_memory_tokens=2,segment_length=64"}, "BertForSequenceClassification has 40 positions"),
        ("rmt", {"method": "segments=3"}, "RMT has no option 'segments'"),
        ("infini", {"head": "causal"}, "no option 'head'"),
        ("infini", {"segments": 0}, "segments=0"),
        ("rmt", {"load_best_model_at_end": True, "evaluation_rows": 0}, "needs evaluations"),
    ],
)
def test_refusals(kind: str, changes: dict[str, Any], message: str, adapted: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises((InvalidOptionError, UnknownNameError), match=message):
        run(kind, adapted[kind] | changes, tmp_path / "run")
