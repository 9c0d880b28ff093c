"""Both projects in turn on the same work: python bench/vs_nanochat.py PATH_TO_NANOCHAT [--what train] [...]

Text, tokenizer, caches and runs are made in a temporary folder. Each figure is the median of several repetitions, in
which the two take turns.
"""

import argparse
import importlib.util
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from corpus import build_corpus, build_tokenizer, training_overrides
from timing import ROOT, Child, Row, Worker, environment, in_turn, print_table, scratch

WHAT = ("train", "memory", "startup", "loader", "decode")
VOCAB_SIZE = 8192
DEPTH = 4


@dataclass(frozen=True)
class Shape:
    """A training setting of one micro-batch a step, and its goals."""

    name: str
    sequence_len: int
    rows: int
    window_pattern: str
    speed_goal: float
    memory_goal: float | None = None


SHAPES = (
    Shape("d4, T 512, 8 rows, full attention", 512, 8, "L", 1.15, 0.8),
    Shape("d4, T 2048, 2 rows, SSSL", 2048, 2, "SSSL", 1.5),
)


class Bench:
    """The settings, the folder with text and tokenizer, and both projects' environments."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        self.options, self.folder = options, folder
        self.nanochat = options.nanochat.resolve()
        stubs = folder / "stubs"
        stubs.mkdir()
        if importlib.util.find_spec("wandb") is None:  # its script imports it, though it isn't used here
            (stubs / "wandb.py").touch()
        self.env = environment(folder, options.threads)
        self.nanochat_env = environment(
            folder,
            options.threads,
            self.nanochat,
            stubs,
            NANOCHAT_BASE_DIR=str(folder / "nanochat"),
            NANOCHAT_DTYPE="float32",
            PYTHONDONTWRITEBYTECODE="1",
        )
        self.train, self.val = build_corpus(folder, options.documents, options.document_chars)
        self.overrides = training_overrides(self.train, self.val, VOCAB_SIZE)
        self.tokenizer = folder / "tokenizer"
        os.environ.update({key: self.env[key] for key in ("NANOCHAT_PL_RUNS", "NANOCHAT_PL_CACHE")})
        build_tokenizer(self.overrides, self.tokenizer)
        converting = Child(
            [str(ROOT / "bench/nanochat_side.py"), "tokenizer", str(self.tokenizer)], self.nanochat_env, self.log()
        )
        converting.peak_bytes()
        self.runs = 0

    def log(self) -> Path:
        """A new file for a child's output."""
        return self.folder / f"{len(list(self.folder.glob('*.log')))}.log"

    def our_training(self, shape: Shape, steps: int, *more: str) -> list[str]:
        """Arguments of the interpreter for our train.py, in a new run folder."""
        self.runs += 1
        tokens = shape.rows * shape.sequence_len
        return [
            "train.py",
            *self.overrides,
            f"run.name=bench{self.runs}",
            f"model.depth={DEPTH}",
            "model.n_embd=null",
            "model.head_dim=128",
            f"model.sequence_len={shape.sequence_len}",
            f"model.window_pattern={shape.window_pattern}",
            f"horizon.steps={steps}",
            f"horizon.total_batch_tokens={tokens}",
            f"trainer.validate_every_n_steps={steps}",
            "callbacks.checkpoints.every_n_minutes=null",
            *more,
        ]

    def their_training(self, shape: Shape, steps: int) -> list[str]:
        """The same for nanochat's script, its evaluations switched off."""
        tokens = shape.rows * shape.sequence_len
        values = {
            "depth": DEPTH,
            "max-seq-len": shape.sequence_len,
            "window-pattern": shape.window_pattern,
            "device-batch-size": shape.rows,
            "total-batch-size": tokens,
            "num-iterations": steps,
            "device-type": "cpu",
        }
        off = [f"--{name}=-1" for name in ("eval-every", "core-metric-every", "sample-every", "save-every")]
        return ["-m", "scripts.base_train", *(f"--{name}={value}" for name, value in values.items()), *off]

    def worker(self, side: str, *arguments: object) -> Worker:
        """A ready worker of bench/`side`.py."""
        env = self.env if side == "our_side" else self.nanochat_env
        worker = Worker([str(ROOT / f"bench/{side}.py"), *map(str, arguments)], env, self.log())
        worker.answer()
        return worker

    def compare(self, theirs: Worker, ours: Worker, amount: int) -> dict[str, float]:
        """Median seconds of both sides for the same amount of work, in turn."""
        measures = {"theirs": lambda: theirs.ask(amount), "ours": lambda: ours.ask(amount)}
        return in_turn(self.options.repetitions, measures)

    def pace(self, shape: Shape) -> Worker:
        """Our train.py, stopped after its first step."""
        arguments = self.our_training(shape, 1_000_000, "+callbacks.pace._target_=hooks.Pace")
        return Worker(arguments, self.env, self.log())


