"""CORE beside nanochat's, on the same weights and tasks: python bench/core.py PATH_TO_NANOCHAT PATH_TO_EVAL_BUNDLE

A sequence is one option of one example, with its few-shot prompt. Both sides read the same examples with the same
tokenizer; where their accuracies differ, that is said.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from beside import VOCAB_SIZE, Bench, build_parser, run
from timing import ROOT, Child, Row, Worker

from nanochat_pl.evals.core_bundle import CoreTask, Example, load_core_tasks
from nanochat_pl.models.contract import build_model
from nanochat_pl.models.depth import NanoChatSpec
from nanochat_pl.tokenizers.bpe import train_bpe

GOAL = 3.0
SEQUENCE_LEN = 4096
"""Longer than any prompt, so that nothing depends on where a window ends."""


def core(bench: Bench) -> Iterator[Row]:
    """Each kind of task, then all tasks together."""
    folder, bundle = bench.folder / "core", bench.options.bundle.resolve()
    tasks = load_core_tasks(bundle)
    arguments = _prepare(bench, folder, bundle)
    workers = {
        side: Worker([str(ROOT / "bench/core_side.py"), side, *map(str, arguments)], env, bench.log())
        for side, env in (("theirs", bench.nanochat_env), ("ours", bench.env))
    }
    with closing(workers["theirs"]), closing(workers["ours"]):
        for worker in workers.values():
            worker.answer()
            worker.ask((tasks[0].label, tasks[0].num_fewshot + 1))
        seconds: dict[str, dict[str, float]] = {side: defaultdict(float) for side in workers}
        sequences: dict[str, int] = defaultdict(int)
        for task in tasks:
            times, accuracies = _both(workers, (task.label, bench.options.max_per_task), bench.options.repetitions)
            if accuracies["theirs"] != accuracies["ours"]:
                print(f"{task.label}: their accuracy is {accuracies['theirs']}, ours {accuracies['ours']}", flush=True)
            count = sum(_options(task, example) for example in task.examples(bench.options.max_per_task))
            for kind in (task.kind, "all tasks"):
                sequences[kind] += count
                for side, value in times.items():
                    seconds[side][kind] += value
    for kind, count in sequences.items():
        goal = GOAL if kind == "all tasks" else None
        yield Row(f"CORE {kind}", "seq/s", count / seconds["theirs"][kind], count / seconds["ours"][kind], goal=goal)


def _prepare(bench: Bench, folder: Path, bundle: Path) -> tuple[Path, Path, Path]:
    """Weights none of which is zero, and a tokenizer of the tasks' own texts, for both sides."""
    folder.mkdir()
    texts = [path.read_text(encoding="utf-8") for path in sorted(bundle.rglob("*.jsonl"))]
    tokenizer = train_bpe(texts, VOCAB_SIZE, max_chars=20_000_000)
    tokenizer.save(folder / "tokenizer")
    converting = [str(ROOT / "bench/nanochat_side.py"), "tokenizer", str(folder / "tokenizer")]
    Child(converting, bench.nanochat_env, bench.log()).peak_bytes()
    spec = NanoChatSpec(depth=bench.options.depth, sequence_len=SEQUENCE_LEN, window_pattern="SSSL")
    config = spec.config(tokenizer.vocab_size)
    model = build_model(config, "cpu", 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(parameter.size(-1) ** -0.5 * torch.randn(parameter.shape, generator=generator))
    torch.save({"config": config.as_dict(), "weights": model.state_dict()}, folder / "weights.pt")
    return folder / "weights.pt", folder / "tokenizer", bundle


def _both(
    workers: dict[str, Worker], question: tuple[str, int], repetitions: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds and the accuracy of each side, in turn."""
    answers: dict[str, list[Any]] = {side: [] for side in workers}
    for _ in range(repetitions):
        for side, worker in workers.items():
            answers[side].append(worker.ask(question))
    seconds = {side: statistics.median(value for value, _ in found) for side, found in answers.items()}
    return seconds, {side: round(found[0][1], 6) for side, found in answers.items()}


def _options(task: CoreTask, example: Example) -> int:
    field = {"multiple_choice": "choices", "schema": "context_options"}.get(task.kind)
    return len(example[field]) if field else 1


if __name__ == "__main__":
    parser = build_parser(__doc__, repetitions=3)
    parser.add_argument("bundle", type=Path, help="the folder of CORE's tasks")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--max-per-task", type=int, default=16, help="examples of each task")
    run(parser, core)
