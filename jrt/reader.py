"""The Reader: one model, its tokenizer and the methods it reads with.

A Reader is a `torch.nn.Module` whose `forward` and `generate` keep the signatures of transformers, so it stands where a
model stands (reader_module.py); `ask`, `ask_many`, `read` and `explain`, what it does with text, are here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jrt.answers import Answer, decode, generation_options, groups
from jrt.errors import InvalidOptionError, UnsupportedModelError
from jrt.explanation import Explanation, explain
from jrt.methods import Method
from jrt.prompts import Plan, chat_plan
from jrt.reader_module import ReaderModule
from jrt.tokens import encode, encode_plan, left_pad

if TYPE_CHECKING:
    from jrt.reading import Reading
    from jrt.state.state import Progress


class Reader(ReaderModule):
    """A model that answers questions about documents longer than it remembers.

    Args:
        model: a causal language model of transformers, or a PEFT model around one; never changed. An encoder too, where
            a method takes one.
        methods: how it reads, outermost first; none means once.
        tokenizer: the model's own; needed by everything that takes text.
        name: what the model is called in results and saved readings.
        revision: the revision of its weights, where there is one.
        chat: whether `ask` speaks through the tokenizer's chat template; None means where there is one.

    Attributes:
        model: the model that reads: the given one, or a `jrt.adapters.AdaptedModel` around it.

    Raises:
        MethodConflictError: the methods do not work together.

    Example:
        >>> reader = jrt.load("jrt/tiny-recurrent", jrt.JRTPrompt(passes=2))
        >>> reader.ask("Mira lives in Oslo.", "Where does Mira live?")
        'Oslo'
    """

    def plan(self, document: str, question: str, system: str | None = None) -> Plan:
        """The prompt of `ask`, part by part; nothing is run.

        Args:
            document: the text that holds the answer.
            question: what is asked.
            system: a system turn, for models with a chat template.
        """
        if self.chat:
            return chat_plan(self.render, self.prompt, document, question, system=system)
        self.refuse_system_turn(system)
        return self.prompt.plan(document, question)

    def explain(
        self, document: str, question: str, *, system: str | None = None, max_new_tokens: int = 64
    ) -> Explanation:
        """What `ask` would read: the exact prompt, tokens of each part, and whether it fits. The model is not run."""
        return explain(self, self.plan(document, question, system), max_new_tokens)

    def ask(
        self, document: str, question: str, *, system: str | None = None, max_new_tokens: int = 64, **generation: Any
    ) -> str:
        """The answer to one question about one document.

        Args:
            document: the text that holds the answer.
            question: what is asked.
            system: a system turn, for models with a chat template.
            max_new_tokens: the longest answer in tokens. Without a chat template an answer ends at its first newline.
            **generation: what `generate` takes, such as `do_sample=True`, `num_beams=4` or `streamer=...`.

        Raises:
            EmptyInputError: the document or the question is empty.
            ContextTooLongError: the prompt and the answer are longer than the model reads.
            InvalidOptionError: a generation option does not exist.
            UnsupportedModelError: the model is an encoder, or its head is for something else.
        """
        return self.answer(document, question, system=system, max_new_tokens=max_new_tokens, **generation).text

    def answer(
        self, document: str, question: str, *, system: str | None = None, max_new_tokens: int = 64, **generation: Any
    ) -> Answer:
        """`ask` with the tokens and seconds it took."""
        plan = self.plan(document, question, system)
        return self.answer_plans([plan], max_new_tokens=max_new_tokens, stop=self.stop, **generation)[0]

    @property
    def stop(self) -> str | None:
        """Where an answer ends besides the end-of-sequence token."""
        return None if self.chat else "\n"

    def ask_many(
        self,
        document: str,
        questions: Sequence[str],
        *,
        system: str | None = None,
        max_new_tokens: int = 64,
        **generation: Any,
    ) -> list[str]:
        """The answers to many questions about one document, which is read before the first of them and kept.

        The questions come after the document, so the order is `context_first` whatever the method's own.
        """
        reading = self.read(document, system=system)
        return reading.ask_many(questions, max_new_tokens=max_new_tokens, **generation)

    def read(self, document: str, *, system: str | None = None, progress: Progress | None = None) -> Reading:
        """Reads a document, as often as the method says, and keeps the state for questions that come later.

        Args:
            document: the text that will be asked about.
            system: a system turn, for models with a chat template.
            progress: called with the tokens read so far and all that will be, after every part of a long document.
        """
        from jrt.reading import Reading

        return Reading.of(self, document, system=system, progress=progress)

    def answer_plans(
        self,
        plans: Sequence[Plan],
        *,
        max_new_tokens: int = 64,
        stop: str | None = None,
        batch_size: int = 1,
        **generation: Any,
    ) -> list[Answer]:
        """Answers to prompts that are planned already, in the order given; what evaluations call.

        Args:
            plans: the prompts.
            max_new_tokens: the longest answer in tokens.
            stop: the answer ends where this string appears in it.
            batch_size: prompts in one batch; similar lengths go together, padded on the left.
            **generation: what `generate` takes.
        """
        self.check_writes()
        tokenizer = self.need_tokenizer()
        rows = [encode_plan(tokenizer, plan) for plan in plans]
        for plan, row in zip(plans, rows, strict=True):
            if self.max_length is not None and len(row) + max_new_tokens > self.max_length:
                explain(self, plan, max_new_tokens).check()
        answers: dict[int, Answer] = {}
        for batch in groups([len(row) for row in rows], batch_size, lambda a, b: True):
            ids, mask = left_pad(tokenizer, [rows[index] for index in batch], self.device)
            started = time.perf_counter()
            options = generation_options(self.model, tokenizer, max_new_tokens, stop, ids.shape[1], generation)
            output = self.generate_checked(ids, mask, **options)
            counts = [len(rows[index]) for index in batch]
            seconds = time.perf_counter() - started
            answers |= zip(batch, decode(tokenizer, output, ids.shape[1], stop, counts, seconds), strict=True)
        return [answers[index] for index in range(len(plans))]

    def encode_prefix(self, plan: Plan) -> list[int]:
        """The token ids of the part of a prompt whose state is kept."""
        return encode(self.need_tokenizer(), plan.prefix, special=not plan.chat)

    def render(self, messages: list[dict[str, str]]) -> str:
        """A conversation as the chat template writes it, ready for the answer."""
        text: str = self.need_tokenizer().apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text

    def refuse_system_turn(self, system: str | None) -> None:
        """Says that there is no system turn without a chat template, where one was given."""
        if system is not None:
            raise InvalidOptionError(
                f"{self.name} is read without a chat template, so there is no system turn.",
                "Put the instruction into the document.",
            )


def wrap(model: Any, *methods: Method, tokenizer: Any = None, chat: bool | None = None) -> Reader:
    """A Reader around a loaded model.

    Args:
        model: a causal language model of transformers, or a PEFT model around one; it is not changed.
        *methods: how it reads, outermost first; none means once.
        tokenizer: the model's own; without it only `forward` and `generate` work.
        chat: whether `ask` uses the chat template; None means where there is one.

    Example:
        >>> reader = jrt.wrap(model, jrt.JRTPrompt(passes=2), tokenizer=tokenizer)
    """
    if isinstance(model, ReaderModule):
        raise InvalidOptionError(
            "The model is a Reader already.", "Use reader.with_methods(...), or wrap reader.base_model."
        )
    if not hasattr(model, "config") or not callable(model):
        raise UnsupportedModelError(
            f"{type(model).__name__} is no model of transformers.",
            "Load one with AutoModelForCausalLM.from_pretrained, or pass its name to jrt.load.",
        )
    for method in methods:
        if not isinstance(method, Method):
            raise InvalidOptionError(
                f"{method!r} is no method.", "Pass methods such as jrt.JRTPrompt(passes=2), and tokenizer= by name."
            )
    return Reader(model, methods, tokenizer, chat=chat)
