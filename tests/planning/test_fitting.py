"""The largest micro-batch and depth that fit, and what follows when memory runs out all the same."""

import dataclasses
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nanochat_pl.core.chips import Chip
from nanochat_pl.core.errors import EXIT_MACHINE
from nanochat_pl.core.hardware import Hardware, HardwareSpec
from nanochat_pl.models.cost import ModelCost
from nanochat_pl.models.depth import NanoChatSpec
from nanochat_pl.optim.muon import MuonAdamWSpec
from nanochat_pl.optim.scaling import HorizonSpec
from nanochat_pl.planning.memory import fits, memory_bytes
from nanochat_pl.planning.out_of_memory import out_of_memory_advice
from nanochat_pl.planning.plan import AUTO_TOKENS, Plan, make_plan
from nanochat_pl.planning.scaling_table import largest_depth
from nanochat_pl.planning.trial import tried
from tests.processes import REPOSITORY, SMALL, train, train_anew

SPEC = NanoChatSpec(depth=4, n_embd=128, head_dim=32, sequence_len=128, window_pattern="L")
CPU = HardwareSpec(accelerator="cpu", tokens_per_device="auto").detect()


def with_memory(memory: int, hardware: Hardware = CPU) -> Hardware:
    return dataclasses.replace(hardware, chip=Chip("small", memory))


def plan(hardware: Hardware, spec: NanoChatSpec = SPEC, rows: int = 48) -> Plan:
    horizon = HorizonSpec(steps=10, total_batch_tokens=rows * spec.sequence_len)
    return make_plan(spec.config(1024), spec.reference(1024), horizon, hardware, 16, 1e9)


@pytest.mark.parametrize("gigabytes", [0.75, 0.9, 1.2, 4.0])
def test_auto_takes_the_largest_micro_batch_that_fits(gigabytes: float) -> None:
    hardware = with_memory(int(gigabytes * 1e9))
    made, cost = plan(hardware), ModelCost(SPEC.config(1024))
    sizes = [size for size in range(1, 49) if 48 % size == 0]
    fitting = [size for size in sizes if fits(memory_bytes(SPEC.config(1024), cost, hardware, size, 48), hardware)]
    assert made.micro_batch_rows == max(fitting)
    assert made.micro_batch_rows * made.accumulation == 48
    assert made.as_dict()["hardware"]["tokens_per_device"] == made.micro_batch_rows * 128


def test_auto_takes_no_more_than_makes_it_faster_and_one_row_where_nothing_fits() -> None:
    assert plan(with_memory(10**13), rows=4096).micro_batch_rows * 128 == AUTO_TOKENS
    nothing = plan(with_memory(10**6))
    assert nothing.micro_batch_rows == 1 and "may not fit: try hw.recompute=true, a smaller model" in nothing.text()


def test_a_smaller_plan_is_the_same_training() -> None:
    made = plan(with_memory(10**12))
    sizes = [made.micro_batch_rows]
    while (smaller := made.smaller()) is not None:
        assert smaller.horizon == made.horizon and smaller.rows_per_step == made.rows_per_step
        assert 2 * smaller.micro_batch_rows <= made.micro_batch_rows
        assert sum(smaller.memory_bytes.values()) < sum(made.memory_bytes.values())
        made = smaller
        sizes.append(made.micro_batch_rows)
    assert sizes == [48, 24, 12, 6, 3, 1]


def test_the_largest_depth_fits_and_the_next_does_not() -> None:
    hardware = HardwareSpec(accelerator="cuda", chip="RTX 4090").assume()
    spec = NanoChatSpec(sequence_len=512, aspect_ratio=32, head_dim=64)
    depth = largest_depth(spec, 4096, hardware)
    assert depth is not None and depth > 12
    config, deeper = (dataclasses.replace(spec, depth=d).config(4096, "bfloat16") for d in (depth, depth + 1))
    assert fits(memory_bytes(config, ModelCost(config), hardware, 1, 1), hardware)
    assert not fits(memory_bytes(deeper, ModelCost(deeper), hardware, 1, 1), hardware)
    assert largest_depth(spec, 4096, with_memory(10**8, hardware)) is None


