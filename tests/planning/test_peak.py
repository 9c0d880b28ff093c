"""The planned memory against the peak that the system tells of real processes."""

import subprocess
import sys

import pytest

from nanochat_pl.core.hardware import HardwareSpec
from nanochat_pl.models.cost import ModelCost
from nanochat_pl.models.depth import NanoChatSpec
from nanochat_pl.planning.memory import memory_bytes
from tests.processes import REPOSITORY

STEPS = """
import os, sys
import torch
from nanochat_pl.core.memory import peak_memory_bytes
from nanochat_pl.models.contract import build_model
from nanochat_pl.models.depth import NanoChatSpec
from nanochat_pl.optim.muon import MuonAdamWSpec

torch.set_num_threads(1)

def steps(config, rows):
    model = build_model(config, "cpu", 0)
    optimizer = MuonAdamWSpec().build(model.named_parameters(), model.param_roles(), width=config.n_embd)
    ids = torch.randint(config.vocab_size, (rows, config.sequence_len))
    for _ in range(2):  # the first leaves the optimizer's state behind
        loss = model(ids, ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        del loss  # with its graph, as Lightning does

bare = NanoChatSpec(depth=2, n_embd=32, head_dim=16, sequence_len=32, window_pattern="SL").config(64)
steps(bare, 1)
with open("/proc/self/statm") as told:
    before = int(told.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
depth, width, head_dim, T, rows, vocabulary = map(int, sys.argv[1:7])
spec = NanoChatSpec(depth=depth, n_embd=width, head_dim=head_dim, sequence_len=T, window_pattern=sys.argv[7])
steps(spec.config(vocabulary), rows)
print(peak_memory_bytes() - before)
"""

SHAPES = [
    (4, 128, 32, 128, 16, 1024, "L"),
    (4, 256, 64, 512, 8, 8192, "L"),
    (4, 256, 64, 2048, 2, 8192, "SSSL"),
]
"""Depth, width, head size, context, rows, vocabulary, windows."""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape)))
def test_the_plan_is_within_a_tenth_of_the_peak(shape: tuple) -> None:
    depth, width, head_dim, T, rows, vocabulary, windows = shape
    spec = NanoChatSpec(depth=depth, n_embd=width, head_dim=head_dim, sequence_len=T, window_pattern=windows)
    config, cpu = spec.config(vocabulary), HardwareSpec(accelerator="cpu").detect()
    planned = memory_bytes(config, ModelCost(config), cpu, rows, rows)
    command = [sys.executable, "-c", STEPS, *map(str, shape)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout
    expected = sum(planned.values()) - planned["framework"]
    print(f"\n{shape}: planned {expected / 1e6:.0f} MB, measured {int(told) / 1e6:.0f} MB")
    assert expected == pytest.approx(int(told), rel=0.1)
