"""Evaluations on two processes, one of which lacks some data: python -m tests.callbacks.two_processes FOLDER DATA."""

import os
import sys
from pathlib import Path

import torch

from nanochat_pl.callbacks.evaluate import Evaluate
from tests.callbacks.test_evaluate import fit

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, data = map(Path, sys.argv[1:])
    rank = int(os.environ.get("LOCAL_RANK", "0"))  # set by Lightning in the process that it starts
    lacking = data if rank == 0 else folder / "nowhere"
    evaluate = Evaluate(("tasks=simple_spelling,arc_easy", "tiny"), 2, 5, tasks_path=str(lacking))
    fit(folder, evaluate, rank=rank, devices=2, strategy="ddp")
