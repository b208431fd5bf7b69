"""The Reader: one model, its tokenizer and the methods it reads with.

A Reader is a `torch.nn.Module` whose `forward` and `generate` keep the signatures of transformers, so it stands where a
model stands; `ask`, `ask_many`, `read` and `explain` are what it adds. It holds no state of any reading (that is
`jrt.Reading`), and what a method changes on the model is there during its own calls only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jrt.adapters import AdaptedModel, exact
from jrt.answers import Answer, decode, generation_options, groups
from jrt.errors import ContextTooLongError, InvalidOptionError, MethodConflictError, TokenizerError
from jrt.explanation import Explanation, explain
from jrt.methods import Method
from jrt.prompts import JRTPrompt, Plan, chat_plan
from jrt.state import Capabilities, State, max_length, probe
from jrt.state import generate as generate_from
from jrt.tokens import encode, encode_plan, left_pad, lengthen

if TYPE_CHECKING:
    from os import PathLike

    from jrt.reading import Reading


class Reader(torch.nn.Module):
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

    def __init__(
        self,
        model: Any,
        methods: Sequence[Method] = (),
        tokenizer: Any = None,
        *,
        name: str | None = None,
        revision: str | None = None,
        chat: bool | None = None,
    ) -> None:
        super().__init__()
        prompts = [method for method in methods if isinstance(method, JRTPrompt)]
        if len(prompts) > 1:
            raise MethodConflictError(
                f"{' and '.join(str(prompt) for prompt in prompts)} both decide the order of the prompt.",
                "Pass one JRTPrompt; its `passes` may be any number.",
            )
        self.model = _adapted(model, methods)
        self.tokenizer = tokenizer
        self.methods = tuple(methods)
        self.prompt = prompts[0] if prompts else JRTPrompt(passes=1)
        self.name = name or getattr(model, "name_or_path", "") or type(model).__name__
        self.revision = revision
        self.chat = bool(getattr(tokenizer, "chat_template", None)) if chat is None else chat
        self._capabilities: Capabilities | None = None

    @property
    def base_model(self) -> Any:
        """The model as it was given."""
        return self.model.base if isinstance(self.model, AdaptedModel) else self.model

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def generation_config(self) -> Any:
        return self.model.generation_config

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def name_or_path(self) -> str:
        return str(self.name)

    def can_generate(self) -> bool:
        return bool(self.model.can_generate())

    @property
    def capabilities(self) -> Capabilities:
        """What the model can do as this reader runs it; probed at first use."""
        if self._capabilities is None:
            with self.installed():
                self._capabilities = probe(self.model)
        return self._capabilities

    @property
    def max_length(self) -> int | None:
        """The longest prompt and answer together, in tokens; None when there is no limit."""
        return max_length(self.model)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The model while this reader runs it: with scans that continue exactly. Nothing stays behind."""
        with exact(self.model):
            yield

    def with_methods(self, *methods: Method) -> Reader:
        """The same model read in another way; what a method has learned stays, where the method stays."""
        kept = isinstance(self.model, AdaptedModel) and self.model.method in methods
        model = self.model if kept else self.base_model
        other = Reader(model, methods, self.tokenizer, name=self.name, revision=self.revision, chat=self.chat)
        if other.model is self.model:
            other._capabilities = self._capabilities
        return other

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own forward, adapted; see its documentation."""
        with self.installed():
            return self.model(*args, **kwargs)

    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        context_length: int | None = None,
        **generation: Any,
    ) -> Any:
        """transformers' `generate`; a `JRTPrompt` of several passes lengthens what is read, not what is returned.

        Args:
            input_ids: prompts, (B, T), padded on the left.
            attention_mask: 1 for tokens, 0 for padding, (B, T).
            context_length: how many of each row's tokens, special ones in front included, are context; the rest is
                the question. Needed for every order but `repeat`, which reads the whole prompt again.
            **generation: what `generate` takes.

        Returns:
            What `generate` returns: the prompts as they were given, and the new tokens.

        Raises:
            InvalidOptionError: the prompt is to be read in an order that needs `context_length`.
        """
        if input_ids is None:
            if self.prompt.passes > 1 or "inputs_embeds" not in generation:
                raise InvalidOptionError(
                    "generate got no input_ids.", "Pass token ids; embeddings cannot be read twice, only once."
                )
            with self.installed():
                return self.model.generate(attention_mask=attention_mask, **generation)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if generation.get("max_length"):  # counted from the prompt as it was given
            generation["max_new_tokens"] = generation.pop("max_length") - input_ids.shape[1]
        if self.prompt.passes == 1 and self.prompt.order != "question_first":
            return self._generate(input_ids, mask, **generation)
        ids, long_mask = lengthen(self.prompt, self._need_tokenizer(), input_ids, mask, context_length)
        output = self._generate(ids, long_mask, **generation)
        sequences = output if isinstance(output, Tensor) else output.sequences
        copies = len(sequences) // len(input_ids)
        kept = input_ids.repeat_interleave(copies, dim=0).to(sequences.device)
        sequences = torch.cat([kept, sequences[:, ids.shape[1] :]], dim=1)
        if isinstance(output, Tensor):
            return sequences
        output.sequences = sequences
        return output

    def _generate(self, ids: Tensor, mask: Tensor, **generation: Any) -> Any:
        """The model's own `generate` where it is exact, ours on an empty state where it is not."""
        longest = int(mask.sum(dim=1).max()) + (generation.get("max_new_tokens") or 0)
        if self.max_length is not None and longest > self.max_length:
            raise ContextTooLongError(
                f"{self.name} reads at most {self.max_length} tokens; the prompt and its answer need {longest}.",
                "Shorten the prompt, read it once, or use a model without a length limit (Mamba, RWKV).",
            )
        with self.installed():
            if self.capabilities.batched:
                return self.model.generate(ids, attention_mask=mask, **generation)
            state = State.empty(len(ids), ids.device)
            return generate_from(self.model, state, ids, mask, capabilities=self.capabilities, **generation)

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

    def read(self, document: str, *, system: str | None = None) -> Reading:
        """Reads a document, as often as the method says, and keeps the state for questions that come later."""
        from jrt.reading import Reading

        return Reading.of(self, document, system=system)

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
        tokenizer = self._need_tokenizer()
        rows = [encode_plan(tokenizer, plan) for plan in plans]
        for plan, row in zip(plans, rows, strict=True):
            if self.max_length is not None and len(row) + max_new_tokens > self.max_length:
                explain(self, plan, max_new_tokens).check()
        answers: dict[int, Answer] = {}
        for batch in groups([len(row) for row in rows], batch_size, lambda a, b: True):
            ids, mask = left_pad(tokenizer, [rows[index] for index in batch], self.device)
            started = time.perf_counter()
            options = generation_options(self.model, tokenizer, max_new_tokens, stop, ids.shape[1], generation)
            output = self._generate(ids, mask, **options)
            counts = [len(rows[index]) for index in batch]
            seconds = time.perf_counter() - started
            answers |= zip(batch, decode(tokenizer, output, ids.shape[1], stop, counts, seconds), strict=True)
        return [answers[index] for index in range(len(plans))]

    def save_pretrained(self, folder: str | PathLike[str], *, include_model: bool = False) -> Path:
        """Writes the methods and what they have learned; `jrt.load(folder)` reads it again.

        Args:
            folder: where to.
            include_model: write the model and its tokenizer too. Needed when the model itself was trained, or has no
                name by which it can be loaded.

        Returns:
            The folder.
        """
        from jrt.pretrained import save_pretrained

        return save_pretrained(self, folder, include_model=include_model)

    @classmethod
    def from_pretrained(cls, folder: str | PathLike[str], model: Any = None, *, tokenizer: Any = None) -> Reader:
        """What `save_pretrained` wrote, around its own model or around one that is loaded already.

        Raises:
            InputNotFoundError: the folder holds no saved reader.
            StateMismatchError: the learned weights do not fit this model.
        """
        from jrt.loading import load
        from jrt.pretrained import from_saved, read_saved

        if model is None:
            return load(str(folder))
        return from_saved(read_saved(Path(folder)), Path(folder), model, tokenizer, (), None)

    def push_to_hub(self, repo_id: str, *, include_model: bool = False, private: bool | None = None) -> str:
        """Uploads what `save_pretrained` writes. Returns the address.

        Raises:
            HubUnavailableError: the Hub cannot be reached or refuses.
        """
        from jrt.pretrained import push_to_hub

        return push_to_hub(self, repo_id, include_model=include_model, private=private)

    def encode_prefix(self, plan: Plan) -> list[int]:
        """The token ids of the part of a prompt whose state is kept."""
        return encode(self._need_tokenizer(), plan.prefix, special=not plan.chat)

    def render(self, messages: list[dict[str, str]]) -> str:
        """A conversation as the chat template writes it, ready for the answer."""
        text: str = self._need_tokenizer().apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text

    def refuse_system_turn(self, system: str | None) -> None:
        """Says that there is no system turn without a chat template, where one was given."""
        if system is not None:
            raise InvalidOptionError(
                f"{self.name} is read without a chat template, so there is no system turn.",
                "Put the instruction into the document.",
            )

    def _need_tokenizer(self) -> Any:
        if self.tokenizer is None:
            raise TokenizerError(
                "This reader has no tokenizer, and text has to become tokens.",
                "Pass jrt.wrap(model, ..., tokenizer=AutoTokenizer.from_pretrained(...)), or use generate with ids.",
            )
        return self.tokenizer


def _adapted(model: Any, methods: Sequence[Method]) -> Any:
    """The model as the methods read it, the innermost first; a method that it is adapted by already stays."""
    for method in reversed(methods):
        if isinstance(model, AdaptedModel) and model.method == method:
            continue
        adapted = method.adapt(model)
        if adapted is not model and isinstance(model, AdaptedModel):
            raise MethodConflictError(
                f"{model.method} and {method} both keep a memory of past segments, and each decides what a segment is.",
                "Pass one of them; either goes together with JRTPrompt.",
            )
        model = adapted
    return model


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
    for method in methods:
        if not isinstance(method, Method):
            raise InvalidOptionError(
                f"{method!r} is no method.", "Pass methods such as jrt.JRTPrompt(passes=2), and tokenizer= by name."
            )
    return Reader(model, methods, tokenizer, chat=chat)
