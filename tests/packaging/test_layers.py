"""Who may import whom: `RULES` is the picture of the house, and every import of the source is held against it.

An import counts wherever it stands, in a function or under TYPE_CHECKING too: a layer that names what lies above it
knows about it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import jrt

HEAVY = ("torch", "transformers", "datasets", "pandas", "matplotlib", "triton")
ABOVE_READER = ("jrt.evals", "jrt.bench", "jrt.cli")


@dataclass(frozen=True)
class Rule:
    """What the modules under `package` may import: of jrt only `may` (None: anything), and nothing of `never`."""

    package: str
    may: tuple[str, ...] | None
    never: tuple[str, ...] = ()


# The rule with the longest fitting name counts.
RULES = (
    Rule("jrt.errors", may=(), never=HEAVY),
    Rule("jrt.files", may=("jrt.errors",), never=HEAVY),
    Rule("jrt.methods", may=("jrt.errors", "jrt.prompts"), never=HEAVY),
    Rule("jrt.prompts", may=("jrt.errors", "jrt.methods"), never=HEAVY),
    Rule("jrt.kernels", may=()),
    Rule("jrt.state", may=("jrt.errors", "jrt.kernels")),
    Rule("jrt.adapters", may=("jrt.errors", "jrt.kernels", "jrt.methods", "jrt.prompts", "jrt.state")),
    Rule("jrt", may=None, never=ABOVE_READER),
    Rule("jrt.evals", may=None, never=("jrt.bench", "jrt.cli")),
    Rule("jrt.bench", may=None, never=("jrt.cli",)),
    Rule("jrt.cli", may=None),
    Rule("jrt.__main__", may=("jrt.cli",)),
)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def rule_for(module: str) -> Rule:
    return max((rule for rule in RULES if within(module, rule.package)), key=lambda rule: len(rule.package))


def targets(module: str, node: ast.AST, *, is_package: bool) -> list[str]:
    """The full names that one node imports. A lazy name of jrt counts as the module that it comes from."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = module.split(".")
            parent = parts[: len(parts) - node.level + (1 if is_package else 0)]
            base = ".".join([*parent, *([node.module] if node.module else [])])
        if base != "jrt":
            return [f"{base}.{alias.name}" for alias in node.names]
        return ["jrt" if a.name.startswith("__") else jrt._LAZY.get(a.name, f"jrt.{a.name}") for a in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if function in ("import_module", "__import__") and isinstance(node.args[0].value, str):
            return [node.args[0].value]
    return []


def violations(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """Every import of `source` that the rule of `module` forbids, as `line: name`."""
    rule = rule_for(module)
    found = []
    for node in ast.walk(ast.parse(source)):
        for target in targets(module, node, is_package=is_package):
            foreign = within(target, "jrt") and not within(target, rule.package)
            not_allowed = foreign and rule.may is not None and not any(within(target, name) for name in rule.may)
            if not_allowed or any(within(target, name) for name in rule.never):
                found.append(f"{getattr(node, 'lineno', 0)}: {target}")
    return found


def sources(folders: dict[str, Path]) -> Iterator[tuple[str, Path]]:
    for package, folder in folders.items():
        for file in sorted(folder.rglob("*.py")):
            inner = file.relative_to(folder).with_suffix("").parts
            yield ".".join((package, *inner)).removesuffix(".__init__"), file


def test_every_import_is_allowed(folders: dict[str, Path]) -> None:
    wrong = [
        f"{file}:{violation}"
        for module, file in sources(folders)
        if module != "jrt"  # the public face names what it hands out; that nothing is loaded has its own test
        for violation in violations(module, file.read_text(), is_package=file.name == "__init__.py")
    ]
    assert not wrong, "imports that cross the layers:\n" + "\n".join(wrong)


def test_every_rule_is_about_something(folders: dict[str, Path]) -> None:
    modules = [module for module, _ in sources(folders)]
    assert len(modules) > 30
    unused = [rule.package for rule in RULES if rule not in map(rule_for, modules)]
    assert not unused


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("jrt.kernels.offline", "from jrt.errors import JRTError"),
        ("jrt.kernels.selective_scan.cpu", "from ... import errors"),
        ("jrt.prompts.plan", "def f():\n    import torch.nn"),
        ("jrt.prompts.plan", "from transformers.cache_utils import Cache"),
        ("jrt.methods", "from jrt import Reader"),
        ("jrt.errors", "import importlib\nimportlib.import_module('jrt.methods')"),
        ("jrt.adapters.mamba", "from jrt.reader import Reader"),
        ("jrt.adapters.mamba", "import jrt"),
        ("jrt.state.probe", "from jrt import adapters"),
        ("jrt.reader", "from jrt.evals.metrics import contains"),
        ("jrt.reader", "from jrt import cli"),
        ("jrt.training.facts", "from jrt.bench import run"),
        ("jrt.evals.runner", "from jrt.cli.output import table"),
    ],
)
def test_a_forbidden_import_is_found(module: str, source: str) -> None:
    assert violations(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("jrt.kernels.selective_scan.cpu", "from . import reference\nimport torch, triton"),
        ("jrt.prompts.ids", "from jrt.errors import JRTError\nfrom jrt.methods import Method"),
        ("jrt.adapters.mamba", "from jrt.kernels.selective_scan import scan\nfrom jrt.state import State"),
        ("jrt.reader", "import torch\nfrom jrt.adapters import adapt"),
        ("jrt.evals.runner", "import jrt\nfrom jrt import Reader"),
        ("jrt.cli.evaluate", "from jrt.evals import evaluate\nfrom jrt.bench import run"),
    ],
)
def test_an_allowed_import_passes(module: str, source: str) -> None:
    assert not violations(module, source)
