"""What W&B costs a training: seconds of a step with logger=wandb (offline) and with logger=csv, in turn.

Two trainings of four layers (by default) rest while the other one works. What happens at a validation is not measured.
"""

import argparse
import statistics
from contextlib import ExitStack, closing

from timing import Worker, environment, scratch

GOAL_SHARE = 0.01


def measure(options: argparse.Namespace) -> tuple[float, float]:
    """Seconds of a step with metrics.csv alone (median), and what W&B adds (median of the turns' differences)."""
    with scratch() as folder, ExitStack() as stack:
        env = environment(folder, options.threads, WANDB_MODE="offline", WANDB_BASE_URL="http://127.0.0.1:9",
                          WANDB_CACHE_DIR=str(folder / "wandb"), WANDB_CONFIG_DIR=str(folder / "wandb"))  # fmt: skip
        workers = []
        for logger in ("csv", "wandb"):
            arguments = [
                "train.py",
                f"model.depth={options.depth}",
                f"logger={logger}",
                f"run.name={logger}",
                "horizon.steps=1000000",
                "trainer.validate_every_n_steps=1000000",
                "callbacks.checkpoints.every_n_minutes=null",
                "+callbacks.pace._target_=hooks.Pace",
                *options.overrides,
            ]
            workers.append(stack.enter_context(closing(Worker(arguments, env, folder / logger))))
            workers[-1].answer()
            workers[-1].ask(options.steps)
        turns = [[worker.ask(options.steps) for worker in workers] for _ in range(options.repetitions)]
    alone = statistics.median(csv for csv, _ in turns)
    return alone / options.steps, statistics.median(wandb - csv for csv, wandb in turns) / options.steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="more of train.py's arguments")
    parser.add_argument("--depth", type=int, default=4, help="layers of the model")
    parser.add_argument("--steps", type=int, default=20, help="of one turn")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--threads", type=int, help="torch threads; default: torch's choice")
    alone, added = measure(options := parser.parse_args())
    print(
        f"{options.depth} layers: {1000 * alone:.2f} ms a step with metrics.csv, {1000 * added:+.3f} ms with W&B "
        f"offline, {added / alone:+.2%} (goal {GOAL_SHARE:.0%})"
    )


if __name__ == "__main__":
    main()
