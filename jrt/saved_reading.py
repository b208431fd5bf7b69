"""Readings on disk: what is written, and every reason to refuse what is found."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import jrt
from jrt.errors import CorruptReadingError, InputNotFoundError, InvalidOptionError, StateMismatchError
from jrt.files import only_writer, sha256, write_atomic, write_text
from jrt.identity import model_identity, tokenizer_identity
from jrt.reader import Reader
from jrt.reading import Reading
from jrt.state.storage import state_from_tensors, state_to_tensors
from jrt.versions import versions

FORMAT: Literal[1] = 1
MANIFEST = "reading.json"


class Manifest(BaseModel):
    """`reading.json`: what the state belongs to and how to see that it is whole."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1]
    model: str
    revision: str | None
    model_identity: dict[str, str]
    tokenizer: str
    prompt: dict[str, Any]
    methods: list[dict[str, Any]]
    system: str | None
    chat: bool
    tail: str
    num_tokens: int
    state_file: str
    state_sha256: str
    values: dict[str, bool | int | float | str | None]
    versions: dict[str, str]
    checksum: str = ""

    def sealed(self) -> Manifest:
        """The same with the checksum of everything else."""
        body = self.model_dump(mode="json", exclude={"checksum"})
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        return self.model_copy(update={"checksum": digest})


def save(reading: Reading, folder: Path) -> Path:
    """Writes `reading` into `folder`; see `Reading.save`."""
    if folder.exists() and not folder.is_dir():
        raise InvalidOptionError(f"{folder} is a file.", "A reading is a folder: pass another name.")
    folder.mkdir(parents=True, exist_ok=True)
    strangers = [entry.name for entry in folder.iterdir() if not _ours(entry.name)]
    if strangers and not (folder / MANIFEST).exists():
        raise InvalidOptionError(
            f"{folder} holds other files ({strangers[0]}).", "Pass an empty or a new folder for the reading."
        )
    reader = reading.reader
    tensors, values = state_to_tensors(reading.state)
    with only_writer(folder):
        state_file = _write_state(folder, tensors)
        manifest = Manifest(
            format=FORMAT,
            model=reader.name,
            revision=reader.revision,
            model_identity=model_identity(reader.model),
            tokenizer=tokenizer_identity(reader.tokenizer),
            prompt=reader.prompt.to_dict(),
            methods=[method.to_dict() for method in reader.methods],
            system=reading.system,
            chat=reader.chat,
            tail=reading.tail,
            num_tokens=reading.num_tokens,
            state_file=state_file.name,
            state_sha256=sha256(state_file),
            values=values,
            versions=versions("torch", "transformers"),
        ).sealed()
        write_text(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
        for old in folder.glob("state-*.safetensors"):
            if old != state_file:
                old.unlink()
    return folder


def load(folder: Path, reader: Reader) -> Reading:
    """The reading in `folder` for `reader`; see `Reading.load`."""
    manifest = read_manifest(folder)
    _refuse_strangers(manifest, reader)
    path = folder / manifest.state_file
    if not path.is_file():
        raise CorruptReadingError(f"{path} is missing.", "Read the document again.")
    if sha256(path) != manifest.state_sha256:
        raise CorruptReadingError(
            f"{path} is truncated or was changed: its checksum is another than at saving.", "Read the document again."
        )
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise CorruptReadingError(f"{path} is no safetensors file: {error}.", "Read the document again.") from None
    with reader.installed():
        state = state_from_tensors(reader.model, reader.capabilities, tensors, manifest.values)
    return Reading(reader, state, manifest.tail, manifest.system)


def read_manifest(folder: Path) -> Manifest:
    """`reading.json` of a folder, checked.

    Raises:
        InputNotFoundError: there is none.
        CorruptReadingError: it is truncated or was changed.
        StateMismatchError: another version of jrt wrote it.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise InputNotFoundError(f"There is no reading in {folder}.", "Make one with reader.read(...).save(folder).")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise CorruptReadingError(f"{path} is truncated or no JSON.", "Read the document again.") from None
    if isinstance(data, dict) and data.get("format") not in (None, FORMAT):
        raise StateMismatchError(
            f"{path} has format {data['format']}; jrt {jrt.__version__} reads format {FORMAT}.",
            "Read the document again with this version.",
        )
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        what = ".".join(str(part) for part in error.errors()[0]["loc"]) or "its content"
        raise CorruptReadingError(f"{path} was changed: {what} is wrong.", "Read the document again.") from None
    if manifest.sealed().checksum != manifest.checksum:
        raise CorruptReadingError(
            f"{path} was changed: its checksum is another than at saving.", "Read the document again."
        )
    return manifest


def _write_state(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """The state under a name made of its content, so that a reading that is there stays whole meanwhile."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    path = folder / f"state-{digest.hexdigest()[:16]}.safetensors"
    write_atomic(path, lambda part: save_file({name: tensor.cpu() for name, tensor in tensors.items()}, part))
    return path


def _refuse_strangers(manifest: Manifest, reader: Reader) -> None:
    """Says which of model, tokenizer and method is another than at saving."""
    found = model_identity(reader.model)
    differences = []
    for what in found:
        if manifest.model_identity.get(what) != found[what]:
            differences.append(
                f"its model's {what} is {manifest.model_identity.get(what)}, this model's is {found[what]}"
            )
    if manifest.tokenizer != tokenizer_identity(reader.tokenizer):
        differences.append("its tokenizer is another")
    if manifest.methods != [method.to_dict() for method in reader.methods]:
        theirs = ", ".join(json.dumps(method) for method in manifest.methods) or "none"
        ours = ", ".join(json.dumps(method.to_dict()) for method in reader.methods) or "none"
        differences.append(f"its methods are {theirs}, this reader's are {ours}")
    if manifest.chat != reader.chat:
        differences.append(f"it was read with chat={manifest.chat}, this reader has chat={reader.chat}")
    if differences:
        at = f" at revision {manifest.revision}" if manifest.revision else ""
        raise StateMismatchError(
            f"The reading was made by {manifest.model}{at}: {'; '.join(differences)}.",
            "Load that model with the same methods, or read the document again with this one.",
        )


def _ours(name: str) -> bool:
    return name in (MANIFEST, ".lock") or name.startswith(("state-", f".{MANIFEST}.", ".state-"))
