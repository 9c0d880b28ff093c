"""The optimizer's step beside nanochat's: python bench/optimizer.py PATH_TO_NANOCHAT [--depth 6] [--processes 2] [...]

Both take steps on a model of their own with the same depth, width and vocabulary, gradients given. With several
processes nanochat's step averages the gradients over them, which DDP does for us during the backward pass; so ours is
timed alone, and with the averaging before it. nanochat needs NCCL for that: on CPUs several processes of ours are
timed without it.
"""

import argparse
import socket
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from timing import ROOT, Row, Worker, environment, in_turn, print_table, scratch

GOAL = 0.7


class Ranks:
    """The processes of one side, which answer a question together."""

    def __init__(self, side: str, options: argparse.Namespace, folder: Path, stack: ExitStack):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.workers = []
        for rank in range(options.processes):
            group = {"RANK": rank, "WORLD_SIZE": options.processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            values = {name: str(value) for name, value in group.items() if options.processes > 1}
            if options.device == "cpu":
                values["NANOCHAT_DTYPE"] = "float32"
            env = environment(folder, options.threads, options.nanochat, **values)
            command = [str(ROOT / "bench/optimizer_side.py"), side, options.device, options.depth, options.vocab_size]
            worker = Worker([str(part) for part in command], env, folder / f"{side}{rank}.log")
            self.workers.append(stack.enter_context(closing(worker)))
        for worker in self.workers:
            worker.answer()

    def ask(self, what: str, steps: int = 1) -> list[Any]:
        for worker in self.workers:
            worker.connection.send((what, steps))
        return [worker.answer() for worker in self.workers]

    def milliseconds(self, what: str, steps: int) -> float:
        """Of one step, on the slowest rank."""
        return 1000 * max(self.ask(what, steps))


def measure(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    several = options.processes > 1
    with ExitStack() as stack:
        ours = Ranks("ours", options, folder, stack)
        theirs = None if several and options.device == "cpu" else Ranks("theirs", options, folder, stack)
        compared = "averaged" if several else "step"
        sides = {"ours": ours} if theirs is None else {"ours": ours, "theirs": theirs}
        for side in sides.values():
            side.ask(compared, 2)
        times = in_turn(
            options.repetitions,
            {name: lambda side=side: side.milliseconds(compared, options.steps) for name, side in sides.items()},
        )
        ranks = f", {options.processes} ranks" if several else ""
        work = f"optimizer step d{options.depth}{ranks}{', with averaging' if several else ''}"
        yield Row(work, "ms", times.get("theirs"), times["ours"], more_is_better=False, goal=GOAL)
        if several:
            alone = statistics.median(ours.milliseconds("step", options.steps) for _ in range(options.repetitions))
            yield Row("  without averaging", "ms", None, alone, more_is_better=False)
        parts = ours.ask("parts", options.steps)
        for name in parts[0]:
            slowest = 1000 * max(rank[name] for rank in parts)
            yield Row(f"  {name}", "ms", None, slowest, more_is_better=False)
        state = [max(side.ask("state")) / 1e6 for side in (ours, theirs) if side]
        yield Row("state of a rank", "MB", state[1] if theirs else None, state[0], more_is_better=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nanochat", type=Path, help="a checkout of karpathy/nanochat")
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--vocab-size", type=int, default=32768)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--processes", type=int, default=1, help="of each side")
    parser.add_argument("--threads", type=int, help="torch threads of a process; default: torch's choice")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="of one repetition")
    options = parser.parse_args()
    if not (options.nanochat / "nanochat" / "optim.py").exists():
        parser.error(f"{options.nanochat} is no checkout of nanochat: it has no nanochat/optim.py")
    options.nanochat = options.nanochat.resolve()
    rows = []
    with scratch() as folder:
        for row in measure(options, folder):
            print("  ".join(row.cells()), flush=True)
            rows.append(row)
    print_table("nanochat-pl's optimizer against nanochat's", "nanochat", rows)
