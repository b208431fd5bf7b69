"""`jrt ls`: the tasks, methods and models that there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from jrt.cli import options
from jrt.cli.output import print_json, print_table
from jrt.errors import UnknownNameError, did_you_mean

if TYPE_CHECKING:
    from pydantic import BaseModel

EXAMPLES = options.examples("jrt ls tasks", "jrt ls methods --json", "jrt ls models")


def ls(
    what: Annotated[
        str, typer.Argument(metavar="tasks|methods|models", help="tasks, methods or models.", show_default=False)
    ],
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """List tasks, methods or models."""
    listings = {"tasks": _tasks, "methods": _methods, "models": _models}
    if what not in listings:
        raise UnknownNameError(f"There is no list of {what!r}.{did_you_mean(what, listings)}", "jrt ls tasks")
    rows, caption = listings[what]()
    if json:
        print_json(rows)
        return
    columns = list(rows[0]) if rows else ["name"]
    print_table(what, columns, [[row[column] for column in columns] for row in rows], caption)


def _methods() -> tuple[list[dict[str, Any]], str]:
    from jrt.methods import PRESETS, known_methods, method_class

    rows = [{"name": name, "is": shorthand, "about": ""} for name, shorthand in PRESETS.items()]
    for name in known_methods():
        owner = method_class(name)
        about = (owner.__doc__ or "").strip().split("\n", 1)[0]
        rows.append({"name": name, "is": f"options: {_options(owner)}", "about": about})
    return rows, "Write name:option=value,option=value to set options."


def _models() -> tuple[list[dict[str, Any]], str]:
    import json

    from jrt.embedded import embedded_folder, embedded_models

    rows = []
    for name in embedded_models():
        folder = embedded_folder(name)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        size = sum(len(entry.read_bytes()) for entry in folder.iterdir() if entry.name.endswith(".safetensors"))
        rows.append({"name": name, "architecture": config["architectures"][0], "bytes": size})
    return rows, "Also: any folder of save_pretrained, .gguf file, or causal language model of the Hugging Face Hub."


def _tasks() -> tuple[list[dict[str, Any]], str]:
    from jrt.evals.tasks.registry import known_tasks, task_class

    rows = []
    for name in sorted(known_tasks()):
        owner = task_class(name)
        rows.append({"name": name, "about": owner.summary, "options": _options(owner)})
    return rows, "Write name:option=value,option=value to set options."


def _options(owner: type[BaseModel]) -> str:
    """Every option with its default, as a shorthand writes it; null is none."""
    import json

    found = []
    for name, field in owner.model_fields.items():
        value = field.get_default(call_default_factory=True, validated_data={})
        plain = isinstance(value, str) and value.replace("_", "").replace("/", "").replace("-", "").isalnum()
        found.append(name if field.is_required() else f"{name}={value if plain else json.dumps(value)}")
    return ", ".join(found)
