"""The Triton kernels of Taylor attention: when they are taken, how they are launched, what the compiler makes of it."""

from __future__ import annotations

import importlib.util
import json
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jrt.kernels.taylor import paths, taylor_attention, taylor_state, taylor_step, tune, tuning
from jrt.kernels.taylor.paths import Situation, choose
from jrt.kernels.taylor.tuning import Launch

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
CUDA = torch.device("cuda")
H200 = 132


# The path of a call.


@needs_triton
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_gpu_takes_triton(dtype: torch.dtype) -> None:
    assert choose(Situation(CUDA, dtype)) == paths.Choice("triton", ())


@pytest.mark.parametrize(
    ("situation", "reason"),
    [
        (Situation(torch.device("cpu")), "CUDA device"),
        (Situation(CUDA, torch.float64), "float32"),
        (Situation(CUDA, feature_dim=8), "feature dimension of 16"),
        (Situation(CUDA, capability=(7, 5)), "Ampere"),
        (Situation(CUDA, shared_memory=65_536), "65536"),
        (Situation(CUDA, torch.float16, shared_memory=101_376), "137000 bytes of shared memory"),
    ],
)
def test_everything_else_takes_torch_and_says_why(situation: Situation, reason: str) -> None:
    choice = choose(situation)
    assert choice.path == "torch" and reason in dict(choice.passed_over)["triton"]


def test_the_switch_turns_triton_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JRT_KERNELS", "torch")
    assert "JRT_KERNELS=torch" in dict(choose(Situation(CUDA)).passed_over)["triton"]


def test_cpu_tensors_are_never_given_to_triton_by_themselves() -> None:
    assert paths.implementation(torch.zeros(1, 1, 1, 16)).__name__ == "jrt.kernels.taylor.torch_path"


# The launch.


@pytest.mark.parametrize(
    ("rows", "length", "segments"),
    [(256, 32768, 1), (132, 32768, 2), (16, 32768, 16), (1, 32768, 64), (1, 500, 1), (1, 1, 1), (2, 1024, 2)],
)
def test_few_heads_are_split_until_they_fill_a_gpu(rows: int, length: int, segments: int) -> None:
    assert Launch().segments(rows, length, 64, H200) == segments


def test_wide_values_count_as_more_programs() -> None:
    assert [Launch().segments(132, 32768, width, H200) for width in (64, 112, 128)] == [2, 1, 1]


def test_a_device_that_was_measured_is_launched_as_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, best = tmp_path / "tuned.json", Launch(block_t=128, num_warps=8, stages=3)
    tune.write(table, "GPU A", {"forward/bf16/64": best})
    tune.write(table, "GPU B", {"forward/bf16/64": Launch(fill=1)})
    tune.write(table, "GPU A", {"state/bf16/64": Launch(fill=4)})
    monkeypatch.setattr(tuning, "TABLE", table)
    assert tuning.launch("GPU A", "forward", "bf16", 64) == tuning.launch("GPU A", "forward", "bf16", 48) == best
    assert tuning.launch("GPU A", "state", "bf16", 64).fill == 4
    assert tuning.launch("GPU B", "forward", "bf16", 64).fill == 1
    assert tuning.launch("GPU A", "forward", "bf16", 112) == tuning.default_launch("bf16", 112)
    assert tuning.launch("GPU C", "forward", "bf16", 64) == tuning.default_launch("bf16", 64)
    assert [path.name for path in tmp_path.iterdir()] == ["tuned.json"]


def test_a_table_that_cannot_be_written_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "tuned.json"
    tune.write(table, "GPU A", {"forward/bf16/64": Launch()})
    before = table.read_text()

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        tune.write(table, "GPU A", {"forward/bf16/64": Launch(fill=1)})
    assert table.read_text() == before and list(tmp_path.iterdir()) == [table]


def test_committed_launches_are_launches() -> None:
    for row in tuning.tuned(tuning.TABLE).values():
        assert row and all(Launch(**fields) for fields in row.values())


def test_the_fastest_right_launch_wins() -> None:
    slow, wrong, broken, fast = launches = [Launch(stages=stages) for stages in (1, 2, 3, 4)]
    times = {slow: 3.0, wrong: 0.1, fast: 2.0}

    def run(launch: Launch) -> tuple[Tensor, ...]:
        if launch == broken:
            raise ValueError("out of resource: shared memory")
        seen.append(launch)
        return (torch.ones(3) * (1.5 if launch == wrong else 1.001 if launch == fast else 1.0),)

    def timer(call: object) -> float:
        call()  # type: ignore[operator]
        return times[seen[-1]]

    seen: list[Launch] = []
    assert tune._fastest(run, launches, timer) == (fast, 2.0)
    with pytest.raises(RuntimeError, match="default launch"):
        tune._fastest(run, [broken, slow], timer)


