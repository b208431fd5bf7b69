"""Methods as text, as JSON and by entry point, and what their errors say."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jrt.methods
from jrt.errors import InvalidOptionError, JRTError, UnknownNameError, did_you_mean
from jrt.methods import PRESETS, Method, method_class, parse_method, split_methods
from jrt.prompts import JRTPrompt

TEXTS = st.text(st.sampled_from('ab{},=:"\\\n 1'), max_size=8)
METHODS = st.builds(
    lambda options: JRTPrompt(**options),
    st.fixed_dictionaries(
        {"passes": st.integers(1, 4)},
        optional={
            "order": st.sampled_from(["question_first", "context_first", "repeat"]),
            "lead": TEXTS,
            "cue": TEXTS.map(lambda text: text + "{question}"),
            "separator": st.one_of(TEXTS, st.sampled_from(["1", "true", "null", "1.5", '"x"'])),
            "joint": TEXTS,
        },
    ),
)


@settings(deadline=None, max_examples=300)
@given(METHODS)
def test_shorthand_round_trip(method: JRTPrompt) -> None:
    assert parse_method(str(method)) == method


@settings(deadline=None, max_examples=150)
@given(st.lists(METHODS, min_size=1, max_size=4), st.data())
def test_lists_of_methods_round_trip(methods: list[JRTPrompt], data: st.DataObject) -> None:
    names = [data.draw(st.sampled_from([str(method), *PRESETS])) for method in methods]
    assert split_methods(",".join(names)) == names


@settings(deadline=None, max_examples=100)
@given(METHODS)
def test_json_round_trip(method: JRTPrompt) -> None:
    data = json.loads(json.dumps(method.to_dict()))
    assert data["kind"] == "jrt_prompt"
    assert Method.from_dict(data) == method == JRTPrompt.from_dict(data)


def test_split() -> None:
    assert split_methods("once,jrt_prompt:passes=2,order=repeat,twice") == [
        "once",
        "jrt_prompt:passes=2,order=repeat",
        "twice",
    ]
    assert split_methods("") == []
    assert split_methods(' once , ,jrt_prompt:joint="a,b"') == ["once", 'jrt_prompt:joint="a,b"']


def test_presets_differ_and_are_what_they_say() -> None:
    presets = [parse_method(name) for name in PRESETS]
    assert len({str(method) for method in presets}) == len(PRESETS)
    assert parse_method(" twice") == JRTPrompt() and str(JRTPrompt()) == "jrt_prompt"
    assert parse_method("once") == JRTPrompt(passes=1)
    assert str(JRTPrompt(passes=1)) == "jrt_prompt:passes=1"


def test_unknown_names() -> None:
    with pytest.raises(UnknownNameError, match=r"no method 'twise'\. Did you mean 'twice'"):
        parse_method("twise")
    with pytest.raises(UnknownNameError, match=r"no method 'qqqq'\. Known: .*jrt_prompt"):
        method_class("qqqq")
    with pytest.raises(LookupError):
        Method.from_dict({"kind": "qqqq"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jrt_prompt:pases=3", r"no option 'pases'. Did you mean 'passes'\?"),
        ("jrt_prompt:passes", "'passes' in 'jrt_prompt:passes' is no option.*name:option=value"),
        ("jrt_prompt:passes=two", r"JRTPrompt\(passes='two'\)"),
        ("jrt_prompt:passes=1.5", r"JRTPrompt\(passes=1.5\)"),
        ("jrt_prompt:passes=true", r"JRTPrompt\(passes=True\)"),
    ],
)
def test_wrong_options(text: str, message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        parse_method(text)


def test_methods_are_frozen_and_can_be_compared() -> None:
    method = JRTPrompt(passes=2)
    with pytest.raises((TypeError, ValueError)):
        method.passes = 3
    assert len({method, JRTPrompt(passes=2), JRTPrompt(passes=3)}) == 2


class Shouted(JRTPrompt):
    kind = "shouted"


def test_other_packages_register_methods_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "elsewhere", type("elsewhere", (), {"Shouted": Shouted}))
    point = EntryPoint("shouted", "elsewhere:Shouted", "jrt.methods")
    monkeypatch.setattr(jrt.methods, "entry_points", lambda group: [point] if group == "jrt.methods" else [])
    assert parse_method("shouted:passes=3") == Shouted(passes=3)
    assert str(Shouted(passes=3)) == "shouted:passes=3"
    with pytest.raises(UnknownNameError, match="Did you mean 'shouted'"):
        parse_method("shoutd")


def test_a_method_without_a_prompt_says_so_and_adapts_nothing() -> None:
    class Silent(Method):
        kind = "silent"

    with pytest.raises(NotImplementedError, match="Silent does not change what is read"):
        Silent().plan("c", "q")
    model: Any = object()
    assert Silent().adapt(model) is model


def test_did_you_mean() -> None:
    assert did_you_mean("pases", ["passes", "order"]) == " Did you mean 'passes'?"
    assert did_you_mean("tas", ["task", "tasks", "order"]) == " Did you mean 'task' or 'tasks'?"
    assert did_you_mean("zzz", ["b", "a"]) == " Known: a, b."
    assert did_you_mean("zzz", []) == ""


def test_errors_hold_message_and_hint_and_are_what_callers_expect() -> None:
    error = InvalidOptionError("It is wrong.", "Type this.")
    assert (error.message, error.hint, str(error)) == ("It is wrong.", "Type this.", "It is wrong. Type this.")
    assert str(JRTError("Only this.")) == "Only this."
    assert isinstance(error, ValueError) and isinstance(error, JRTError)
