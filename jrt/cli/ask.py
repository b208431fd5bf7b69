"""`jrt ask`: one question about a document, or about a reading that was saved."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jrt.cli import options
from jrt.cli.inputs import read_text
from jrt.cli.output import note, print_json, print_table
from jrt.cli.readers import method_name, open_reader, open_reading, parse_methods
from jrt.errors import EmptyInputError, InvalidOptionError

if TYPE_CHECKING:
    from jrt.answers import Answer
    from jrt.reader import Reader

EXAMPLES = options.examples(
    'jrt ask "Where does Mira live?" --context notes.txt',
    'curl -s https://example.org/page.txt | jrt ask "Who signed?" --context - --method once',
    'jrt ask "Who signed?" --context contract.txt --model state-spaces/mamba-370m-hf --explain',
    'jrt ask "Who signed?" --reading contract-reading/ --json',
)


def ask(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What is asked.", show_default=False)],
    context: Annotated[
        str | None, typer.Option("--context", "-c", help="The document: a text file, or - for stdin.", metavar="FILE|-")
    ] = None,
    reading: Annotated[
        Path | None, typer.Option("--reading", "-r", help="A folder that [bold]jrt read[/bold] wrote.", metavar="DIR")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="An embedded model, a local folder, a .gguf file, or a Hugging Face Hub id. "
            f"\\[default: {options.DEFAULT_MODEL}, or the reading's own]",
        ),
    ] = None,
    method: options.Methods = None,
    system: options.System = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="The longest answer, in tokens.")] = 64,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print the exact prompt and its token counts; the model does not run.")
    ] = False,
    chat: options.Chat = None,
    device: options.Device = "auto",
    dtype: options.DataType = "auto",
    revision: options.Revision = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Answer a question about a document."""
    if not question.strip():
        raise EmptyInputError("The question is empty.", 'jrt ask "Where does Mira live?" --context FILE')
    if (context is None) == (reading is None):
        raise InvalidOptionError(
            "A question needs one document: --context FILE or --reading DIR"
            + (", not both." if context else ", and neither was given."),
            f'jrt ask "{question}" --context FILE  (or - for stdin)',
        )
    if reading is not None:
        _refuse_with_reading(explain=explain, system=system, chat=chat)
        methods = parse_methods(method) if method else None
        kept = open_reading(
            reading,
            model=model,
            methods=methods,
            device=device,
            dtype=None if dtype == "auto" else dtype,
            revision=revision,
        )
        answer = kept.answer_many([question], max_new_tokens=max_new_tokens, **_streaming(kept.reader, json))[0]
        _print_answer(answer, kept.reader, json, {"reading": str(reading)})
        return
    methods = parse_methods(method)
    document = read_text(str(context))
    reader = open_reader(
        model or options.DEFAULT_MODEL, methods, device=device, dtype=dtype, revision=revision, chat=chat
    )
    if explain:
        _print_explanation(reader, document, question, system, max_new_tokens, json)
        return
    answer = reader.answer(document, question, system=system, max_new_tokens=max_new_tokens, **_streaming(reader, json))
    _print_answer(answer, reader, json, {"context": context})


def _refuse_with_reading(*, explain: bool, system: str | None, chat: bool | None) -> None:
    """What is settled when a document is read cannot be changed when it is asked."""
    given = [("--explain", explain), ("--system", system is not None), ("--chat", chat is not None)]
    for name, is_given in given:
        if is_given:
            raise InvalidOptionError(
                f"{name} does not go with --reading: the document has been read already.",
                f"Use {name} with --context, or with jrt read." if name != "--explain" else "Use it with --context.",
            )


def _streaming(reader: Reader, json: bool) -> dict[str, Any]:
    """Options that print the answer word by word while it is made, for a person at a terminal."""
    if json or not sys.stdout.isatty():
        return {}
    from jrt.cli.streaming import AnswerStreamer

    return {"streamer": AnswerStreamer(reader.tokenizer, reader.stop)}


def _print_answer(answer: Answer, reader: Reader, json: bool, source: dict[str, Any]) -> None:
    if json:
        print_json(
            {
                "answer": answer.text,
                "prompt_tokens": answer.prompt_tokens,
                "new_tokens": answer.new_tokens,
                "seconds": round(answer.seconds, 4),
                "model": reader.name,
                "revision": reader.revision,
                "methods": [method_name(method) for method in reader.methods],
                **source,
            }
        )
    elif not sys.stdout.isatty():  # at a terminal it has been printed while it was made
        sys.stdout.write(answer.text + "\n")
    note(f"{answer.prompt_tokens} tokens read, {answer.new_tokens} written in {answer.seconds:.2f} s")


def _print_explanation(
    reader: Reader, document: str, question: str, system: str | None, max_new_tokens: int, json: bool
) -> None:
    explanation = reader.explain(document, question, system=system, max_new_tokens=max_new_tokens)
    if json:
        print_json(explanation.to_dict())
        return
    sys.stdout.write(explanation.prompt + "\n\n")
    rows: list[tuple[object, ...]] = [(part.role, part.tokens) for part in explanation.parts]
    rows += [("prompt", explanation.prompt_tokens), ("longest answer", explanation.max_new_tokens)]
    limit = f"at most {explanation.max_length} tokens" if explanation.max_length is not None else "any length"
    fits = "fits" if explanation.fits else "does NOT fit"
    print_table(
        f"{explanation.model}, {method_name(explanation.method)}", ["part", "tokens"], rows, f"reads {limit}: it {fits}"
    )
