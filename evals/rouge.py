"""ROUGE: how much of a summary's words, pairs of words and order is that of a summary written by a person.

ROUGE-1, -2 and -L (Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries") as F1 between words in lower
case; no stemming, no words left out, and ROUGE-L over the whole summary at once (not sentence by sentence). On English
text these are the numbers of the package `rouge-score` with `use_stemmer=False`; letters beyond a-z count here as well.
`overall` is the geometric mean of the three, as in Infini-attention's table of book summaries (arXiv 2404.07143).

    jrt eval --tasks summarisation --data summarisation=books.jsonl --max-new-tokens 400 --out results/books
    python -m jrt.evals.rouge results/books
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jrt.evals.metrics import first_line
from jrt.evals.run_folder import SAMPLES, write
from jrt.evals.schema import Sample, load_result
from jrt.evals.statistics import mean_interval

NAMES = ("rouge_1", "rouge_2", "rouge_l", "overall")
FILE = "rouge.json"
_WORD = re.compile(r"[^\W_]+")


def rouge(output: str, answers: Sequence[str]) -> dict[str, float]:
    """The scores of one summary, 0 to 1; of several right summaries, the best for each score.

    Args:
        output: the summary, all of its lines.
        answers: the right summaries.

    Example:
        >>> {name: round(value, 2) for name, value in rouge("the cat sat", ["the cat ran"]).items()}
        {'rouge_1': 0.67, 'rouge_2': 0.5, 'rouge_l': 0.67, 'overall': 0.61}
    """
    said = words(output)
    best = dict.fromkeys(NAMES, 0.0)
    for right in map(words, answers):
        one, two, longest = _shared(said, right, 1), _shared(said, right, 2), _f1(common(said, right), said, right)
        scores = (one, two, longest, (one * two * longest) ** (1 / 3))
        best = {name: max(best[name], score) for name, score in zip(NAMES, scores, strict=True)}
    return best


def words(text: str) -> list[str]:
    """Runs of letters and digits, in lower case."""
    return _WORD.findall(text.lower())


def common(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest common subsequence, a whole row of its table at a time.

    The row is one integer whose zeros are the places of `first` where the length grows by one (Hyyro 2004).
    """
    places: dict[str, int] = {}
    for index, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << index
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & full
    return len(first) - row.bit_count()


def _shared(said: Sequence[str], right: Sequence[str], size: int) -> float:
    """F1 of runs of `size` words, each counted as often as it appears in both."""
    runs = [list(zip(*(text[start:] for start in range(size)), strict=False)) for text in (said, right)]
    return _f1((Counter(runs[0]) & Counter(runs[1])).total(), *runs)


def _f1(shared: int, said: Sequence[Any], right: Sequence[Any]) -> float:
    """F1 of `shared` pieces; 0 where either side has none."""
    return 2 * shared / (len(said) + len(right)) if said and right else 0.0


def summary_scores(samples: Sequence[Sample], seed: int = 0) -> dict[str, Any]:
    """Means over answered items in percent, with bootstrap intervals; `overall` is the geometric mean of the means.

    An answer counts up to its first newline, as everywhere in `jrt eval`.
    """
    scores = [rouge(first_line(sample.output), sample.answers) for sample in samples]
    found: dict[str, Any] = {"items": len(samples)}
    product = 1.0
    for name in NAMES[:3]:
        estimate = mean_interval([score[name] for score in scores], seed)
        product *= estimate.value
        found[name] = {key: round(100 * value, 2) for key, value in estimate._asdict().items()}
    return found | {"overall": round(100 * product ** (1 / 3), 2)}


def score_run(folder: Path) -> dict[str, Any]:
    """The scores of every task and method of a finished run, with the run's own command and settings.

    Raises:
        InputNotFoundError: the folder holds no finished run.
    """
    result = load_result(folder)
    lines = (folder / SAMPLES).read_text(encoding="utf-8").splitlines()
    samples = [Sample.model_validate_json(line) for line in lines if line.strip()]
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.task, sample.method), []).append(sample)
    scores = [
        {"task": task, "method": method, **summary_scores(group, result.settings.seed)}
        for (task, method), group in groups.items()
    ]
    return {"command": result.command, "settings": result.settings.model_dump(mode="json"), "scores": scores}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what jrt eval --out wrote")
    folder = parser.parse_args().folder
    report = score_run(folder)
    write(folder / FILE, json.dumps(report, indent=1) + "\n")
    for score in report["scores"]:
        values = "  ".join(f"{name} {score[name]['value']:.2f}" for name in NAMES[:3])
        print(f"{score['task']}  {score['method']}  {score['items']} items  {values}  overall {score['overall']:.2f}")


if __name__ == "__main__":
    main()
