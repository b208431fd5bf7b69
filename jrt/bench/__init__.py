"""Benchmarks as ratios against what a user would run otherwise; `jrt bench NAME` runs one.

A benchmark is a module with a function `run(...) -> jrt.bench.report.Report` and a line in `BENCHES`. The parameters of
`run` become the command's options (`Annotated[int, typer.Option(help=...)]` where one needs a word); `--json`, `--out`
and `--debug` are added by the command line.
"""

BENCHES = {
    "ask_many": "20 questions about one document: read once, or once for every question.",
    "flops": "Operations that segments with a memory save (RMT's FLOPs figure), and a small model measured.",
    "generate": "Reader.generate against model.generate on the same ids.",
    "infini": "Infini-attention at a million tokens against 16 thousand: memory and time of a token; long-run updates.",
    "kernels": "Every kernel against what stands in its place, checked and timed on a GPU or a CPU.",
    "memory": "What a model keeps of what it read: key-value cache against Infini-attention's state.",
    "rmt": "RMT around an encoder of MiniLM's shape: memory and time of a token at 4096 segments against 16.",
    "scan": "Prefill of a Mamba by every scan there is, against transformers' own and against none.",
    "synthetics": "Memory against accuracy and the order of the input, by small models trained from nothing.",
}
"""Every benchmark by name, with what it measures."""
