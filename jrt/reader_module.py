"""A Reader as a module: what stands where a model of transformers stands.

`forward` and `generate` keep the signatures of transformers; the methods' learned parts are saved and loaded here. What
a Reader does with text is in reader.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from jrt.adapters import AdaptedModel, exact
from jrt.adapters.tied import NamesWeightsOnce
from jrt.errors import (
    ContextTooLongError,
    InvalidOptionError,
    MethodConflictError,
    TokenizerError,
    UnsupportedModelError,
)
from jrt.methods import Method
from jrt.prompts import JRTPrompt
from jrt.state import Capabilities, State, max_length, probe
from jrt.state import generate as generate_from
from jrt.state.generation import mask_of
from jrt.state.probe import refuse_encoders
from jrt.state.running import device_of
from jrt.tokens import lengthen

if TYPE_CHECKING:
    from os import PathLike


class _ModelsForward:
    """`reader.forward`: the model's own, adapted, while the reader is installed.

    Its signature is the model's too, for those who ask before they call: Trainer keeps the columns of a data set that
    `forward` takes and drops all others.
    """

    def __get__(self, reader: ReaderModule | None, owner: Any = None) -> Callable[..., Any]:
        if reader is None:
            return self._of_any_reader
        inner = reader.model.get_base_model() if hasattr(reader.model, "get_base_model") else reader.model

        @wraps(inner.forward)
        def forward(*args: Any, **kwargs: Any) -> Any:
            with reader.installed():
                return reader.model(*args, **kwargs)

        return forward

    @staticmethod
    def _of_any_reader(reader: ReaderModule, input_ids: Any = None, *, labels: Any = None, **inputs: Any) -> Any:
        """The model's own forward, adapted; see its documentation."""
        return reader.forward(input_ids, labels=labels, **inputs)


class ReaderModule(NamesWeightsOnce):
    """A model, adapted by methods, with the model's own signatures; see `jrt.Reader`.

    It holds no state of any reading (that is `jrt.Reading`), and the model it was given is left as it is.
    """

    forward = _ModelsForward()

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
        self.training = bool(getattr(self.model, "training", False))
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
        return device_of(self.model)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def name_or_path(self) -> str:
        return str(self.name)

    @property
    def accepts_loss_kwargs(self) -> bool:
        """Whether `forward` takes `num_items_in_batch`, as Trainer asks a model."""
        found = getattr(self.model, "accepts_loss_kwargs", None)
        kinds = [parameter.kind for parameter in inspect.signature(self.forward).parameters.values()]
        return inspect.Parameter.VAR_KEYWORD in kinds if found is None else bool(found)

    def get_input_embeddings(self) -> torch.nn.Module:
        """The model's token embeddings."""
        embeddings: torch.nn.Module = self.model.get_input_embeddings()
        return embeddings

    def activation_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """The model's own: activations are computed twice in training instead of being kept."""
        self.model.activation_checkpointing_enable(*args, **kwargs)

    def activation_checkpointing_disable(self) -> None:
        """Undoes `activation_checkpointing_enable`."""
        self.model.activation_checkpointing_disable()

    def can_generate(self) -> bool:
        return bool(self.model.can_generate())

    def check_writes(self) -> None:
        """Nothing, where the model writes text.

        Raises:
            UnsupportedModelError: it is an encoder, or its head is for something else.
        """
        refuse_encoders(self.model)
        if not getattr(self.model, "can_generate", lambda: True)():
            raise UnsupportedModelError(
                f"{type(self.base_model).__name__} writes no text, so it cannot be asked.",
                "Call it for its logits: reader(**inputs). To ask, load a decoder (AutoModelForCausalLM).",
            )

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

    def with_methods(self, *methods: Method) -> Self:
        """The same model read in another way; what a method has learned stays, where the method stays."""
        kept = isinstance(self.model, AdaptedModel) and self.model.method in methods
        model = self.model if kept else self.base_model
        other = type(self)(model, methods, self.tokenizer, name=self.name, revision=self.revision, chat=self.chat)
        if other.model is self.model:
            other._capabilities = self._capabilities
        return other

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
            attention_mask: 1 for tokens, 0 for padding, (B, T); None means that pad tokens are padding.
            context_length: how many of each row's tokens, special ones in front included, are context; the rest is
                the question. Needed for every order but `repeat`, which reads the whole prompt again.
            **generation: what `generate` takes.

        Returns:
            What `generate` returns: the prompts as they were given, and the new tokens.

        Raises:
            InvalidOptionError: the prompt is to be read in an order that needs `context_length`.
            UnsupportedModelError: the model writes no text.
        """
        self.check_writes()
        if input_ids is None:
            if self.prompt.passes > 1 or "inputs_embeds" not in generation:
                raise InvalidOptionError(
                    "generate got no input_ids.", "Pass token ids; embeddings cannot be read twice, only once."
                )
            with self.installed():
                return self.model.generate(attention_mask=attention_mask, **generation)
        mask = mask_of(self.model, input_ids, generation) if attention_mask is None else attention_mask
        if generation.get("max_length"):  # counted from the prompt as it was given
            generation["max_new_tokens"] = generation.pop("max_length") - input_ids.shape[1]
        if self.prompt.passes == 1 and self.prompt.order != "question_first":
            return self.generate_checked(input_ids, mask, **generation)
        ids, long_mask = lengthen(self.prompt, self.need_tokenizer(), input_ids, mask, context_length)
        output = self.generate_checked(ids, long_mask, **generation)
        sequences = output if isinstance(output, Tensor) else output.sequences
        copies = len(sequences) // len(input_ids)
        kept = input_ids.repeat_interleave(copies, dim=0).to(sequences.device)
        sequences = torch.cat([kept, sequences[:, ids.shape[1] :]], dim=1)
        if isinstance(output, Tensor):
            return sequences
        output.sequences = sequences
        return output

    def generate_checked(self, ids: Tensor, mask: Tensor, **generation: Any) -> Any:
        """The model's own `generate` where it is exact, ours on an empty state where it is not.

        Raises:
            ContextTooLongError: the prompt and its answer are longer than the model reads.
        """
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
    def from_pretrained(cls, folder: str | PathLike[str], model: Any = None, *, tokenizer: Any = None) -> Any:
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

    def need_tokenizer(self) -> Any:
        """The tokenizer, or an error that says how to give one."""
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
        if type(method).adapt is not Method.adapt and isinstance(model, AdaptedModel):
            raise MethodConflictError(
                f"{model.method} and {method} both keep a memory of past segments, and each decides what a segment is.",
                "Pass one of them; either goes together with JRTPrompt.",
            )
        model = method.adapt(model)
    return model