@pytest.mark.parametrize("kind", ["bf16", "tf32", "fp32"])
def test_candidates_begin_with_the_default_and_are_all_different(kind: tuning.Arithmetic) -> None:
    for width in (16, 32, 64, 112, 128):
        found = tune.candidates(kind, width)
        assert found[0] == tuning.default_launch(kind, width) and len(set(found)) == len(found) > 1
        assert all(launch.block_v < 2 * max(width, 16) for launch in found)


# The compiler's answer.


@needs_triton
@pytest.mark.parametrize(
    ("kernel", "architecture"),
    [("state", 80), ("forward", 80), ("forward", 90), ("queries", 90), ("keys", 90), ("step", 90)],
)
def test_is_not_worse_than_the_committed_table(kernel: str, architecture: int) -> None:
    from jrt.kernels.taylor.resources import TABLE, resources

    (committed,) = [
        row
        for row in json.loads(TABLE.read_text())
        if (row["kernel"], row["architecture"], row["arithmetic"], row["width"]) == (kernel, architecture, "bf16", 64)
    ]
    found = resources(kernel, architecture)
    assert found["spilled_bytes"] <= committed["spilled_bytes"] + (0 if same_compiler() else 400)
    if same_compiler():  # another lays out shared memory and loops in another way
        assert found["shared_bytes"] <= committed["shared_bytes"]
        assert found["loop_instructions"] <= committed["loop_instructions"]


@needs_triton
def test_the_table_holds_the_budget_and_fits_every_gpu_that_takes_triton() -> None:
    from jrt.kernels.taylor.resources import ARCHITECTURES, KERNELS, TABLE

    rows = json.loads(TABLE.read_text())
    assert {(row["kernel"], row["architecture"]) for row in rows if row["arithmetic"] == "bf16"} == {
        (kernel, architecture) for kernel in KERNELS for architecture in ARCHITECTURES
    }
    dtypes = {"bf16": torch.bfloat16, "tf32": torch.float16, "fp32": torch.float32}
    assert all(row["shared_bytes"] <= paths._SHARED_MEMORY[dtypes[row["arithmetic"]]] for row in rows)
    bf16 = [row for row in rows if (row["architecture"], row["arithmetic"], row["width"]) == (90, "bf16", 64)]
    budget = {row["kernel"]: row for row in bf16}
    assert budget["state"]["spilled_bytes"] == budget["step"]["spilled_bytes"] == 0
    assert budget["forward"]["warp_instructions_per_position"] < 100  # fla's fused chunk kernel: 706


def same_compiler() -> bool:
    """The table's."""
    return version("triton").startswith("3.9.")


# On a GPU.


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@needs_triton
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("heads", "length", "width"), [(4, 63, 64), (1, 1000, 112), (64, 4096, 64)])
def test_no_worse_than_twice_plain_torch_in_the_same_type(
    dtype: torch.dtype, heads: int, length: int, width: int
) -> None:
    """Plain torch: the quadratic formula with every product rounded to the type."""
    generator = torch.Generator("cuda").manual_seed(0)
    q, k, v = (
        torch.randn(1, heads, length, columns, generator=generator, device="cuda").to(dtype).requires_grad_()
        for columns in (16, 16, width)
    )
    answers = []
    for attention, kind in ((_quadratic, torch.float64), (_quadratic, dtype), (_ours, dtype)):
        leaves = [tensor.detach().to(kind).requires_grad_() for tensor in (q, k, v)]
        o = attention(*leaves)
        answers.append([o, *torch.autograd.grad(o.square().sum(), leaves)])
    exact, plain, found = answers
    for right, theirs, ours in zip(exact, plain, found, strict=True):
        errors = [float((tensor.double() - right).norm() / right.norm()) for tensor in (theirs, ours)]
        assert errors[1] <= 2 * errors[0] + 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@needs_triton
def test_steps_after_a_prefill_in_bfloat16() -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    q, k, v = (
        torch.randn(2, 16, 300, columns, generator=generator, device="cuda").bfloat16() for columns in (16, 16, 64)
    )
    whole, final = taylor_attention(q, k, v)
    _, state = taylor_attention(q[:, :, :290], k[:, :, :290], v[:, :, :290])
    for index in range(290, 300):
        part = (..., slice(index, index + 1), slice(None))
        o = taylor_step(q[part], k[part], v[part], state)
        assert float((o - whole[part]).norm() / whole[part].norm()) < 1e-2
    assert float((state.values - final.values).norm() / final.values.norm()) < 1e-5
    assert float((taylor_state(k, v).values - final.values).norm() / final.values.norm()) < 1e-2


def _ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return taylor_attention(q, k, v)[0]


def _quadratic(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q / 4) @ k.mT
    weights = (1 + scores + scores * scores / 2).tril()
    return weights @ v / weights.sum(-1, keepdim=True)
