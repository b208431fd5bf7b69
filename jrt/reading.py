"""A Reading: a document that a model has read, as a state that can be asked, extended, forked and saved.

On disk a reading is a folder with `reading.json` (what it belongs to, checksums) and one safetensors file (the state).
The JSON file is put in place last and in one step, so a folder holds a whole reading or none. It holds the token ids of
the document, hence the document itself: guard it like the document.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from jrt.answers import Answer, check_questions, decode, generation_options, groups
from jrt.errors import ContextTooLongError, EmptyInputError
from jrt.prompts import JRTPrompt, Plan, chat_plan, chat_reading_plan
from jrt.reader import Reader
from jrt.state import State, advance
from jrt.state import generate as generate_from
from jrt.tokens import encode_after, left_pad

if TYPE_CHECKING:
    from os import PathLike

    from jrt.state.state import Progress

_TAIL = 400  # characters of the text kept, to see where tokens fall at the boundary to a question


class Reading:
    """A captured state of one document. Made by `reader.read(document)` or `Reading.load(folder, reader)`.

    Attributes:
        reader: who read it; several readings may share one reader.
        state: what the model remembers, one row.
        tail: the last characters that were read.
        system: the system turn in front of the document, for models with a chat template.
    """

    def __init__(self, reader: Reader, state: State, tail: str, system: str | None) -> None:
        self.reader = reader
        self.state = state
        self.tail = tail
        self.system = system

    @classmethod
    def of(
        cls, reader: Reader, document: str, *, system: str | None = None, progress: Progress | None = None
    ) -> Reading:
        """Reads `document` with `reader`; see `Reader.read`."""
        plan = _prefix_plan(reader, document, system)
        reading = cls(reader, State.empty(1, reader.device), "", system)
        reading._advance(reader.encode_prefix(plan), plan.text, progress)
        return reading

    @property
    def num_tokens(self) -> int:
        """Tokens read, every pass counted."""
        return int(self.state.num_tokens[0])

    @property
    def nbytes(self) -> int:
        """Bytes of the model's state; for a recurrent model they do not grow with the document."""
        return self.state.nbytes

    def __repr__(self) -> str:
        return f"Reading({self.reader.name}, {self.num_tokens} tokens, {self.nbytes} bytes)"

    def ask(self, question: str, *, max_new_tokens: int = 64, **generation: Any) -> str:
        """The answer to a question about what was read; costs the question's own tokens only. See `Reader.ask`."""
        return self.answer_many([question], max_new_tokens=max_new_tokens, **generation)[0].text

    def ask_many(
        self, questions: Sequence[str], *, max_new_tokens: int = 64, batch_size: int = 32, **generation: Any
    ) -> list[str]:
        """The answers to many questions, in batches; every question sees the document and no other question."""
        answers = self.answer_many(questions, max_new_tokens=max_new_tokens, batch_size=batch_size, **generation)
        return [answer.text for answer in answers]

    def answer_many(
        self, questions: Sequence[str], *, max_new_tokens: int = 64, batch_size: int = 32, **generation: Any
    ) -> list[Answer]:
        """`ask_many` with the tokens and seconds it took.

        Raises:
            EmptyInputError: a question is empty, or there is none.
            ContextTooLongError: document, question and answer are longer than the model reads.
        """
        check_questions(questions)
        reader = self.reader
        rows = [encode_after(reader.tokenizer, self.tail, self._suffix(question)) for question in questions]
        self._check_length(max(len(row) for row in rows) + max_new_tokens)
        answers: dict[int, Answer] = {}
        gaps = reader.capabilities.gaps
        for batch in groups([len(row) for row in rows], batch_size, lambda a, b: gaps or a == b):
            started = time.perf_counter()
            ids, mask = left_pad(reader.tokenizer, [rows[index] for index in batch], reader.device)
            state = self.state.select(torch.zeros(len(batch), dtype=torch.long))
            columns = len(state) + ids.shape[1]
            options = generation_options(
                reader.model, reader.tokenizer, max_new_tokens, reader.stop, columns, generation
            )
            with reader.installed():
                output = generate_from(reader.model, state, ids, mask, capabilities=reader.capabilities, **options)
            counts = [self.num_tokens + len(rows[index]) for index in batch]
            seconds = time.perf_counter() - started
            answers |= zip(batch, decode(reader.tokenizer, output, columns, reader.stop, counts, seconds), strict=True)
        return [answers[index] for index in range(len(rows))]

    def append(self, text: str) -> None:
        """Reads more text on top of what was read, as often as the document was read.

        Raises:
            EmptyInputError: the text is empty.
        """
        if not text.strip():
            raise EmptyInputError("There is nothing to append.", "Pass the text that follows the document.")
        separator = self.reader.prompt.separator
        more = (separator + text.strip()) * self.reader.prompt.passes
        self._advance(encode_after(self.reader.tokenizer, self.tail, more), more)

    def fork(self) -> Reading:
        """A copy that goes its own way; appending to one leaves the other as it is."""
        return Reading(self.reader, self.state.fork(), self.tail, self.system)

    def save(self, folder: str | PathLike[str]) -> Path:
        """Writes the reading into `folder`, replacing an earlier one whole. Returns the folder."""
        from jrt.saved_reading import save

        return save(self, Path(folder))

    @staticmethod
    def load(folder: str | PathLike[str], reader: Reader) -> Reading:
        """A saved reading, for the reader that it belongs to.

        Raises:
            InputNotFoundError: there is no reading in the folder.
            CorruptReadingError: it is truncated or was changed.
            StateMismatchError: it belongs to another model, tokenizer, method or format.
        """
        from jrt.saved_reading import load

        return load(Path(folder), reader)

    def _advance(self, ids: list[int], text: str, progress: Progress | None = None) -> None:
        """Reads tokens; on an error or Ctrl-C the reading stays what it was."""
        self._check_length(len(ids))
        reader = self.reader
        state = self.state.fork()
        with reader.installed():
            tokens = torch.tensor([ids], device=reader.device)
            advance(reader.model, state, tokens, capabilities=reader.capabilities, progress=progress)
        self.state, self.tail = state, (self.tail + text)[-_TAIL:]

    def _check_length(self, more: int) -> None:
        maximum = self.reader.max_length
        if maximum is not None and self.num_tokens + more > maximum:
            raise ContextTooLongError(
                f"{self.reader.name} reads at most {maximum} tokens; "
                f"{self.num_tokens} are read and {more} would follow.",
                "Read a shorter document, read it once, ask for a shorter answer, or use a model without a length "
                "limit (Mamba, RWKV).",
            )

    def _suffix(self, question: str) -> str:
        """What follows the document when `question` is asked: the question, its cue, the end of the chat turn."""
        return _question_plan(self.reader, question, self.system).suffix


def _context_first(reader: Reader) -> JRTPrompt:
    """The reader's prompt in the order whose prefix is the same for every question."""
    return reader.prompt.model_copy(update={"order": "context_first"})


def _prefix_plan(reader: Reader, document: str, system: str | None) -> Plan:
    if reader.chat:
        return chat_reading_plan(reader.render, _context_first(reader), document, system=system)
    reader.refuse_system_turn(system)
    return reader.prompt.reading_plan(document)


def _question_plan(reader: Reader, question: str, system: str | None) -> Plan:
    """A plan whose suffix is the question's; the document in it is a stand-in, the suffix does not depend on it."""
    method = _context_first(reader)
    if reader.chat:
        return chat_plan(reader.render, method, "document", question, system=system)
    return method.plan("document", question)
