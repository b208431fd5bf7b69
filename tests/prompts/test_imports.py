"""Prompts work in front of any server, so importing them loads no model library."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import jrt.methods, jrt.errors, jrt.prompts
from jrt.prompts import JRTPrompt, chat_plan, render
JRTPrompt(passes=2).plan("c", "q")
render("fda", {"key": "k", "value": "v", "text": "t"}, jrt.methods.parse_method("twice"))
chat_plan(lambda messages: messages[-1]["content"], JRTPrompt(), "c", "q")
print([name for name in ("torch", "transformers", "numpy", "tokenizers", "jinja2") if name in sys.modules])
"""


def test_prompts_load_no_model_library() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_every_module_can_be_imported_first() -> None:
    for module in ("jrt.prompts.plan", "jrt.prompts.window", "jrt.methods", "jrt.prompts.budget"):
        subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, check=True)
