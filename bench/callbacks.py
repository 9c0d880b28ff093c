"""What the default callbacks cost: seconds of a step with and without them, in turn, in one process.

Runs train.py (four layers by default) and takes all callbacks but the safety checks and the log of the metrics out of
the Trainer for every other turn. What happens at a validation is not measured.
"""

import argparse
import statistics
from contextlib import closing

from timing import Worker, environment, scratch

GOAL_SHARE = 0.02


def measure(options: argparse.Namespace, beside: list[str]) -> tuple[float, float]:
    """Milliseconds of a step without them, and what they add: medians over the turns."""
    arguments = [
        "train.py",
        f"model.depth={options.depth}",
        "run.name=callbacks",
        "horizon.steps=1000000",
        "trainer.validate_every_n_steps=1000000",
        "callbacks.checkpoints.every_n_minutes=null",
        "+callbacks.turns._target_=hooks.Turns",
        f"+callbacks.turns.steps={options.steps}",
        f"+callbacks.turns.repetitions={options.repetitions}",
        *beside,
        *options.overrides,
    ]
    turns: list[tuple[float, float]] = []
    with (
        scratch() as folder,
        closing(Worker(arguments, environment(folder, options.threads), folder / "log")) as worker,
    ):
        while (turn := worker.answer()) is not None:
            turns.append(turn)
    bare = statistics.median(without for _, without in turns) / options.steps
    added = statistics.median(full - without for full, without in turns) / options.steps
    return 1000 * bare, 1000 * added


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="more of train.py's arguments")
    parser.add_argument("--depth", type=int, default=4, help="layers of the model")
    parser.add_argument("--steps", type=int, default=20, help="of one turn; a multiple of the log interval")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--threads", type=int, help="torch threads; default: torch's choice")
    parser.add_argument("--beside", action="append", default=[], help="measured too, such as logger=wandb")
    options = parser.parse_args()
    for name, beside in [("default callbacks", []), *((f"with {more}", [more]) for more in options.beside)]:
        bare, added = measure(options, beside)
        print(
            f"{name}: {bare:.2f} ms a step without, {added:+.3f} ms with them, {added / bare:+.2%} "
            f"(goal {GOAL_SHARE:.0%})",
            flush=True,
        )


if __name__ == "__main__":
    main()
