"""Lightning's share: milliseconds a micro-batch under our Trainer and in a bare loop, in turn, in one process.

Runs train.py with its default callbacks; the bare loop has the same model, optimizer, schedule and loader. Neither
validates meanwhile. Measures the default recipe, and shakespeare_char where --text is given.
"""

import argparse
import statistics
from contextlib import closing
from pathlib import Path

from timing import Worker, environment, scratch

GOAL_MILLISECONDS = 1.5
GOAL_SHARE = 0.05


def measure(overrides: list[str], options: argparse.Namespace) -> tuple[float, float]:
    """Milliseconds of a micro-batch: the Trainer's share (median of the turns' differences), and in the bare loop."""
    arguments = [
        "train.py",
        *overrides,
        "run.name=tax",
        "horizon.steps=1000000",
        "trainer.validate_every_n_steps=1000000",
        "callbacks.checkpoints.every_n_minutes=null",
        "callbacks.export=null",
        "+callbacks.tax._target_=hooks.Tax",
        f"+callbacks.tax.micro_batches={options.micro_batches}",
        f"+callbacks.tax.repetitions={options.repetitions}",
        *options.overrides,
    ]
    turns: list[tuple[float, float]] = []
    with (
        scratch() as folder,
        closing(Worker(arguments, environment(folder, options.threads), folder / "log")) as worker,
    ):
        while (turn := worker.answer()) is not None:
            turns.append(turn)
    share = statistics.median(under_trainer - bare for under_trainer, bare in turns)
    bare = statistics.median(bare for _, bare in turns)
    return 1000 * share / options.micro_batches, 1000 * bare / options.micro_batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="more of train.py's arguments")
    parser.add_argument("--text", type=Path, help="tinyshakespeare as a text file")
    parser.add_argument("--micro-batches", type=int, default=100, help="of one turn")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--threads", type=int, help="torch threads; default: torch's choice")
    options = parser.parse_args()
    settings: dict[str, list[str]] = {"default recipe": []}
    if options.text:
        settings["shakespeare_char"] = ["experiment=shakespeare_char", f"data.path={options.text.resolve()}"]
    for name, overrides in settings.items():
        share, bare = measure(overrides, options)
        print(
            f"{name}: {bare:.2f} ms a micro-batch in the bare loop, {share:+.2f} ms under the Trainer "
            f"(goal {GOAL_MILLISECONDS}), {share / bare:+.1%} (goal {GOAL_SHARE:.0%} at shakespeare_char)",
            flush=True,
        )


if __name__ == "__main__":
    main()
