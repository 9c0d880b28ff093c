"""Seconds (wall, from the start of the process) to a validation loss on the characters of tinyshakespeare.

Ours is `experiment=shakespeare_char`; nanoGPT runs the CPU setting that its README publishes. Then ours once more, with
as many steps as fit into nanoGPT's wall time. Further arguments go to our train.py.
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


def run_ours(text: Path, folder: Path, threads: int | None, overrides: list[str], log: str) -> Curve:
    arguments = [
        "train.py",
        "experiment=shakespeare_char",
        f"data.path={text}",
        f"run.name={log}",
        "callbacks.samples=null",
        "+callbacks.validations._target_=hooks.Validations",
        *overrides,
    ]
    points: list[tuple[int, float, float]] = []
    with closing(Worker(arguments, environment(folder, threads), folder / f"{log}.log")) as worker:
        while (validation := worker.answer()) is not None:
            step, loss = validation
            points.append((step, worker.age(), loss))
        worker.process.wait()
        return Curve(points, worker.age())


def steps_for(seconds: float, curve: Curve) -> int:
    """How many steps fit into `seconds`, going by an earlier run's speed and its time before the first step."""
    (first, began, _), (last, ended, _) = curve.points[0], curve.points[-1]
    if last == first:
        return last
    per_step = (ended - began) / (last - first)
    overhead = curve.wall_seconds - last * per_step
    return max(1, int((seconds - overhead) / per_step))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="arguments of our train.py")
    parser.add_argument("--text", type=Path, required=True, help="tinyshakespeare as a text file")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of karpathy/nanoGPT to run in turn")
    parser.add_argument("--target", type=float, default=TARGET_LOSS)
    parser.add_argument("--steps", type=int, help="of our run to the target; default: the experiment's")
    parser.add_argument("--validate-every", type=int, default=100, help="steps between validations of that run")
    parser.add_argument("--equal-seconds", type=float, help="of our long run; default: nanoGPT's wall time")
    parser.add_argument("--iterations", type=int, default=PUBLISHED["max_iters"], help="of nanoGPT")
    parser.add_argument("--threads", type=int, help="torch threads; default: torch's choice")
    options = parser.parse_args()
    text, rows = options.text.resolve(), list[Row]()
    with scratch() as folder:
        theirs = None
        if options.nanogpt:
            theirs = run_nanogpt(options.nanogpt, text, folder, options.threads, options.iterations)
            print(f"nanoGPT  {theirs}", flush=True)
        steps = [f"horizon.steps={options.steps}"] if options.steps else []
        cadence = f"trainer.validate_every_n_steps={options.validate_every}"
        short = run_ours(text, folder, options.threads, [*options.overrides, *steps, cadence], "short")
        print(f"ours     {short}", flush=True)
        reached, peer = short.seconds_to(options.target), theirs and theirs.seconds_to(options.target)
        if reached is None:
            print(f"Our run did not reach {options.target}.", file=sys.stderr)
        else:
            reference = peer or (theirs.wall_seconds if theirs else None)
            rows.append(Row(f"seconds to loss {options.target}", "s", reference, reached, False, goal=1 / 6))
        equal = options.equal_seconds or (theirs and theirs.wall_seconds)
        if equal:
            count = steps_for(equal, short)
            longer = [f"horizon.steps={count}", f"trainer.validate_every_n_steps={count}"]
            long = run_ours(text, folder, options.threads, [*options.overrides, *longer], "long")
            print(f"ours     {long}", flush=True)
            loss = theirs.points[-1][2] if theirs else None
            rows.append(
                Row(f"loss after {long.wall_seconds:.0f} s", "nats", loss, long.points[-1][2], False, limit=1.6)
            )
    print_table("tinyshakespeare, characters", "nanoGPT", rows)


if __name__ == "__main__":
    main()
