"""Evaluations on two processes: python -m tests.callbacks.two_processes FOLDER DATA, as each rank

The second one lacks some data, fails in one suite, and is told to end in another.
"""

import os
import sys
from pathlib import Path

import torch

from nanochat_pl.callbacks.evaluate import Evaluate
from nanochat_pl.callbacks.shutdown import SaveOnSignal
from nanochat_pl.core.errors import Interrupted
from tests.callbacks.test_evaluate import Broken, Signal, fit

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, data = map(Path, sys.argv[1:])
    rank = int(os.environ["RANK"])
    evaluate = Evaluate(("tasks=arc_challenge,tiny_sums",), 2, 40, tasks_path=str(data))
    lacking = Evaluate(("tasks=arc_easy",), 2, 5, tasks_path=str(data if rank == 0 else folder / "nowhere"))
    evaluate._suites.insert(0, Broken(fails=rank == 1))
    told = [Signal(3, "tiny_sums")] if rank == 1 else []
    try:
        fit(folder, evaluate, lacking, *told, SaveOnSignal(), rank=rank, devices=2, strategy="ddp")
    except Interrupted as stopped:
        sys.exit(stopped.exit_code)