TRIAL = """
import resource, sys
import torch
from tests.planning.test_fitting import *
torch.set_num_threads(1)
small = tried(plan(with_memory(10**12), rows=2), MuonAdamWSpec())  # what is loaded on the way counts before the limit
with open("/proc/self/statm") as told:
    now = int(told.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 260_000_000,) * 2)
made = tried(plan(with_memory(10**12), rows=256), MuonAdamWSpec())
print(small.micro_batch_rows, made.micro_batch_rows, made.accumulation)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space")
def test_a_real_step_is_tried_and_halved_until_it_fits() -> None:
    told = subprocess.run([sys.executable, "-c", TRIAL], capture_output=True, text=True, cwd=REPOSITORY)
    assert told.returncode == 0, told.stderr
    small, rows, accumulation = map(int, told.stdout.split()[-3:])
    assert small == 2 and 1 < rows <= 64 and rows * accumulation == 256


def test_a_step_that_fits_changes_nothing() -> None:
    made = plan(with_memory(10**12), NanoChatSpec(depth=1, n_embd=32, head_dim=16, sequence_len=16), rows=2)
    assert tried(made, MuonAdamWSpec()) is made


FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines")


def test_out_of_memory_ends_with_the_command_that_fits() -> None:
    overrides = ["hw=h100x8", 'run.name="a,b"', "hw.tokens_per_device=auto", "run.fresh=true", "model.depth=4"]
    advice = out_of_memory_advice(plan(with_memory(10**12)), overrides, FULL)
    assert advice is not None and advice.exit_code == EXIT_MACHINE
    said, command = str(advice).split("\n")
    assert "CUDA out of memory. Tried to allocate 2.00 GiB." in said and "More lines" not in said
    assert shlex.split(command) == [
        *("python", "train.py", "hw=h100x8", 'run.name="a,b"', "model.depth=4", f"hw.tokens_per_device={24 * 128}")
    ]


def test_where_one_row_is_too_much_it_says_what_else_helps() -> None:
    one = plan(with_memory(10**6))
    assert "hw.recompute=true" in str(out_of_memory_advice(one, [], MemoryError()))
    recomputing = dataclasses.replace(one, hardware=dataclasses.replace(one.hardware, recompute=True))
    said = str(out_of_memory_advice(recomputing, [], MemoryError()))
    assert "hw.recompute" not in said and "model.sequence_len" in said
    assert out_of_memory_advice(one, [], RuntimeError("something else")) is None


@pytest.mark.slow
def test_the_command_goes_on_where_the_memory_was_full(tmp_path: Path) -> None:
    whole = train(*SMALL, "run.name=whole", runs=tmp_path)
    full = ("+callbacks.full._target_=tests.faults.FillMemory", "+callbacks.full.step=13")
    code, output = train_anew(*SMALL, *full, "hw.tokens_per_device=256", runs=tmp_path)
    assert whole[0] == 0 and code == EXIT_MACHINE, output
    assert "Traceback" not in output
    command = shlex.split(output.strip().splitlines()[-1])
    assert command[:2] == ["python", "train.py"] and command[-1] == "hw.tokens_per_device=128", output
    code, output = train(*(part for part in command[2:] if "callbacks.full" not in part), runs=tmp_path)
    assert code == 0 and "Going on from step" in output, output
    losses = [
        [line.split(",") for line in (tmp_path / name / "base" / "metrics.csv").read_text().splitlines()]
        for name in ("whole", "test")
    ]
    column = losses[0][0].index("train/loss")
    ends = [float([row[column] for row in rows[1:] if row[column]][-1]) for rows in losses]
    assert ends[0] == pytest.approx(ends[1], abs=1e-5)
