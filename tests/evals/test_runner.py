"""What an evaluation compares, records and refuses, with a reader that needs no model."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeReader, likes_rows, write_rows

from jrt.errors import ContextTooLongError, InvalidOptionError, TokenizerError, UnknownNameError
from jrt.evals import EvalResult, Progress, evaluate, load_result, parse_task
from jrt.evals.samples import SampleLog
from jrt.evals.statistics import difference_interval, wilson
from jrt.methods import Method, parse_method
from jrt.prompts import JRTPrompt


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_rows(tmp_path / "squad.jsonl", likes_rows(40))
    write_rows(tmp_path / "nq_open.jsonl.gz", likes_rows(25))
    return tmp_path


def run(folder: Path, **options: Any) -> EvalResult:
    options = {"reader": FakeReader(), "tasks": ["squad"], "methods": ["once", "twice"], "data": folder} | options
    return evaluate(options.pop("reader"), options.pop("tasks"), options.pop("methods"), **options)


def samples_of(folder: Path) -> list[Any]:
    with SampleLog(folder / "samples.jsonl") as log:
        return list(log.samples.values())


def test_scores_and_comparison_follow_from_the_samples(data: Path) -> None:
    result = run(data, tasks=["squad", "nq"], methods=["once", "context_twice", "twice"], out=data / "out")
    samples = samples_of(data / "out")
    assert len(samples) == 3 * (40 + 25)
    for task, count in (("squad", 40), ("nq", 25)):
        by_method = {
            method: [sample.contains for sample in samples if (sample.task, sample.method) == (task, method)]
            for method in ("once", "context_twice", "twice")
        }
        for method, scores in by_method.items():
            score = result.score(task, method)
            assert score.items == count == len(scores)
            assert (score.contains.value, score.contains.low, score.contains.high) == wilson(int(sum(scores)), count)
            assert score.exact_match.value == 0 and score.f1.value == pytest.approx(score.contains.value / 2)
        assert 0 < sum(by_method["once"]) < count == sum(by_method["twice"])
        (found,) = [c for c in result.comparisons if (c.task, c.method) == (task, "twice")]
        expected = difference_interval(by_method["once"], by_method["twice"], seed=0)
        assert (found.difference.value, found.difference.low, found.difference.high) == expected
        assert (found.wins, found.losses, found.baseline) == (count - sum(by_method["once"]), 0, "once")
    average = next(c for c in result.comparisons if c.task == "average" and c.method == "twice")
    singles = [c.difference.value for c in result.comparisons if c.task != "average" and c.method == "twice"]
    assert average.difference.value == pytest.approx(sum(singles) / 2)
    with pytest.raises(KeyError):
        result.score("fda", "once")


def test_samples_hold_the_prompt_the_output_and_its_cost(data: Path) -> None:
    run(data, out=data / "out", limit=1)
    once, twice = samples_of(data / "out")
    (item,) = parse_task("squad").items(path=data / "squad.jsonl", limit=1)
    text = parse_task("squad").plan(item, JRTPrompt(passes=2)).text
    assert twice.prompt_sha256 == hashlib.sha256(text.encode()).hexdigest() != once.prompt_sha256
    assert twice.prompt_tokens == len(FakeReader().tokenizer(text)["input_ids"]) > once.prompt_tokens
    assert twice.output == f" It is {item.answers[0]}\nand more" and twice.answers == list(item.answers)
    assert (twice.contains, twice.exact_match, twice.f1) == (1, 0, 0.5)
    assert twice.seconds == 0.5


def test_a_leading_newline_is_an_empty_answer(data: Path) -> None:
    reader = FakeReader(
        lambda plan, method: ("" if method.passes > 1 else "\n") + "thing" + plan.text.split("thing")[1]
    )
    result = run(data, reader=reader)
    assert result.score("squad", "once").contains.value == 0
    assert result.score("squad", "twice").contains.value == 1


def test_every_method_reads_the_same_sample(data: Path) -> None:
    run(data, out=data / "out", limit=10, seed=7)
    samples = samples_of(data / "out")
    once, twice = ([s.id for s in samples if s.method == method] for method in ("once", "twice"))
    assert once == twice == [item.id for item in parse_task("squad").items(limit=10, seed=7, path=data / "squad.jsonl")]


def test_a_result_says_how_it_was_made(data: Path) -> None:
    result = run(data, out=data / "out", limit=10, seed=7, command="jrt eval --what-was-typed")
    assert result.command == "jrt eval --what-was-typed"
    assert (result.settings.seed, result.settings.limit) == (7, 10)
    assert set(result.settings.versions) == {"jrt", "torch", "transformers", "numpy"}
    (task,) = result.settings.tasks
    assert (task.name, task.version, task.source, task.items) == ("squad", 1, "squad.jsonl", 10)
    once, twice = result.settings.methods
    assert parse_method(twice.shorthand) == Method.from_dict(twice.options) == JRTPrompt(passes=2)
    assert (once.label, once.shorthand) == ("once", "jrt_prompt:passes=1")
    assert load_result(data / "out") == result == load_result(data / "out" / "result.json")
    assert (data / "out" / "report.md").read_text().startswith("# fake: squad")


def test_methods_may_be_objects_and_names(data: Path) -> None:
    result = run(data, methods=[JRTPrompt(passes=1), "jrt_prompt:passes=3", JRTPrompt(passes=4)])
    labels = [method.label for method in result.settings.methods]
    assert labels == ["once", "jrt_prompt:passes=3", "jrt_prompt:passes=4"]


def test_names_may_be_one_text(data: Path) -> None:
    result = run(data, tasks="squad,nq", methods="once,jrt_prompt:passes=2,order=repeat,twice", limit=2)
    assert [task.name for task in result.settings.tasks] == ["squad", "nq"]
    labels = [method.label for method in result.settings.methods]
    assert labels == ["once", "jrt_prompt:passes=2,order=repeat", "twice"]


def test_a_reader_without_a_tokenizer_is_refused(data: Path) -> None:
    with pytest.raises(TokenizerError, match="fake has no tokenizer"):
        run(data, reader=FakeReader(tokenizer=None))


def test_the_length_hint_fits_the_task() -> None:
    reader = FakeReader(max_length=300)
    with pytest.raises(ContextTooLongError, match="for once") as caught:
        evaluate(reader, ["passkey"], ["once"], limit=3)
    assert "--context-length" not in caught.value.hint
    assert reader.batches == []


def test_the_readers_own_methods_stay_and_its_prompt_gives_way(data: Path) -> None:
    class Other(Method):
        kind = "other"

    seen = set()

    def answer(plan: Any, method: JRTPrompt) -> str:
        seen.add(plan.text.count("Person"))
        return "no"

    reader = FakeReader(answer, methods=(JRTPrompt(passes=3), Other()))
    result = run(data, reader=reader, methods=["once", "twice"], limit=3)
    assert result.settings.reader_methods == ["jrt_prompt:passes=3", "other"]
    assert seen == {2, 4}  # once and twice the context, besides the question; not three times


def test_options_change_the_prompt_length(data: Path) -> None:
    whole = run(data)
    short = run(data, context_length=60, window="strict")
    assert short.score("squad", "once").mean_prompt_tokens < whole.score("squad", "once").mean_prompt_tokens
    assert short.score("squad", "twice").contains.value == 1  # the answer stays inside
    assert (short.settings.context_length, short.settings.window) == (60, "strict")


def test_dropped_items_are_counted(data: Path) -> None:
    rows = likes_rows(10)
    rows[0]["answers"] = rows[5]["answers"] = ["x"]
    path = write_rows(data / "few.jsonl", rows)
    (task,) = run(data, data=path, context_length=100).settings.tasks
    assert (task.items, task.dropped) == (8, 2)
    with pytest.raises(InvalidOptionError, match="No item of squad is left"):
        run(data, data=write_rows(data / "one.jsonl", rows[:1]), context_length=100)


def test_progress_counts_up_to_the_end(data: Path) -> None:
    seen: list[Progress] = []
    run(data, tasks=["squad", "nq"], batch_size=4, progress=seen.append)
    assert seen[-1] == Progress("nq", "twice", 130, 130, 0)
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)
    assert {(progress.task, progress.method) for progress in seen} == {
        (task, method) for task in ("squad", "nq") for method in ("once", "twice")
    }


def test_batches_hold_prompts_of_similar_length(data: Path) -> None:
    reader = FakeReader()
    run(data, reader=reader, batch_size=16)
    assert reader.batches == [16, 16, 8] * 2


def test_a_prompt_that_is_too_long_is_refused_before_the_model_is_called(data: Path) -> None:
    rows = likes_rows(20)
    rows[3]["context"] += " Nothing." * 500
    rows[4]["context"] += " Nothing." * 340
    path = write_rows(data / "long.jsonl", rows)
    reader = FakeReader(max_length=700)
    with pytest.raises(ContextTooLongError) as caught:
        run(data, reader=reader, data=path, methods=["once"])
    message = str(caught.value)
    assert "2 of 20 items of squad are too long for once" in message and "'row-3'" in message
    assert "at most 700 tokens" in message and reader.batches == []
    suggestion = int(message.split("--context-length ")[1].rstrip("."))
    assert run(data, reader=reader, data=path, methods=["once"], context_length=suggestion).scores
    with pytest.raises(ContextTooLongError, match="too long for twice") as caught:  # the method that needs most
        run(data, reader=reader, data=path)
    suggestion = int(str(caught.value).split("--context-length ")[1].rstrip("."))
    assert run(data, reader=reader, data=path, context_length=suggestion).scores


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tasks": ["sqad"]}, UnknownNameError, "Did you mean 'squad'"),
        ({"tasks": []}, InvalidOptionError, "no task"),
        ({"methods": ["twise"]}, UnknownNameError, "Did you mean 'twice'"),
        ({"methods": []}, InvalidOptionError, "no method"),
        ({"methods": ["twice", JRTPrompt(passes=2)]}, InvalidOptionError, "twice and twice are the same"),
        ({"methods": ["jrt_prompt:passes=2", "twice"]}, InvalidOptionError, "jrt_prompt:passes=2 and twice are"),
        ({"limit": 0}, InvalidOptionError, "limit=0"),
        ({"batch_size": 0}, InvalidOptionError, "batch_size=0"),
        ({"max_new_tokens": 0}, InvalidOptionError, "max_new_tokens=0"),
        ({"context_length": 50}, InvalidOptionError, "leaves no room"),
        ({"window": "stric"}, InvalidOptionError, "no window rule 'stric'.*'strict'"),
        ({"window": "strict"}, InvalidOptionError, "cuts nothing without a context length"),
        ({"tasks": ["squad", "facts"], "context_length": 100}, InvalidOptionError, "facts are not cut"),
        ({"context_length": 100, "tasks": ["passkey"]}, InvalidOptionError, "passkey are not cut"),
    ],
)
def test_refusals(data: Path, options: dict[str, Any], error: type[Exception], message: str) -> None:
    reader = FakeReader()
    with pytest.raises(error, match=message):
        run(data, reader=reader, **options)
    assert reader.batches == []
