"""Mamba models inside `adapt`: any chunks are the whole, the whole is transformers', and nothing is left behind."""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DynamicCache

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from zoo import build, random_ids

from jrt.adapters.mamba import adapt, describe

FAMILIES = ["mamba", "falcon_mamba", "jamba", "zamba"]
MAMBA_2 = ["mamba2", "bamba", "zamba2", "falcon_h1", "nemotron_h", "granite_moe_hybrid"]
STATE = {"mamba": "cache_params", "falcon_mamba": "cache_params", "mamba2": "cache_params"}
LENGTH = 41


def built(name: str) -> Any:
    """A model of the zoo; Zamba's projections, which begin at zero and so make its scan idle, are filled."""
    model = build(name)
    generator = torch.Generator().manual_seed(7)
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("x_proj_weight"):
            parameter.data.normal_(std=20.0, generator=generator)
    return model


def in_chunks(model: Any, family: str, ids: Tensor, cuts: list[int], **masks: Tensor) -> Tensor:
    """The logits of all tokens, read in chunks that end at `cuts`."""
    name, state, logits = STATE.get(family, "past_key_values"), None, []
    for first, last in zip([0, *cuts], [*cuts, ids.shape[1]], strict=True):
        seen = {
            key: mask[:, (0 if name == "past_key_values" and key == "attention_mask" else first) : last]
            for key, mask in masks.items()
        }
        output = model(ids[:, first:last], use_cache=True, **{name: state}, **seen)
        state = getattr(output, name)
        logits.append(output.logits)
    return torch.cat(logits, dim=1)


def error(found: Tensor, right: Tensor) -> float:
    """The largest difference, relative to the largest logit."""
    return float((found - right).abs().max() / right.abs().max())


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[str, Any, Tensor, Tensor]:
    """Name, model, ids, and transformers' logits for them at once."""
    model, ids = built(request.param), random_ids(2, LENGTH)
    with torch.no_grad():
        return request.param, model, ids, model(ids).logits


@torch.no_grad()
def test_the_whole_prompt_is_what_transformers_gives(family: tuple[str, Any, Tensor, Tensor]) -> None:
    name, model, ids, right = family
    with adapt(model):
        assert error(model(ids).logits, right) < 1e-4
        assert error(in_chunks(model, name, ids, []), right) < 1e-4


@settings(deadline=None, max_examples=15)
@given(cuts=st.sets(st.integers(1, LENGTH - 1), min_size=1, max_size=5))
@torch.no_grad()
def test_any_chunks_are_the_whole(family: tuple[str, Any, Tensor, Tensor], cuts: set[int]) -> None:
    name, model, ids, right = family
    with adapt(model):
        assert error(in_chunks(model, name, ids, sorted(cuts)), right) < 1e-4


@torch.no_grad()
def test_without_the_adapter_chunks_are_wrong(family: tuple[str, Any, Tensor, Tensor]) -> None:
    """What the adapter is for: when transformers becomes exact, this test says that it may go."""
    name, model, ids, right = family
    assert error(in_chunks(model, name, ids, [15]), right) > 1e-3


@torch.no_grad()
def test_padded_rows_in_chunks_are_the_rows_alone(family: tuple[str, Any, Tensor, Tensor]) -> None:
    name, model, ids, _ = family
    alone = model(ids[:1, 6:]).logits
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    positions = dict(position_ids=(mask.cumsum(-1) - 1).clamp_min(0)) if name == "jamba" else {}
    with adapt(model):
        for cuts in ([], [20], [3, 9, 30]):  # the second ends inside the padding
            logits = in_chunks(model, name, ids, cuts, attention_mask=mask, **positions)
            assert error(logits[:1, 6:], alone) < 1e-4, cuts


@torch.no_grad()
def test_generation_is_the_same_as_transformers(family: tuple[str, Any, Tensor, Tensor]) -> None:
    _, model, ids, _ = family
    options = dict(max_new_tokens=6, do_sample=False)
    right = model.generate(ids, **options)
    with adapt(model):
        assert torch.equal(model.generate(ids, **options), right)


def test_gradients_flow_through_chunks(family: tuple[str, Any, Tensor, Tensor]) -> None:
    name, model, ids, _ = family
    gradients = []
    for cuts in ([], [15, 30]):
        model.zero_grad()
        with adapt(model):
            in_chunks(model, name, ids, cuts).logsumexp(-1).sum().backward()
        gradients.append({key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None})
    model.zero_grad()
    assert any("A_log" in key for key in gradients[0])
    for key, right in gradients[0].items():
        assert (gradients[1][key] - right).norm() <= 1e-4 * right.norm() + 1e-6, key


def state_of_instances(model: Any) -> list[dict[str, Any]]:
    return [dict(vars(module)) for module in model.modules()]


@torch.no_grad()
def test_nothing_is_left_behind(family: tuple[str, Any, Tensor, Tensor]) -> None:
    name, model, ids, _ = family
    modelling = sys.modules[type(model).__module__]
    before, functions = state_of_instances(model), dict(vars(modelling))
    wrong = in_chunks(model, name, ids, [15])
    with pytest.raises(IndexError), adapt(model):
        model(ids + 10_000)
    with adapt(model):
        in_chunks(model, name, ids, [15])
        assert vars(modelling) == functions
    assert state_of_instances(model) == before
    assert torch.equal(in_chunks(model, name, ids, [15]), wrong)


