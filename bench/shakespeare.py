"""Seconds (wall, from the start of the process) to a validation loss on the characters of tinyshakespeare.

Ours is `experiment=shakespeare_sprint` for the time to the loss that nanoGPT's published CPU setting ends with, and
`experiment=shakespeare_char` for the loss in about the same wall time. Further arguments go to our train.py.
"""

import argparse
import re
import shutil
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from timing import Child, Row, Worker, environment, print_table, scratch

PUBLISHED = {
    "device": "cpu",
    "compile": "False",
    "eval_iters": 20,
    "log_interval": 1,
    "block_size": 64,
    "batch_size": 12,
    "n_layer": 4,
    "n_head": 4,
    "n_embd": 128,
    "max_iters": 2000,
    "lr_decay_iters": 2000,
    "dropout": 0.0,
}
TARGET_LOSS = 1.8857
"""What nanoGPT's published setting ends with."""


@dataclass(frozen=True)
class Curve:
    """(step, seconds since the process began, validation loss) of one run, and its wall time."""

    points: list[tuple[int, float, float]]
    wall_seconds: float

    def seconds_to(self, loss: float) -> float | None:
        """Until the loss was first seen at or below `loss`."""
        return next((seconds for _, seconds, value in self.points if value <= loss), None)

    def __str__(self) -> str:
        return "  ".join(f"{step}: {loss:.4f} ({seconds:.0f} s)" for step, seconds, loss in self.points)


def run_nanogpt(checkout: Path, text: Path, folder: Path, threads: int | None, iterations: int) -> Curve:
    """Its own prepare.py and train.py, in a copy."""
    copy = folder / "nanoGPT"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git", "*.ipynb", "assets"))
    shutil.copy(text, copy / "data" / "shakespeare_char" / "input.txt")
    env = environment(folder, threads)
    Child(["data/shakespeare_char/prepare.py"], env, folder / "prepare.log", copy).peak_bytes()
    values = PUBLISHED | {"max_iters": iterations, "lr_decay_iters": iterations}
    flags = [f"--{name}={value}" for name, value in values.items()]
    points: list[tuple[int, float, float]] = []
    child = Child(["train.py", "config/train_shakespeare_char.py", *flags], env, folder / "nanogpt.log", copy)
    with closing(child):
        for step in range(0, iterations + 1, 250):
            seconds = child.seconds_to_line(f"step {step}: ")
            found = re.search(rf"step {step}: train loss \S+ val loss (\S+)\n", child.log.read_text())
            while found is None:
                found = re.search(rf"step {step}: train loss \S+ val loss (\S+)\n", child.log.read_text())
            points.append((step, seconds, float(found[1])))
        child.process.wait()
        return Curve(points, child.age())


def run_ours(experiment: str, text: Path, folder: Path, threads: int | None, overrides: list[str]) -> Curve:
    arguments = [
        "train.py",
        f"experiment={experiment}",
        f"data.path={text}",
        f"run.name={experiment}",
        "callbacks.samples=null",
        "+callbacks.validations._target_=hooks.Validations",
        *overrides,
    ]
    points: list[tuple[int, float, float]] = []
    with closing(Worker(arguments, environment(folder, threads), folder / f"{experiment}.log")) as worker:
        while (validation := worker.answer()) is not None:
            step, loss = validation
            points.append((step, worker.age(), loss))
        worker.process.wait()
        return Curve(points, worker.age())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="arguments of our train.py")
    parser.add_argument("--text", type=Path, required=True, help="tinyshakespeare as a text file")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of karpathy/nanoGPT to run in turn")
    parser.add_argument("--target", type=float, default=TARGET_LOSS)
    parser.add_argument("--iterations", type=int, default=PUBLISHED["max_iters"], help="of nanoGPT")
    parser.add_argument("--threads", type=int, help="torch threads; default: torch's choice")
    options = parser.parse_args()
    text, rows = options.text.resolve(), list[Row]()
    with scratch() as folder:
        theirs = None
        if options.nanogpt:
            theirs = run_nanogpt(options.nanogpt, text, folder, options.threads, options.iterations)
            print(f"nanoGPT  {theirs}", flush=True)
        short = run_ours("shakespeare_sprint", text, folder, options.threads, options.overrides)
        print(f"ours     {short}", flush=True)
        reached, peer = short.seconds_to(options.target), theirs and theirs.seconds_to(options.target)
        if reached is None:
            print(f"Our run did not reach {options.target}.", file=sys.stderr)
        else:
            reference = peer or (theirs.wall_seconds if theirs else None)
            rows.append(Row(f"seconds to loss {options.target}", "s", reference, reached, False, goal=1 / 6))
        long = run_ours("shakespeare_char", text, folder, options.threads, options.overrides)
        print(f"ours     {long}", flush=True)
        loss = theirs.points[-1][2] if theirs else None
        times = f"{theirs.wall_seconds:.0f} s and {long.wall_seconds:.0f} s" if theirs else f"{long.wall_seconds:.0f} s"
        rows.append(Row(f"loss after {times}", "nats", loss, long.points[-1][2], False, limit=1.6))
    print_table("tinyshakespeare, characters", "nanoGPT", rows)


if __name__ == "__main__":
    main()
