"""What a method is, and where methods are found.

A method answers three questions, and that is the whole extension interface: `plan` (which parts of the text are read,
in which order), `adapt` (the model that reads in place of the given one) and `state` (what is carried from one part to
the next: the cache that this model takes and returns, captured by `jrt.state`). A method is a frozen pydantic model, so
it round-trips to JSON and to the command line's shorthand `name:option=value,option=value`. This module imports no
torch.

Other packages add methods with an entry point of the group `jrt.methods`, whose name is the shorthand and whose value
is the class.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from jrt.errors import InvalidOptionError, UnknownNameError, did_you_mean

if TYPE_CHECKING:
    from jrt.prompts.plan import Plan, Query

BUILT_IN = {
    "armt": "jrt.adapters.armt:ARMT",
    "infini": "jrt.adapters.infini:InfiniAttention",
    "jrt_prompt": "jrt.prompts.jrt_prompt:JRTPrompt",
    "rmt": "jrt.adapters.rmt:RMT",
}
PRESETS = {
    "once": "jrt_prompt:passes=1",
    "twice": "jrt_prompt:passes=2",
    "context_twice": "jrt_prompt:passes=2,order=context_first",
    "question_first": "jrt_prompt:passes=1,order=question_first",
    "repeat": "jrt_prompt:passes=2,order=repeat",
}


class Method(BaseModel):
    """Base of all methods: a frozen configuration that knows how to plan and adapt."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: ClassVar[str]

    def __init__(self, **options: Any) -> None:
        try:
            super().__init__(**options)
        except ValidationError as error:
            raise InvalidOptionError(_explain(type(self), error)) from None

    def plan(self, context: str, query: str | Query) -> Plan:
        """The parts of the prompt in reading order."""
        raise NotImplementedError(f"{type(self).__name__} does not change what is read")

    def adapt(self, model: Any) -> Any:
        """`model` as this method reads it: a `jrt.adapters.AdaptedModel` that shares its weights, or `model` itself
        where the method changes only what is read. `model` is left as it is."""
        return model

    def _derived(self) -> set[str]:
        """Options whose value follows from the others, so that the shorthand leaves them out."""
        return set()

    def to_dict(self) -> dict[str, Any]:
        """The method as JSON data, `kind` included."""
        return {"kind": self.kind, **self.model_dump(mode="json")}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; called on `Method`, it finds the class by `kind`."""
        options = dict(data)
        kind = options.pop("kind", None)
        owner = method_class(str(kind)) if cls is Method else cls
        method = owner(**options)
        assert isinstance(method, cls)
        return method

    def __str__(self) -> str:
        """The shorthand that makes this method again."""
        fields = self.model_dump(mode="json", exclude_defaults=True)
        for name in [name for name in fields if name in self._derived()]:
            del fields[name]
        options = ",".join(f"{name}={_literal(value)}" for name, value in fields.items())
        return f"{self.kind}:{options}" if options else self.kind


def known_methods() -> dict[str, str]:
    """Shorthand name to `module:class` for the methods here and those that other packages register."""
    return BUILT_IN | {point.name: point.value for point in entry_points(group="jrt.methods")}


def method_class(name: str) -> type[Method]:
    """The class behind a shorthand name.

    Raises:
        UnknownNameError: no method is called so.
    """
    methods = known_methods()
    if name not in methods:
        raise UnknownNameError(f"There is no method {name!r}.{did_you_mean(name, [*methods, *PRESETS])}")
    module, _, attribute = methods[name].partition(":")
    found: type[Method] = getattr(importlib.import_module(module), attribute)
    return found


def parse_method(text: str) -> Method:
    """A method from its shorthand: `twice`, or `jrt_prompt:passes=2,order=context_first`.

    Values are read as JSON where they are JSON (numbers, true, "text with, a comma"), as plain text otherwise.
    """
    text = text.strip()
    name, _, rest = PRESETS.get(text, text).partition(":")
    return method_class(name)(**_options(rest, text))


def split_methods(text: str) -> list[str]:
    """Cuts `once,jrt_prompt:passes=2,order=repeat,twice` into its methods: a piece `option=value` belongs to the one
    before."""
    pieces: list[str] = []
    for piece in _split_commas(text):
        head = piece.split("=", 1)[0]
        if "=" in piece and ":" not in head and pieces:
            pieces[-1] += "," + piece
        else:
            pieces.append(piece.strip())
    return pieces


def _options(rest: str, text: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for piece in _split_commas(rest):
        option, equals, value = piece.partition("=")
        if not equals:
            raise InvalidOptionError(f"{piece!r} in {text!r} is no option.", "Write name:option=value,option=value.")
        try:
            options[option.strip()] = json.loads(value)
        except json.JSONDecodeError:
            options[option.strip()] = value
    return options


def _split_commas(text: str) -> list[str]:
    """Splits at commas that stand outside double quotes and brackets."""
    pieces, current, quoted, escaped, depth = [], "", False, False, 0
    for character in text:
        if character == '"' and not escaped:
            quoted = not quoted
        elif not quoted:
            depth += (character in "[{") - (character in "]}")
        escaped = character == "\\" and not escaped
        if character == "," and not quoted and depth <= 0:
            pieces.append(current)
            current = ""
        else:
            current += character
    return [piece for piece in [*pieces, current] if piece.strip()]


def _literal(value: Any) -> str:
    """A value as the shorthand reads it back: plain words as they are, everything else as JSON."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except json.JSONDecodeError:
            if value == value.strip() and not set(value) & set(',"\n\\[]{}') and value:
                return value
    return json.dumps(value, ensure_ascii=False)


def _explain(owner: type[BaseModel], error: ValidationError) -> str:
    """pydantic's findings as sentences, with the closest option name for an unknown one."""
    sentences = []
    for finding in error.errors():
        if finding["type"] == "default_factory_not_called":
            continue  # follows from a finding that is listed anyway
        option = ".".join(str(part) for part in finding["loc"])
        if finding["type"] == "extra_forbidden":
            sentences.append(f"{owner.__name__} has no option {option!r}.{did_you_mean(option, owner.model_fields)}")
        else:
            message = finding["msg"].removeprefix("Value error, ")
            given = f"({option}={finding['input']!r})" if option else ""  # none: several options do not fit together
            sentences.append(f"{owner.__name__}{given}: {message}.")
    return " ".join(sentences)
