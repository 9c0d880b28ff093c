"""Two processes on one CPU against one process with all of its threads: python bench/processes.py [--devices 2]

Runs train.py on text of its own, the settings in turn; a figure is the median over the log intervals of all turns.
"""

import argparse
import csv
import statistics
from pathlib import Path

import torch
from corpus import build_corpus, training_overrides
from timing import Child, Row, environment, print_table, scratch


def tokens_per_second(metrics: Path) -> list[float]:
    """Of each log interval but the first."""
    with metrics.open(newline="", encoding="utf-8") as file:
        speeds = [row.get("speed/tokens_per_second") for row in csv.DictReader(file)]
    return [float(speed) for speed in speeds if speed][1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=2, help="processes")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--rows", type=int, default=8, help="of a step, over all processes")
    parser.add_argument("--sequence-len", type=int, default=512)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--turns", type=int, default=2)
    options = parser.parse_args()
    threads = torch.get_num_threads()
    settings = {  # name -> processes, threads of each
        f"1 process, {threads} threads": (1, threads),
        "1 process, 1 thread": (1, 1),
        f"{options.devices} processes, {threads // options.devices} thread(s)": (
            options.devices,
            max(1, threads // options.devices),
        ),
    }
    speeds: dict[str, list[float]] = {name: [] for name in settings}
    with scratch() as folder:
        train, val = build_corpus(folder, 3000, 2500)
        shape = [f"model.depth={options.depth}", "model.n_embd=null", "model.head_dim=128", "model.window_pattern=L"]
        shape += [f"model.sequence_len={options.sequence_len}", f"horizon.steps={options.steps}"]
        shape += [f"horizon.total_batch_tokens={options.rows * options.sequence_len}"]
        shape += ["callbacks.metrics.every_n_steps=5", "callbacks.checkpoints.every_n_minutes=null", "hw=cpu"]
        for turn in range(options.turns):
            for number, (name, (devices, own_threads)) in enumerate(settings.items()):
                run = f"run.name=turn{turn}-{number}"
                chosen = [run, f"hw.devices={devices}", f"hw.threads={own_threads}"]
                chosen += [f"trainer.validate_every_n_steps={options.steps}"]
                arguments = ["train.py", *training_overrides(train, val, 8192), *shape, *chosen]
                Child(arguments, environment(folder), folder / f"{turn}-{number}.log").peak_bytes()
                speeds[name] += tokens_per_second(folder / "runs" / run.removeprefix("run.name=") / "base/metrics.csv")
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    *alone, together = medians
    best = max(medians[name] for name in alone)
    rows = [Row(name, "tok/s", best, value) for name, value in medians.items() if name in alone]
    rows.append(Row(together, "tok/s", best, medians[together], goal=0.9))
    print_table("Processes that share one CPU", "one, at best", rows)


if __name__ == "__main__":
    main()
