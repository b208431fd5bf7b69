"""memorize, detect, reason and babilong: where facts stand, what the questions' answers are, what is held out."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jrt.errors import DataFormatError, InputNotFoundError, InvalidOptionError
from jrt.evals.tasks.babilong import BABILong
from jrt.evals.tasks.babilong_scores import LABELS, by_words, official
from jrt.evals.tasks.registry import parse_task
from jrt.methods import parse_method
from jrt.training.distractors import Distractors, distractors_of, pieces
from jrt.training.passages import Passages
from jrt.training.places import ACTIONS, KINDS, NAMES, PLACES, Kind, moves, related, relations

STEP = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0)}


def solved(facts: list[str], question: str) -> str:
    """The answer by geometry: places get coordinates from the facts, the question is looked up on the map."""
    if question.startswith("Where"):
        return facts[0].rstrip(".").split()[-1]
    answers = set()
    for fact in facts:
        subject, direction, other = re.fullmatch(r"The (\w+) is (\w+) of the (\w+)\.", fact).groups()  # type: ignore[union-attr]
        at = {other: (0, 0), subject: STEP[direction]}
        for asked, form in ((r"What is (\w+) of the (\w+)\?", 1), (r"What is the (\w+) (\w+) of\?", -1)):
            found = re.fullmatch(asked, question)
            if found and form == 1:
                way, start = found.groups()
            elif found:
                start, way = found.groups()
            if found and start in at:
                goal = tuple(p + form * s for p, s in zip(at[start], STEP[way], strict=True))
                answers |= {place for place, spot in at.items() if spot == goal}
    (answer,) = answers
    return answer


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(KINDS), st.sampled_from(["train", "heldout"]), st.integers(24, 300), st.integers(0, 10**6))
def test_a_passage_has_its_length_its_facts_and_the_right_answer(
    kind: Kind, split: str, length: int, seed: int
) -> None:
    passages = Passages(kind, split, HIDING)  # type: ignore[arg-type]
    passage = passages.draw(np.random.default_rng(seed), length)
    words = [passages.vocabulary[piece] for piece in passage.pieces]
    assert len(words) == length and pieces(passages.text(passage.pieces)) == [words[0].strip(), *words[1:]]
    assert "".join(words[-passage.question_length :]).strip() == passage.question
    assert list(passage.offsets) == sorted(passage.offsets)
    for fact, offset in zip(passage.facts, passage.offsets, strict=True):
        assert "".join(words[offset:]).strip().startswith(fact)
        assert offset == 0 or words[offset - 1] in ".?!"
    assert kind != "memorize" or passage.offsets == (0,)
    assert solved(list(passage.facts), passage.question) == passage.answer
    assert solved([passage.facts[passage.asked]], passage.question) == passage.answer


HIDING = Distractors()


def test_what_is_held_out_is_never_trained_not_even_turned_around() -> None:
    assert not {fact.text for fact in moves("train")} & {fact.text for fact in moves("heldout")}
    assert len(moves("train")) + len(moves("heldout")) == len(NAMES) * len(ACTIONS) * len(PLACES)
    assert len(relations("train")) + len(relations("heldout")) == len(PLACES) * (len(PLACES) - 1) * 4
    assert not {fact.key for fact in relations("train")} & {fact.key for fact in relations("heldout")}
    for fact in relations("train"):
        subject, direction, other = re.findall(r"[Tt]he (\w+)|is (\w+)", fact.text)
        reverse = {"north": "south", "south": "north", "east": "west", "west": "east"}[direction[1]]
        turned = f"The {other[0]} is {reverse} of the {subject[0]}."
        assert turned in {found.text for found in relations("train")}
    for split in ("train", "heldout"):
        assert {fact.questions[0][1] for fact in moves(split)} == set(PLACES)
        assert {answer for pair in related(relations(split)) for fact in pair for _, answer in fact.questions} == set(
            PLACES
        )


def test_distractors_hold_the_words_of_facts_and_no_fact() -> None:
    drawn, starts = HIDING.draw(np.random.default_rng(0), 200_000)
    text = "".join(HIDING.vocabulary[piece] for piece in drawn)
    assert all(word in text for word in (*PLACES, *NAMES, *ACTIONS, "north", "south", "east", "west"))
    assert not re.search(rf"({'|'.join(NAMES)}) ({'|'.join(ACTIONS)}) to", text)
    assert not re.search(rf"The ({'|'.join(PLACES)}) is", text)
    sentences = text.split(".")[:-1]
    assert len(starts) - 1 <= len(sentences) and len(set(sentences)) > 2500
    assert all(HIDING.vocabulary[piece][1].isupper() for piece in drawn[starts])


def test_facts_stand_everywhere() -> None:
    passages = Passages("detect", "train", HIDING)
    generator = np.random.default_rng(0)
    offsets = np.array([passages.draw(generator, 240).offsets[0] for _ in range(2000)])
    counts = np.bincount(offsets // 24, minlength=10)
    assert counts[:-1].min() > 160 and 60 < counts[-1] < 160  # 200 each; the last segment has room for half of them
    assert len(set((offsets % 24).tolist())) == 24


def test_a_text_gives_its_sentences_in_their_order(tmp_path: Path) -> None:
    book = "It was late. “Who is there?” asked Ann! Nobody answered; the sea was loud. She went out."
    (tmp_path / "book.txt").write_text(book, encoding="utf-8")
    task = parse_task(f"detect:num_segments=3,segment_length=20,text={tmp_path / 'book.txt'}")
    circle = " ".join([book] * 6)
    for item in task.items(limit=10, seed=1):
        before, fact, after = item.context.partition(item.extras["facts"][0])
        assert fact and before.strip() in circle and after.strip() in circle
        assert len(pieces(f"{item.context} {item.question}")) == 60
    with pytest.raises(InputNotFoundError, match="no text file"):
        parse_task("detect:text=nowhere.txt").items(limit=1)
    with pytest.raises(InvalidOptionError, match="no sentence of 1 or more"):
        Distractors(" \n ")


LATIN = "It rained.\nThe caf\xe9 was closed on that day and the whole week.".encode("latin-1")


def test_a_text_that_is_not_utf_8_is_named_as_what_is_wrong(tmp_path: Path) -> None:
    """Not the file of stories, which is read at the same time."""
    book = tmp_path / "book.txt"
    book.write_bytes(LATIN)
    said = f"^{re.escape(str(book))} is no UTF-8 text: byte 0xe9 in line 2"
    with pytest.raises(DataFormatError, match=said) as caught:
        parse_task(f"detect:text={book}").items(limit=1)
    assert "UTF-8" in caught.value.hint
    with pytest.raises(DataFormatError, match=said):
        parse_task(f"babilong:text={book}").items(path=babi_file(tmp_path))
    with pytest.raises(InputNotFoundError, match="no text file"):
        parse_task("babilong:text=nowhere.txt").items(path=babi_file(tmp_path))
    stories = tmp_path / "qa1_test.txt"
    stories.write_bytes("1 Zo\xeb left.\n".encode("latin-1"))
    with pytest.raises(DataFormatError, match=f"^{re.escape(str(stories))} is no UTF-8 text: byte 0xeb in line 1"):
        parse_task("babilong").items(path=stories)


def test_a_text_is_read_once_for_each_least_length(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("Short one. This one is longer.", encoding="utf-8")
    book = str(tmp_path / "book.txt")
    assert distractors_of(book) is distractors_of(book) and distractors_of(None) is distractors_of(None)
    assert "".join(distractors_of(book).vocabulary).startswith(" Short one.")
    assert "".join(distractors_of(book, shortest=4).vocabulary) == " This one is longer."


def test_options_and_what_is_kept_of_an_item() -> None:
    task = parse_task("reason:num_segments=5,segment_length=30,split=train")
    texts = {fact.text for fact in relations("train")}
    for item in task.items(limit=20):
        assert set(item.extras["facts"]) <= texts and item.answers[0] in PLACES
        assert item.extras["segments"] == [offset // 30 for offset in item.extras["offsets"]]
        assert max(item.extras["segments"]) <= 4
    with pytest.raises(InvalidOptionError, match=r"need 2\d words and marks; there are 10"):
        parse_task("reason:num_segments=1,segment_length=10").items(limit=1)


STORY = """1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary? \tbathroom\t1
4 Daniel went back to the hallway.
5 Where is Daniel? \thallway\t4
1 John moved to the kitchen.
2 Where is John? \tkitchen\t1
"""


def babi_file(folder: Path) -> Path:
    path = folder / "qa1_single-supporting-fact_test.txt"
    path.write_text(STORY, encoding="utf-8")
    return path


@pytest.mark.parametrize("length", [0, 60, 300])
def test_babilong_hides_the_facts_in_their_order(length: int, tmp_path: Path) -> None:
    task = parse_task(f"babilong:task=qa1,length={length}")
    items = task.items(path=babi_file(tmp_path))
    assert [(item.question, item.answers) for item in items] == [
        ("Where is Mary?", ("bathroom",)), ("Where is Daniel?", ("hallway",)), ("Where is John?", ("kitchen",))
    ]  # fmt: skip
    assert [len(item.extras["facts"]) for item in items] == [2, 3, 1]
    for item in items:
        words = pieces(item.context)
        assert len(words) == (length or len(pieces(" ".join(item.extras["facts"]))))
        for fact, offset in zip(item.extras["facts"], item.extras["offsets"], strict=True):
            assert "".join(words[offset:]).strip().startswith(fact)
        plan = task.plan(item, parse_method("once"))
        assert plan.text.endswith(f"Question: {item.question}\nAnswer:") and "<context>\n" + item.context in plan.text
    assert items == task.items(path=babi_file(tmp_path))


def test_babilong_reads_jsonl_of_many_tasks_and_a_text(tmp_path: Path) -> None:
    rows = [
        {"id": f"{task}-{i}", "task": task, "context": "John got the milk.\nJohn left.", "question": "Q?", "answers": a}
        for i in range(3)
        for task, a in (("qa1", ["office"]), ("qa8", ["milk", "apple"]))
    ]
    path, book = tmp_path / "babi.jsonl", tmp_path / "book.txt"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    book.write_text("Short one. " + "This sentence is long enough to be kept in the haystack here. " * 3)
    task = parse_task(f"babilong:task=qa8,length=80,text={book}")
    items = task.items(path=path, limit=2)
    assert len(items) == 2 and all(item.id.startswith("qa8") for item in items)
    assert "Short one" not in items[0].context and "haystack" in items[0].context
    assert isinstance(task, BABILong)
    assert task.scores(items[0], "apple,milk") == {"official": 1.0, "by_words": 1.0}
    assert task.scores(items[0], "milk") == {"official": 0.0, "by_words": 0.0}


def test_babilong_refusals(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="none is given") as caught:
        parse_task("babilong").items()
    assert "--data babilong=FILE" in caught.value.hint
    with pytest.raises(DataFormatError, match="no story of qa1 that fits 5 words"):
        parse_task("babilong:length=5").items(path=babi_file(tmp_path))
    broken = tmp_path / "broken.txt"
    broken.write_text("1 Mary left.\nno number\n")
    with pytest.raises(DataFormatError, match="line 2: this is no line of bAbI"):
        parse_task("babilong").items(path=broken)
    with pytest.raises(InvalidOptionError, match="babilong:task='qa21'"):
        parse_task("babilong:task=qa21")


@pytest.mark.parametrize(
    ("task", "question", "target", "output", "by_rule", "by_word"),
    [
        ("qa1", "Where is Mary?", "office", "Mary is in the office. The garden is empty.", True, True),
        ("qa1", "Where is Mary?", "office", "Mary is in the office or the garden.", False, False),
        ("qa4", "What is the garden east of?", "office", "The garden is east of the office", True, True),
        ("qa6", "Is Mary in the office?", "yes", "Yes, Mary is now in the office.", False, True),
        ("qa6", "Is Mary in the office?", "no", "I do not know", True, False),
        ("qa7", "How many objects is Mary carrying?", "none", "none", False, True),
        ("qa7", "How many objects is Mary carrying?", "one", "one", True, True),
        ("qa8", "What is Mary carrying?", "milk,apple", "apple, milk", True, True),
        ("qa8", "What is Mary carrying?", "milk,apple", "apple, milk, football", False, False),
        ("qa19", "How do you go from the office to the garden?", "n,w", "n,w", True, True),
        ("qa1", "Where is Mary?", "office", "office\nQuestion: where is the garden", False, True),
    ],
)
def test_babilong_scores(task: str, question: str, target: str, output: str, by_rule: bool, by_word: bool) -> None:
    assert official(task, question, target, output) == by_rule
    assert by_words(task, question, target, output) == by_word


def test_every_target_is_right_by_words_and_all_but_none_officially() -> None:
    for task, labels in LABELS.items():
        for label in labels:
            assert by_words(task, "?", label, f"It is {label}.")
            assert official(task, "?", label, label) == (label != "none")
        for one, other in combinations(labels, 2):
            assert not by_words(task, "?", one, f"{one} {other}")
    assert len(LABELS) == 20
