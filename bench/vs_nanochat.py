"""Both projects in turn on the same work: python bench/vs_nanochat.py PATH_TO_NANOCHAT [--what train] [...]

Text, tokenizer, caches and runs are made in a temporary folder. Each figure is the median of several repetitions, in
which the two take turns. With --device cuda both hold their weights on one GPU at the same time, and the rest in turn;
what has to fit beside the resting side's weights and optimizer is a micro-batch of --rows.
"""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing

from beside import Bench, Shape, build_parser, run
from decode import decode
from timing import Child, Row

SHAPES = (
    Shape("d4, T 512, 8 rows, full attention", 512, 8, "L", 1.15, 0.8),
    Shape("d4, T 2048, 2 rows, SSSL", 2048, 2, "SSSL", 1.5),
)
GPU_ROWS_PER_STEP = 256  # 2^19 tokens, to which nanochat's rates refer


def shapes(bench: Bench) -> list[Shape]:
    """On a GPU each depth with the windows that nanochat advises without FlashAttention 3, and with its own."""
    if not bench.on_gpu:
        return list(SHAPES)
    rows = bench.options.rows
    settings = [("L", False, 1.15), ("SSSL", False, 1.15)]
    if bench.nanochat_has_flash3():
        settings.append(("SSSL", True, 1.0))
    else:
        print("nanochat finds no FlashAttention 3 here: no rows with it", flush=True)
    return [
        Shape(
            f"d{depth}, T 2048, {rows} rows, {pattern}, {'FA3' if flash3 else 'no FA3'}",
            2048, rows, pattern, goal,
            depth=depth, accumulation=GPU_ROWS_PER_STEP // rows, flash3=flash3,
        )
        for depth in bench.options.depth or (12, 20)
        for pattern, flash3, goal in settings
    ]  # fmt: skip


def train(bench: Bench) -> Iterator[Row]:
    """Steady state: our train.py under the Trainer with its callbacks, nanochat's loop."""
    steps = bench.options.steps
    for shape in shapes(bench):
        with ExitStack() as stack:
            ours = stack.enter_context(closing(bench.pace(shape)))
            ours.answer()
            setting = (shape.depth, shape.rows, shape.sequence_len, shape.window_pattern, shape.accumulation)
            work = ("nanochat_side", "train", *setting, bench.options.device)
            theirs = stack.enter_context(closing(bench.worker(*work, shape=shape)))
            ours.ask(2), theirs.ask(2)
            seconds = bench.compare(theirs, ours, steps)
        rates = {side: steps * shape.tokens / value for side, value in seconds.items()}
        name = f"train {shape.name}"
        if bench.on_gpu:
            name += f", ours by {json.loads(bench.our_run().resolved.read_text())['hardware']['attention']}"
        yield Row(name, "tok/s", rates["theirs"], rates["ours"], goal=shape.speed_goal)


def memory(bench: Bench) -> Iterator[Row]:
    """Peak memory of whole runs of a few steps: of the GPU, else resident."""
    for shape in shapes(bench):
        nanochat_env, env = bench.for_shape(bench.nanochat_env, shape), bench.for_shape(bench.env, shape)
        theirs = Child(bench.their_training(shape, 5), nanochat_env, bench.log(), bench.nanochat)
        peaks: list[float] = [theirs.peak_bytes()]
        peaks.append(Child(bench.our_training(shape, 5), env, bench.log()).peak_bytes())
        if bench.on_gpu:
            told = re.search(r"Peak memory usage: ([\d.]+)MiB", theirs.log.read_text(errors="replace"))
            assert told, "nanochat's script no longer tells its peak memory"
            peaks = [float(told[1]) * 2**20, bench.our_run().read_summary()["peak_memory_bytes"]]
        row = [peak / 1e9 for peak in peaks]
        yield Row(f"peak memory {shape.name}", "GB", *row, more_is_better=False, goal=shape.memory_goal)


def startup(bench: Bench) -> Iterator[Row]:
    """Start of the process to the end of the first step, tokenizer there already."""
    shape = shapes(bench)[0]
    caches = {side: str(bench.folder / f"startup_inductor_{side}") for side in ("theirs", "ours")}
    nanochat_env = bench.for_shape(bench.nanochat_env, shape) | {"TORCHINDUCTOR_CACHE_DIR": caches["theirs"]}
    for state in ("empty compile cache", "warm"):
        with closing(Child(bench.their_training(shape, 20), nanochat_env, bench.log(), bench.nanochat)) as child:
            theirs = child.seconds_to_line("step 00000/")
        with closing(bench.pace(shape, TORCHINDUCTOR_CACHE_DIR=caches["ours"])) as worker:
            worker.answer()
            ours = worker.age()
        limit = None if bench.on_gpu else 10
        yield Row(f"first step done, {state}", "s", theirs, ours, more_is_better=False, limit=limit)


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
GPU_WHAT = ("train", "memory", "startup")


def measure(bench: Bench) -> Iterator[Row]:
    possible = GPU_WHAT if bench.on_gpu else tuple(WHAT)
    for what in bench.options.what or possible:
        if what not in possible:
            sys.exit(f"--what {what} is measured on the CPU; with --device cuda: {', '.join(possible)}")
        yield from WHAT[what](bench)


if __name__ == "__main__":
    parser = build_parser(__doc__)
    parser.add_argument("--what", choices=WHAT, action="append", help="what to compare; may be repeated; default: all")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of one repetition of train")
    parser.add_argument("--loader-tokens", type=int, default=4_000_000, help="of one repetition of loader")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: d12 and d20 in bfloat16")
    parser.add_argument("--depth", type=int, action="append", help="on a GPU; may be repeated; default: 12 and 20")
    parser.add_argument("--rows", type=int, default=32, help="of a micro-batch on a GPU, for both")
    run(parser, measure)