def train(bench: Bench) -> Iterator[Row]:
    """Steady state: our train.py under the Trainer with its callbacks, nanochat's loop."""
    steps = bench.options.steps
    for shape in SHAPES:
        with ExitStack() as stack:
            ours = stack.enter_context(closing(bench.pace(shape)))
            ours.answer()
            setting = (DEPTH, shape.rows, shape.sequence_len, shape.window_pattern)
            theirs = stack.enter_context(closing(bench.worker("nanochat_side", "train", *setting)))
            ours.ask(2), theirs.ask(2)
            seconds = bench.compare(theirs, ours, steps)
        tokens = steps * shape.rows * shape.sequence_len
        rates = {side: tokens / value for side, value in seconds.items()}
        yield Row(f"train {shape.name}", "tok/s", rates["theirs"], rates["ours"], goal=shape.speed_goal)


def memory(bench: Bench) -> Iterator[Row]:
    """Peak resident memory of whole runs of a few steps."""
    for shape in SHAPES:
        theirs = Child(bench.their_training(shape, 5), bench.nanochat_env, bench.log(), bench.nanochat).peak_bytes()
        ours = Child(bench.our_training(shape, 5), bench.env, bench.log()).peak_bytes()
        row = (theirs / 1e9, ours / 1e9)
        yield Row(f"peak memory {shape.name}", "GB", *row, more_is_better=False, goal=shape.memory_goal)


def startup(bench: Bench) -> Iterator[Row]:
    """Start of the process to the end of the first step, tokenizer there already."""
    shape = SHAPES[0]
    for state in ("empty compile cache", "warm"):
        cache = {"TORCHINDUCTOR_CACHE_DIR": str(bench.folder / "startup_inductor")}
        with closing(
            Child(bench.their_training(shape, 20), bench.nanochat_env | cache, bench.log(), bench.nanochat)
        ) as child:
            theirs = child.seconds_to_line("step 00000/")
        with closing(bench.pace(shape)) as worker:
            worker.answer()
            ours = worker.age()
        yield Row(f"first step done, {state}", "s", theirs, ours, more_is_better=False, limit=10)


def loader(bench: Bench) -> Iterator[Row]:
    """Tokenize and pack from a standing start, two tokenizer threads."""
    for rows, sequence_len in ((8, 512), (32, 2048)):
        batches = max(2, bench.options.loader_tokens // (rows * sequence_len))
        ours_setting = ("loader", bench.tokenizer, bench.train, bench.val, rows, sequence_len)
        with (
            closing(bench.worker("nanochat_side", "loader", rows, sequence_len)) as theirs,
            closing(bench.worker("our_side", *ours_setting)) as ours,
        ):
            seconds = bench.compare(theirs, ours, batches)
        rates = {side: batches * rows * sequence_len / value for side, value in seconds.items()}
        yield Row(f"loader {rows} x {sequence_len}", "tok/s", rates["theirs"], rates["ours"], goal=2.5)


def decode(bench: Bench) -> Iterator[Row]:
    """Prompts of 80 tokens, 48 new ones each, prefill included; ours continues different prompts."""
    goals = {(4, 1): 2.5, (12, 1): 1.3, (4, 32): 1.5, (12, 32): 1.5}
    for (depth, rows), goal in goals.items():
        setting = ("decode", depth, rows, 80, VOCAB_SIZE)
        with (
            closing(bench.worker("nanochat_side", *setting)) as theirs,
            closing(bench.worker("our_side", *setting)) as ours,
        ):
            theirs.ask(4), ours.ask(4)
            seconds = bench.compare(theirs, ours, 48)
        rates = {side: rows / value for side, value in seconds.items()}
        yield Row(f"decode d{depth}, {rows} rows", "tok/s", rates["theirs"], rates["ours"], goal=goal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nanochat", type=Path, help="a checkout of karpathy/nanochat")
    parser.add_argument("--what", choices=WHAT, action="append", help="what to compare; may be repeated; default: all")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of one repetition of train")
    parser.add_argument("--loader-tokens", type=int, default=4_000_000, help="of one repetition of loader")
    parser.add_argument("--threads", type=int, help="torch threads; default: torch's choice")
    parser.add_argument("--documents", type=int, default=6000, help="of the training text")
    parser.add_argument("--document-chars", type=int, default=2500, help="mean length of a document")
    options = parser.parse_args()
    if not (options.nanochat / "nanochat" / "gpt.py").exists():
        parser.error(f"{options.nanochat} is no checkout of nanochat: it has no nanochat/gpt.py")
    kinds = {"train": train, "memory": memory, "startup": startup, "loader": loader, "decode": decode}
    rows: list[Row] = []
    with scratch() as folder:
        bench = Bench(options, folder)
        for what in options.what or WHAT:
            for row in kinds[what](bench):
                print("  ".join(row.cells()), flush=True)
                rows.append(row)
    print_table("nanochat-pl against nanochat", "nanochat", rows)


if __name__ == "__main__":
    main()
