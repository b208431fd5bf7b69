"""The prompts of the six recall tasks against strings written out by hand from what the released evaluation does."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jrt.errors import DataFormatError, EmptyInputError, UnknownNameError
from jrt.methods import parse_method
from jrt.prompts import JRTPrompt, render

ONCE, TWICE = JRTPrompt(passes=1), JRTPrompt(passes=2)
TASKS = ("fda", "swde", "squad", "nq", "triviaqa", "drop")


def kv(key: str, text: str) -> dict[str, Any]:
    return {"key": key, "value": "Galvo 2", "text": text}


def cloze(context: str, question: str, original: str) -> dict[str, Any]:
    return {"context": context, "question": question, "orig_question": original, "answers": ["Galvo"]}


def squad(text: str, context: str, question: str) -> dict[str, Any]:
    return {"text": text, "value": "Galvo", "context": context, "question": question}


# (task, row, default prompt, twice prompt)
GOLDEN: list[tuple[str, dict[str, Any], str, str]] = [
    (  # the document ends in the key, twice and in another case; the key is lower case
        "fda",
        kv("device name", "K1.\nDevice name: Galvo 2. Device Name:device name:"),
        "K1.\nDevice name: Galvo 2. . Device name:",
        "Information about Device name. K1.\nDevice name: Galvo 2. .\nK1.\nDevice name: Galvo 2. . Device name:",
    ),
    (  # the document ends in several full stops and newlines: newlines go first, then the stops at both ends
        "fda",
        kv("Applicant", "\n..Made by Galvo...\n"),
        "Made by Galvo. Applicant:",
        "Information about Applicant. Made by Galvo.\nMade by Galvo. Applicant:",
    ),
    (  # spaces are not stripped
        "fda",
        kv("Applicant", " Made by Galvo. "),
        " Made by Galvo. . Applicant:",
        "Information about Applicant.  Made by Galvo. .\n Made by Galvo. . Applicant:",
    ),
    (
        "swde",
        kv("born", "Born: 1982. \n\nSummary of information above... Name: X\nSummary of information above... born:"),
        "Born: 1982. Born:",
        "Information about Born. Born: 1982.\nBorn: 1982. Born:",
    ),
    (  # the strips differ: the default takes all trailing stops, "twice" finds none behind the newline
        "swde",
        kv("Genre", "Genre: Drama.. \n"),
        "Genre: Drama. Genre:",
        "Information about Genre. Genre: Drama..\nGenre: Drama.. Genre:",
    ),
    (
        "swde",
        kv("Genre", "Genre: Drama\ngenre:"),
        "Genre: Drama. Genre:",
        "Information about Genre. Genre: Drama.\nGenre: Drama. Genre:",
    ),
    (
        "squad",
        squad("Galvo made lamps. The maker of lamps was ", "Galvo made lamps.", "Who made lamps?"),
        "Galvo made lamps. The maker of lamps was",
        "Who made lamps? Galvo made lamps.\nGalvo made lamps. The maker of lamps was",
    ),
    (  # a context that holds "Question:" is cut there in the first copy only
        "squad",
        squad("A quiz. Question: who? He was", "A quiz. Question: who?", "Who was he?"),
        "A quiz. Question: who? He was",
        "Who was he? A quiz. \nA quiz. Question: who? He was",
    ),
    (  # a text that was cut and no longer begins with the context; the first copy stays whole
        "squad",
        squad(" lamps. The maker was", " Galvo made lamps. ", "Who?"),
        "lamps. The maker was",
        "Who?  Galvo made lamps. \nlamps. The maker was",
    ),
    (
        "drop",
        cloze(" It burnt in 1850. It was lit inIT WAS lit in", "It was lit in", "When?:"),
        "It burnt in 1850. It was lit in",
        "When? It burnt in 1850.\nIt burnt in 1850. It was lit in",
    ),
    (  # a space before the last stop: the default keeps it, "twice" strips once more
        "drop",
        cloze("Lamps were lit .", " The year was ", ":When?"),
        "Lamps were lit . The year was",
        "When? Lamps were lit.\nLamps were lit. The year was",
    ),
    (
        "drop",
        cloze("..Lamps...", "It is", "What?"),
        "Lamps. It is",
        "What? Lamps.\nLamps. It is",
    ),
    (  # white space between two clozes keeps the first of them
        "drop",
        cloze("It burnt. It is It is", "It is", "When?"),
        "It burnt. It is. It is",
        "When? It burnt. It is.\nIt burnt. It is. It is",
    ),
    (  # the default removes the cloze once and minds the case; "twice" removes it as often as it is there
        "nq",
        cloze("Lamps. It isIt is", "It is", "what:"),
        "Lamps. It is. It is",
        "what Lamps.\nLamps. It is",
    ),
    (
        "nq",
        cloze("Lamps. IT IS", "It is", "what"),
        "Lamps. IT IS. It is",
        "what Lamps.\nLamps. It is",
    ),
    (
        "nq",
        cloze("Lamps burn.", "They", "what do lamps do"),
        "Lamps burn. They",
        "what do lamps do Lamps burn.\nLamps burn. They",
    ),
    (
        "triviaqa",
        cloze("[DOC] [TLE] Lamps [PAR]They burn.", "They", "What burns?:"),
        "Lamps They burn. They",
        "What burns?: Lamps They burn.\nLamps They burn. They",
    ),
    (  # the tags go before the trailing cloze is looked for
        "triviaqa",
        cloze("Lamps burn. They[PAR]", "they ", "Q: "),
        "Lamps burn. they",
        "Q:  Lamps burn.\nLamps burn. they",
    ),
    (
        "triviaqa",
        cloze("Lamps .", "They", "What?"),
        "Lamps . They",
        "What? Lamps.\nLamps. They",
    ),
]


@pytest.mark.parametrize(("task", "row", "default", "twice"), GOLDEN)
def test_default_and_twice_prompts(task: str, row: dict[str, Any], default: str, twice: str) -> None:
    before = copy.deepcopy(row)
    assert render(task, row, ONCE).text == default
    assert render(task, row, TWICE).text == twice
    assert row == before, "rows are only read"


@pytest.mark.parametrize(("task", "row", "default", "twice"), GOLDEN)
def test_every_order_is_made_of_the_same_pieces(task: str, row: dict[str, Any], default: str, twice: str) -> None:
    assert render(task, row, parse_method("repeat")).text == f"{default}\n{default}"
    assert render(task, row, JRTPrompt(passes=3, order="repeat")).text == "\n".join([default] * 3)
    context_twice = render(task, row, parse_method("context_twice")).text
    lead = twice.removesuffix(context_twice)
    assert lead.endswith(" ") and lead != twice
    assert render(task, row, parse_method("question_first")).text == lead + default


@pytest.mark.parametrize(("task", "row", "default", "twice"), GOLDEN)
def test_the_state_of_the_context_can_be_kept(task: str, row: dict[str, Any], default: str, twice: str) -> None:
    plan = render(task, row, ONCE)
    assert plan.keeps_state and plan.prefix + plan.suffix == default
    assert not render(task, row, TWICE).keeps_state


def test_squad_tells_the_paragraph_from_the_cloze() -> None:
    plan = render("squad", squad("Galvo made lamps.\n The maker was", "Galvo made lamps. ", "Who?"), TWICE)
    assert plan.suffix == "\n The maker was"


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", ["once", "twice", "context_twice", "question_first", "repeat"])
def test_empty_question_is_refused_and_does_not_hang(task: str, method: str) -> None:
    rows = {"fda": kv("", "text"), "swde": kv(" ", "text"), "squad": squad("t", "c", "")}
    empty = rows.get(task, cloze("c", "", "q"))
    with pytest.raises(EmptyInputError, match="is empty"):
        render(task, empty, parse_method(method))
    with pytest.raises(EmptyInputError, match="'question' of row 'r7' is empty"):
        render(task, {"id": "r7", "context": "c", "question": " ", "answers": ["x"]}, parse_method(method))


def test_empty_document_is_refused() -> None:
    with pytest.raises(EmptyInputError, match="'text' is empty"):
        render("fda", kv("Key", "\n"), ONCE)


def test_unknown_task_and_wrong_columns() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'squad'"):
        render("squat", {}, ONCE)
    with pytest.raises(DataFormatError, match="context, question is missing"):
        render("drop", {"id": 1}, ONCE)
    with pytest.raises(DataFormatError, match="'context' of row 3 holds int"):
        render("drop", {"id": 3, "context": 5, "question": "q"}, ONCE)


def local(context: str, question: str) -> dict[str, Any]:
    return {"id": "1", "context": context, "question": question, "answers": ["x"]}


@pytest.mark.parametrize("task", TASKS)
def test_local_rows_with_a_natural_question_use_the_cue_of_the_method(task: str) -> None:
    row = local(" Lamps burn. ", "What burns?")
    assert render(task, row, ONCE).text == "Lamps burn.\nQuestion: What burns?\nAnswer:"
    assert render(task, row, TWICE).text == "What burns?\nLamps burn.\nLamps burn.\nQuestion: What burns?\nAnswer:"
    assert render(task, row, JRTPrompt(passes=1, cue="{question} ->")).text == "Lamps burn.\nWhat burns? ->"


def test_local_rows_with_a_key_use_the_key_value_prompt() -> None:
    row = local("Device name: Galvo 2..", "device name: ")
    assert render("fda", row, ONCE).text == "Device name: Galvo 2. Device name:"
    twice = "Information about Device name. Device name: Galvo 2.\nDevice name: Galvo 2. Device name:"
    assert render("fda", row, TWICE).text == twice
    assert render("squad", row, TWICE).text == twice
    stop_behind_space = local("Born: 1982 .", "Born:")
    assert render("swde", stop_behind_space, TWICE).text.count("Born: 1982.") == 2
    assert render("fda", stop_behind_space, TWICE).text.count("Born: 1982 .") == 2


def test_tags_of_triviaqa_go_from_local_rows_too() -> None:
    assert render("triviaqa", local("[DOC]Lamps[PAR] burn", "What?"), ONCE).prefix == "Lamps burn"
    assert render("drop", local("[DOC]Lamps", "What?"), ONCE).prefix == "[DOC]Lamps"


ORDERS = ["question_first", "context_first"]
TEXT = st.text("aB.:? \nx", min_size=1, max_size=20).filter(lambda text: text.strip().strip(":"))


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(TASKS), TEXT, TEXT, TEXT, st.integers(1, 3), st.sampled_from(["question_first", "context_first"])
)
def test_cue_once_and_contexts_as_often_as_asked(
    task: str, context: str, question: str, original: str, passes: int, order: str
) -> None:
    rows = {
        "fda": kv(question, context),
        "swde": kv(question, context),
        "squad": squad(context + question, context, original),
    }
    row = rows.get(task, cloze(context, question, original))
    plan = render(task, row, JRTPrompt(passes=passes, order=order))
    roles = [part.role for part in plan.parts]
    assert roles.count("context") == passes
    assert roles.count("cue") <= 1 and roles.count("question") == (order == "question_first")
    assert plan.prefix + plan.suffix == plan.text
