"""Importing jrt, every module of it, changes nothing outside: no registry, seed, log level, thread count or filter."""

from __future__ import annotations

import json
from typing import Any

import pytest

PROGRAM = """
import hashlib, importlib, json, logging, os, pickle, pkgutil, random, signal, sys, warnings
import datasets, huggingface_hub, matplotlib, numpy, pandas, pydantic, rich, safetensors, typer
import torch, transformers, triton
import matplotlib.pyplot, triton.compiler, transformers.pipelines
from transformers.integrations import sdpa_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.models.auto import configuration_auto, modeling_auto, tokenization_auto

def digest(value):
    return hashlib.sha256(pickle.dumps(value)).hexdigest()

def registries():
    for module in (configuration_auto, modeling_auto, tokenization_auto):
        for name, mapping in vars(module).items():
            if hasattr(mapping, "_extra_content"):
                yield f"registry {name}", sorted(str(key) for key in mapping._extra_content)

def snapshot():
    state = dict(registries())
    state["attention"] = sorted(ALL_ATTENTION_FUNCTIONS)
    state["masks"] = sorted(ALL_MASK_ATTENTION_FUNCTIONS)
    state["pipelines"] = sorted(transformers.pipelines.PIPELINE_REGISTRY.supported_tasks)
    state["transformers log level"] = transformers.logging.get_verbosity()
    state["datasets log level"] = datasets.logging.get_verbosity()
    state["root logger"] = [logging.root.level, repr(logging.root.handlers)]
    state["progress bars"] = [transformers.logging.is_progress_bar_enabled(), datasets.are_progress_bars_disabled()]
    state["warnings"] = repr(warnings.filters)
    state["showwarning"] = repr(warnings.showwarning)
    state["dtype"] = str(torch.get_default_dtype())
    state["threads"] = [torch.get_num_threads(), torch.get_num_interop_threads()]
    state["grad"] = torch.is_grad_enabled()
    state["deterministic"] = torch.are_deterministic_algorithms_enabled()
    state["precision"] = torch.get_float32_matmul_precision()
    state["torch seed"] = [torch.initial_seed(), digest(torch.get_rng_state().numpy())]
    state["numpy seed"] = digest(numpy.random.get_state())
    state["python seed"] = digest(random.getstate())
    state["environment"] = dict(os.environ)
    state["hooks"] = repr([sys.excepthook, sys.displayhook, signal.getsignal(signal.SIGINT)])
    state["matplotlib"] = [matplotlib.get_backend(), digest(dict(matplotlib.rcParams))]
    state["recursion limit"] = sys.getrecursionlimit()
    for model in ("MambaForCausalLM", "LlamaForCausalLM", "RwkvForCausalLM", "OPTForCausalLM"):
        methods = {name: repr(value) for name, value in vars(getattr(transformers, model)).items()}
        state[model] = digest(sorted(methods.items()))
    return state

def changed(before, after):
    return {name: [before[name], after[name]] for name in after if after[name] != before[name]}

before = snapshot()
import jrt
modules = []
for package in ("jrt", "jrt.adapters", "jrt.kernels", "jrt.evals"):
    modules.append(package)
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if not module.name.endswith("__main__"):
            modules.append(module.name)
            importlib.import_module(module.name)
after = snapshot()

torch.manual_seed(0)
torch.set_num_threads(3)
transformers.logging.set_verbosity(7)
warnings.simplefilter("ignore")
os.environ["JRT_LEFT_BEHIND"] = "1"
transformers.MambaForCausalLM.forward = None
ALL_ATTENTION_FUNCTIONS.register("infini", None)
print(json.dumps({"modules": modules, "changed": changed(before, after), "seen": changed(after, snapshot())}))
"""


@pytest.fixture(scope="module")
def report(run_python) -> dict[str, Any]:
    """One fresh interpreter: what importing everything changed, and what is seen of changes made on purpose."""
    return json.loads(run_python("-c", PROGRAM).stdout.splitlines()[-1])


def test_importing_everything_changes_nothing(report: dict[str, Any]) -> None:
    some = {"jrt.reader", "jrt.cli.app", "jrt.adapters.mamba", "jrt.kernels.offline", "jrt.evals.tasks.squad"}
    assert some <= set(report["modules"])
    assert report["changed"] == {}


def test_a_change_would_be_seen(report: dict[str, Any]) -> None:
    assert set(report["seen"]) == {
        "torch seed",
        "threads",
        "transformers log level",
        "warnings",
        "environment",
        "MambaForCausalLM",
        "attention",
    }
