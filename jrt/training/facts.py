"""Readable documents of short facts with one question each: what the embedded models are trained and tested on.

A document is "Mira lives in Oslo. Tarek lives in Rome. ...", its question "Where does Mira live?", its answer "Oslo".
A *fact* is a triple (subject, relation, value). A stable hash puts every fact into `train` or `heldout`, and a document
holds facts of one split only, so a held-out answer cannot have been memorised: the model has to read it.

No torch here: the same generator feeds the recipe (`jrt.training.tiny_recurrent`) and the evaluation task `facts`.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

from jrt.errors import InvalidOptionError

Split = Literal["train", "heldout"]

HELDOUT_SHARE = 0.25
"""The share of all facts that training never sees."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SUBJECTS = _words(
    """Mira Tarek Ines Jonas Priya Oskar Lena Diego Yuki Amara Felix Noor Pavel Greta Hugo Zara
    Emil Salma Boris Clara Kofi Ewa Marco Sana Piotr Luna Ravi Astrid Omar Vera Tomas Nadia
    Leon Freya Idris Marta Anton Leila Simon Ruth Bela Carmen Viktor Aisha Otto Elena Samir Ingrid
    Hana Milo Rosa Igor Dalia Kenji Paula Niels Farah Bruno Selma Ivan Maya Arlo Judit Tariq"""
)


@dataclass(frozen=True)
class Relation:
    """How one kind of fact is said and asked.

    Attributes:
        statement: the words between subject and value: "lives in".
        question: the question, with `{subject}` for the name.
        values: every value that the relation can take.
    """

    statement: str
    question: str
    values: tuple[str, ...]


RELATIONS: dict[str, Relation] = {
    "home": Relation(
        "lives in",
        "Where does {subject} live?",
        _words(
            """Oslo Lima Cairo Rome Paris Delhi Tokyo Quito Berlin Madrid Vienna Dublin
            Athens Lisbon Prague Warsaw Nairobi Hanoi Seoul Boston Denver Sydney Accra Riga"""
        ),
    ),
    "food": Relation(
        "likes",
        "What does {subject} like?",
        _words(
            """plums rice bread figs soup olives cheese honey grapes lemons carrots beans
            noodles peaches mangoes walnuts cherries pears yogurt spinach ginger pancakes apples dates"""
        ),
    ),
    "music": Relation(
        "plays",
        "What does {subject} play?",
        _words(
            """chess piano violin tennis drums cello golf flute hockey guitar rugby harp
            cricket trumpet squash banjo poker oboe darts organ bridge accordion polo clarinet"""
        ),
    ),
    "animal": Relation(
        "keeps",
        "What does {subject} keep?",
        _words(
            """goats bees swans rabbits horses ducks sheep pigeons llamas turtles geese canaries
            donkeys hamsters parrots lizards ponies cats dogs snails mice frogs ferrets doves"""
        ),
    ),
}


@dataclass(frozen=True)
class Fact:
    """One triple: subject, key of its relation, value."""

    subject: str
    relation: str
    value: str

    @property
    def sentence(self) -> str:
        """The fact as English: "Mira lives in Oslo."."""
        return f"{self.subject} {RELATIONS[self.relation].statement} {self.value}."

    @property
    def question(self) -> str:
        """The question that the value answers: "Where does Mira live?"."""
        return RELATIONS[self.relation].question.replace("{subject}", self.subject)

    @property
    def split(self) -> Split:
        """Where the fact belongs; the same on every machine, because the hash is SHA-256 of its words."""
        digest = hashlib.sha256(f"{self.subject}|{self.relation}|{self.value}".encode()).digest()
        return "heldout" if int.from_bytes(digest[:4], "big") < HELDOUT_SHARE * 2**32 else "train"


@dataclass(frozen=True)
class FactsItem:
    """A document, one question about it and the answer.

    Attributes:
        id: names the item: split, number of facts, seed and index.
        context: the document.
        question: asks for the value of one of its facts.
        answers: the accepted answers; always one here.
        facts: what the document says, in order.
        asked: the index of the asked fact in `facts`.
    """

    id: str
    context: str
    question: str
    answers: tuple[str, ...]
    facts: tuple[Fact, ...]
    asked: int


@cache
def facts_of(split: Split, subject: str, relation: str) -> tuple[Fact, ...]:
    """Every fact of a split about one subject and relation."""
    everything = (Fact(subject, relation, value) for value in RELATIONS[relation].values)
    return tuple(fact for fact in everything if fact.split == split)


def document(
    random_source: random.Random, num_facts: int, split: Split, subjects: tuple[str, ...] = SUBJECTS
) -> tuple[Fact, ...]:
    """Draws `num_facts` facts of a split about different subjects and one relation: who lives where, or who likes what.

    Raises:
        InvalidOptionError: `num_facts` is not between 1 and the number of subjects, or the split is unknown.
    """
    if not 1 <= num_facts <= len(subjects):
        raise InvalidOptionError(
            f"A document of {num_facts} facts was asked for, but every fact needs a subject of its own.",
            f"Choose num_facts between 1 and {len(subjects)}.",
        )
    if split not in ("train", "heldout"):
        raise InvalidOptionError(f"There is no split {split!r}.", "Choose 'train' or 'heldout'.")
    relation = random_source.choice(tuple(RELATIONS))
    chosen = random_source.sample(subjects, num_facts)
    return tuple(random_source.choice(facts_of(split, subject, relation)) for subject in chosen)


def documents(seed: int, count: int, num_facts: int, split: Split) -> Iterator[FactsItem]:
    """Yields `count` items; item i depends on the other arguments and i only, not on `count` or the machine.

    Args:
        seed: other seeds give other documents of the same split.
        count: how many items.
        num_facts: facts in a document; each is about another subject.
        split: `heldout` items share no fact with `train` items.

    Raises:
        InvalidOptionError: `num_facts` or `split` cannot be had.

    Example:
        >>> item = next(documents(seed=0, count=1, num_facts=2, split="heldout"))
        >>> item.context.count("."), item.question[-1], len(item.answers)
        (2, '?', 1)
    """
    for index in range(count):
        name = f"{split}-{num_facts}-{seed}-{index}"
        random_source = random.Random(name)
        facts = document(random_source, num_facts, split)
        asked = random_source.randrange(num_facts)
        yield FactsItem(
            id=name,
            context=text_of(facts),
            question=facts[asked].question,
            answers=(facts[asked].value,),
            facts=facts,
            asked=asked,
        )


def text_of(facts: tuple[Fact, ...]) -> str:
    """The facts as one paragraph."""
    return " ".join(fact.sentence for fact in facts)


def words() -> list[str]:
    """Every word and mark that documents and questions can hold, in a fixed order: the tokenizer's vocabulary."""
    texts = [*SUBJECTS]
    for relation in RELATIONS.values():
        texts += [relation.statement, relation.question.replace("{subject}", "").replace("?", " ?"), *relation.values]
    return list(dict.fromkeys(word for text in [*texts, "."] for word in text.split()))
