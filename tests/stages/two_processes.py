"""The first step of test_sft on two processes: python -m tests.stages.two_processes OUT, as each rank."""

import os
import sys

import torch

from tests.stages.test_sft import data_module, first_step

if __name__ == "__main__":
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    kept = first_step(data_module(2, rank, world_size=2), devices=2, strategy="ddp")
    if rank == 0:
        torch.save(kept.gradients, sys.argv[1])
