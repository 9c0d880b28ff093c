"""Both projects in turn on the same work: python bench/vs_nanochat.py PATH_TO_NANOCHAT [--what train] [...]

Text, tokenizer, caches and runs are made in a temporary folder. Each figure is the median of several repetitions, in
which the two take turns.
"""

from collections.abc import Iterator
from contextlib import ExitStack, closing

from beside import DEPTH, Bench, Shape, build_parser, run
from decode import decode
from timing import Child, Row

SHAPES = (
    Shape("d4, T 512, 8 rows, full attention", 512, 8, "L", 1.15, 0.8),
    Shape("d4, T 2048, 2 rows, SSSL", 2048, 2, "SSSL", 1.5),
)


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


WHAT = {"train": train, "memory": memory, "startup": startup, "loader": loader, "decode": decode}


def measure(bench: Bench) -> Iterator[Row]:
    for what in bench.options.what or WHAT:
        yield from WHAT[what](bench)


if __name__ == "__main__":
    parser = build_parser(__doc__)
    parser.add_argument("--what", choices=WHAT, action="append", help="what to compare; may be repeated; default: all")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of one repetition of train")
    parser.add_argument("--loader-tokens", type=int, default=4_000_000, help="of one repetition of loader")
    run(parser, measure)
