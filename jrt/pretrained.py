"""A Reader on disk: its methods, what they have learned and, if wanted, the model itself.

    folder/jrt.json               which methods, which model
    folder/learned.safetensors    the learned weights (memory tokens, gates), where a method has any
    folder/config.json, ...       the model and its tokenizer, where they were saved too

A fine-tuned model belongs into the folder; where only the learned weights were trained, its name is enough.
"""

from __future__ import annotations

import json
import tempfile
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import jrt
from jrt.adapters import AdaptedModel
from jrt.errors import (
    DataFormatError,
    HubUnavailableError,
    InputNotFoundError,
    InvalidOptionError,
    StateMismatchError,
    WriteError,
)
from jrt.files import give_usual_permissions, only_writer, write_atomic, write_text
from jrt.methods import Method

if TYPE_CHECKING:
    from jrt.reader import Reader
    from jrt.reader_module import ReaderModule

MANIFEST, LEARNED = "jrt.json", "learned.safetensors"


class SavedReader(BaseModel):
    """`jrt.json`.

    Attributes:
        format: the version of this layout.
        methods: the methods as `Method.to_dict` gives them, outermost first.
        model: the name of the model; None when it is in the folder.
        revision: the revision of that model.
        model_class: the class of transformers that the model is.
        has_tokenizer: whether the folder holds a tokenizer, where it holds the model.
        has_adapter: whether the model carries an adapter of PEFT; a name alone does not bring that back.
        chat: whether questions go through the chat template.
        jrt_version: who wrote it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    methods: list[dict[str, Any]]
    model: str | None
    revision: str | None
    model_class: str
    has_tokenizer: bool
    has_adapter: bool = False
    chat: bool
    jrt_version: str


def save_pretrained(reader: ReaderModule, folder: str | PathLike[str], *, include_model: bool = False) -> Path:
    """Writes what `from_pretrained` and `jrt.load` read; see `Reader.save_pretrained`."""
    folder = Path(folder).expanduser()
    if folder.exists() and not folder.is_dir():
        raise InvalidOptionError(f"{folder} is a file.", "Pass a folder.")
    try:
        _save(reader, folder, include_model)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise WriteError(
            f"The reader could not be written to {folder}: {reason}.", "Make room, or use a folder of yours."
        ) from error
    return folder


def _save(reader: ReaderModule, folder: Path, include_model: bool) -> None:
    inner = reader.base_model
    has_adapter = hasattr(inner, "get_base_model")
    plain = inner.get_base_model() if has_adapter else inner
    folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder):
        if include_model:
            if has_adapter:
                _refuse_nameless_base(inner, plain)
            inner.save_pretrained(folder)
            if reader.tokenizer is not None:
                reader.tokenizer.save_pretrained(folder)
            give_usual_permissions(folder.glob("*.safetensors"))
        learned = reader.model.learned() if isinstance(reader.model, AdaptedModel) else {}
        if learned:
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in learned.items()}
            write_atomic(folder / LEARNED, lambda part: save_file(tensors, part))
        saved = SavedReader(
            methods=[method.to_dict() for method in _methods(reader)],
            model=None if include_model else _lasting_name(str(reader.name)),
            revision=None if include_model else reader.revision,
            model_class=type(plain).__name__,
            has_tokenizer=reader.tokenizer is not None,
            has_adapter=has_adapter,
            chat=reader.chat,
            jrt_version=jrt.__version__,
        )
        write_text(folder / MANIFEST, saved.model_dump_json(indent=2) + "\n")


def _refuse_nameless_base(inner: Any, plain: Any) -> None:
    """PEFT saves an adapter alone, with the name of the model below it.

    Raises:
        InvalidOptionError: that model has none, so what is saved could never be loaded.
    """
    if not (inner.active_peft_config.base_model_name_or_path or plain.name_or_path):
        raise InvalidOptionError(
            "An adapter of PEFT is saved without the model below it, and that model comes from no folder or Hub id.",
            "Save it and load it from there before the adapter goes around it: base.save_pretrained(FOLDER); "
            "or merge them first: model.merge_and_unload().",
        )


def _methods(reader: ReaderModule) -> tuple[Method, ...]:
    """The reader's methods, and that of a model which was adapted before it was given."""
    inside = (reader.model.method,) if isinstance(reader.model, AdaptedModel) else ()
    return (*reader.methods, *(method for method in inside if method not in reader.methods))


def _lasting_name(name: str) -> str:
    """A model's name as it is understood from every folder: a local path is made absolute."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name


def push_to_hub(reader: ReaderModule, repo_id: str, *, include_model: bool = False, private: bool | None = None) -> str:
    """Uploads what `save_pretrained` writes; see `Reader.push_to_hub`."""
    from huggingface_hub import HfApi

    api = HfApi()
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(reader, folder, include_model=include_model)
        try:
            repo = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo.repo_id, folder_path=folder)
        except OSError as error:  # every error of the Hub's client and of the network derives from it
            raise HubUnavailableError(
                f"{repo_id} could not be uploaded: {str(error).splitlines()[0]}", "Check `hf auth login` and the name."
            ) from error
    return str(repo)


def read_saved(folder: Path) -> SavedReader:
    """`jrt.json` of a folder, checked.

    Raises:
        InputNotFoundError: there is none.
        DataFormatError: it is no such file.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise InputNotFoundError(f"There is no {MANIFEST} in {folder}.", "Pass what Reader.save_pretrained wrote.")
    try:
        return SavedReader.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataFormatError(f"{path} is no JSON: {error}.", "Save the reader again.") from None
    except ValidationError as error:
        what = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise DataFormatError(
            f"{path} was not written by this version of jrt: {what or 'its content'} is wrong.", "Save it again."
        ) from None


def from_saved(
    saved: SavedReader, folder: Path, model: Any, tokenizer: Any, methods: tuple[Method, ...], chat: bool | None
) -> Reader:
    """A reader with the saved methods around `model`, and what they have learned.

    Given methods replace the saved ones of their kind; others go outside of them.

    Raises:
        StateMismatchError: the learned weights belong to other methods, or to a model with an adapter of PEFT.
    """
    from jrt.reader import Reader

    if saved.has_adapter and saved.model is not None and not hasattr(model, "get_base_model"):
        raise StateMismatchError(
            f"The reader in {folder} was saved around a model with an adapter of PEFT, and this model has none.",
            "Save it with include_model=True, or load the adapter and pass the model: "
            "Reader.from_pretrained(folder, PeftModel.from_pretrained(model, ...)).",
        )

    given = {method.kind: method for method in methods}
    kept = [Method.from_dict(method) for method in saved.methods]
    inside = [given.pop(method.kind) if method.kind in given else method for method in kept]
    reader = Reader(model, [*given.values(), *inside], tokenizer, chat=saved.chat if chat is None else chat)
    _put_learned(reader, folder)
    return reader


def _put_learned(reader: ReaderModule, folder: Path) -> None:
    """Loads the learned weights of a folder into a reader.

    Raises:
        DataFormatError: the file is truncated or is no safetensors file.
        StateMismatchError: the weights belong to other methods.
    """
    if not isinstance(reader.model, AdaptedModel):
        return
    try:
        tensors = load_file(folder / LEARNED) if reader.model.learned() else {}
    except FileNotFoundError:
        raise InputNotFoundError(f"There is no {LEARNED} in {folder}.", "Save the reader again.") from None
    except SafetensorError as error:
        raise DataFormatError(f"{folder / LEARNED} is no safetensors file: {error}.", "Save it again.") from None
    reader.model.load_learned(tensors)