@torch.no_grad()
def test_contexts_may_be_nested_and_may_overlap() -> None:
    model, ids = built("mamba"), random_ids(2, LENGTH)
    before, right = state_of_instances(model), model(ids).logits
    first, second = ExitStack(), ExitStack()
    first.enter_context(adapt(model))
    second.enter_context(adapt(model))
    first.close()  # the one that was entered first is left first
    assert error(in_chunks(model, "mamba", ids, [15]), right) < 1e-4
    second.close()
    assert state_of_instances(model) == before


def test_two_models_in_two_threads_do_not_disturb_each_other() -> None:
    ids = random_ids(2, LENGTH)
    adapted, plain = built("mamba"), built("mamba")
    failures: list[str] = []
    with torch.no_grad():
        right, wrong = plain(ids).logits, in_chunks(plain, "mamba", ids, [15])

    @torch.no_grad()
    def read(model: Any, expected: Tensor, allowed: float) -> None:
        for _ in range(6):
            found = error(in_chunks(model, "mamba", ids, [15]), expected)
            if found > allowed:
                failures.append(f"{found} > {allowed}")

    with adapt(adapted):
        threads = [
            threading.Thread(target=read, args=(adapted, right, 1e-4)),
            threading.Thread(target=read, args=(adapted, right, 1e-4)),
            threading.Thread(target=read, args=(plain, wrong, 0.0)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


@pytest.mark.filterwarnings("ignore:Dynamo detected")
@torch.no_grad()
def test_a_compiled_mixer_is_exact_inside_and_unchanged_outside() -> None:
    model, hidden = built("mamba"), torch.randn(1, 6, 64, generator=torch.Generator().manual_seed(0))
    mixer = model.backbone.layers[0].mixer
    compiled = torch.compile(mixer, backend="eager", dynamic=False)

    def second_half(module: Any) -> Tensor:
        cache = DynamicCache(config=model.config)
        module(hidden[:, :3], cache_params=cache)
        output: Tensor = module(hidden[:, 3:], cache_params=cache)
        return output

    right, wrong = mixer(hidden)[:, 3:], second_half(mixer)
    assert error(wrong, right) > 1e-3
    assert error(second_half(compiled), wrong) < 1e-5
    with adapt(model):
        assert error(second_half(compiled), right) < 1e-4
    assert error(second_half(compiled), wrong) < 1e-5


@torch.no_grad()
def test_hooks_of_accelerate_keep_working() -> None:
    hooks = pytest.importorskip("accelerate.hooks")
    fired = []

    class Counter(hooks.ModelHook):  # type: ignore[name-defined, misc]
        def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
            fired.append(module)
            return args, kwargs

    model, ids = built("mamba"), random_ids(2, LENGTH)
    right = model(ids).logits
    mixer = model.backbone.layers[0].mixer
    hooks.add_hook_to_module(mixer, Counter())
    hooks.add_hook_to_module(mixer.conv1d, Counter())  # fired by a decorator of the mixer's forward
    with adapt(model):
        assert error(in_chunks(model, "mamba", ids, [15]), right) < 1e-4
    assert fired == [mixer, mixer.conv1d] * 2
    hooks.remove_hook_from_module(mixer)
    hooks.remove_hook_from_module(mixer.conv1d)
    assert error(model(ids).logits, right) == 0.0


@torch.no_grad()
def test_half_precision_is_no_worse_than_transformers() -> None:
    ids = random_ids(2, LENGTH)
    right = built("mamba")(ids).logits
    model = built("mamba").to(torch.bfloat16)
    stock = error(model(ids).logits.float(), right)
    with adapt(model):
        assert error(model(ids).logits.float(), right) <= 1.2 * stock
        assert error(in_chunks(model, "mamba", ids, [15]).float(), right) <= 2 * stock


@pytest.mark.parametrize("name", MAMBA_2)
@torch.no_grad()
def test_mamba_2_takes_small_chunks_with_the_same_result(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = built(name), random_ids(2, 90)
    mixers = [module for module in model.modules() if hasattr(module, "chunk_size") and hasattr(module, "A_log")]
    for mixer in mixers:
        monkeypatch.setattr(mixer, "chunk_size", 256)
    right, taken = model(ids).logits, []
    scope = vars(sys.modules[type(mixers[0]).__module__])
    original = scope["mamba2_chunk_scan"]
    monkeypatch.setitem(
        scope,
        "mamba2_chunk_scan",
        lambda *args, chunk_size, **kwargs: (
            taken.append(chunk_size) or original(*args, chunk_size=chunk_size, **kwargs)
        ),
    )
    with adapt(model):
        assert error(model(ids).logits, right) < 1e-5
        model(ids[:, :20])
    assert set(taken) == {64, 20} and {mixer.chunk_size for mixer in mixers} == {256}
    model(ids[:, :20])
    assert taken[-1] == 256


@torch.no_grad()
def test_other_models_are_not_touched() -> None:
    model = built("llama")
    before = state_of_instances(model)
    with adapt(model):
        assert state_of_instances(model) == before
    assert describe(model) == []


def test_describe_says_which_path_and_why_not_a_faster_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JRT_KERNELS", "torch")
    (report,) = describe(built("mamba"))
    assert (report.mixer, report.count, report.device, report.path) == ("MambaMixer", 3, "cpu", "torch")
    assert set(dict(report.passed_over)) == {"mamba_ssm", "triton", "compiled"}
    assert "3 x MambaMixer on cpu: torch" in str(report) and "not compiled: JRT_KERNELS=torch is set" in str(report)
    (report,) = describe(built("mamba2"))
    assert report.mixer == "Mamba2Mixer" and "at most 64" in report.path
    (report,) = describe(built("mamba").to("meta"))
    assert report.device == "meta" and report.path == "torch"
