"""The offline compiler reports what a kernel uses and says what is wrong with its arguments."""

from __future__ import annotations

import pytest

from jrt.kernels.offline import compile_offline

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")


@triton.jit
def double(x, y, size, BLOCK: tl.constexpr, EXTRA: tl.constexpr = 0):  # type: ignore[no-untyped-def]
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.exp(tl.load(x + i, mask=i < size)) + EXTRA, mask=i < size)


POINTERS, SCALARS = {"x": "fp32", "y": "fp32"}, {"size": "i32"}


@pytest.mark.parametrize("architecture", [80, 90])
def test_reports_registers_spills_and_instructions(architecture: int) -> None:
    report = compile_offline(double, POINTERS, SCALARS, {"BLOCK": 128}, architecture=architecture)
    assert 0 < report.registers < 64 and report.spilled_bytes == report.shared_bytes == 0
    assert report.instructions["MUFU"] == 1  # the exponential of one element a thread
    assert report.to_dict()["instructions"] == sum(report.instructions.values())
    four = compile_offline(double, POINTERS, SCALARS, {"BLOCK": 512}, architecture=architecture)
    assert four.instructions["MUFU"] == 4


def test_says_which_argument_is_wrong() -> None:
    with pytest.raises(TypeError, match="'size' was given neither a type nor a value"):
        compile_offline(double, POINTERS, {}, {"BLOCK": 128})
    with pytest.raises(TypeError, match="no argument 'z'"):
        compile_offline(double, POINTERS | {"z": "fp32"}, SCALARS, {"BLOCK": 128})
    with pytest.raises(RuntimeError, match="not a compiled kernel"):
        compile_offline(lambda x: x, {})
