"""The largest micro-batch and depth that fit, and what follows when memory runs out all the same."""

import dataclasses
import shlex
import sys
from pathlib import Path

import pytest
import torch

from nanochat_pl.core.chips import Chip
from nanochat_pl.core.errors import EXIT_MACHINE
from nanochat_pl.core.hardware import Hardware, HardwareSpec
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.diagnosis import oom
from nanochat_pl.models.contract import build_model
from nanochat_pl.models.cost import ModelCost
from nanochat_pl.models.depth import NanoChatSpec
from nanochat_pl.nn.molegrad import Streaming
from nanochat_pl.optim.foreign import ForeignSpec, Part
from nanochat_pl.optim.muon import MuonAdamWSpec
from nanochat_pl.optim.scaling import HorizonSpec
from nanochat_pl.planning import scaling_table
from nanochat_pl.planning.memory import fits, memory_bytes, state_bytes
from nanochat_pl.planning.out_of_memory import out_of_memory_advice
from nanochat_pl.planning.plan import AUTO_TOKENS, Plan, make_plan
from nanochat_pl.planning.scaling_table import largest_depth, scaling_rows
from nanochat_pl.planning.trial import share_of_optimizer, tried
from tests.forks import run_program
from tests.processes import SMALL, run_together, train

SPEC = NanoChatSpec(depth=4, n_embd=128, head_dim=32, sequence_len=128, window_pattern="L")
ADAMW = ForeignSpec(Part("AdamW", torch.optim.AdamW, {}))
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
    deepest = largest_depth(spec, 4096, hardware, Streaming(enabled=True))
    assert deepest is not None and deepest > depth


def test_adamw_s_state_and_its_float32_copies_of_tables_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = HardwareSpec(accelerator="cuda", chip="RTX 4090").assume()
    spec = NanoChatSpec(sequence_len=512, aspect_ratio=32, head_dim=64)
    cost = ModelCost(dataclasses.replace(spec, depth=4).config(4096, "bfloat16"))
    tables = sum(cost.parameters_by_role[role] for role in ("embedding", "value_embedding"))
    state = state_bytes(cost, hardware, optimizer=ADAMW)
    assert state["optimizer"] == 8 * cost.parameters + 4 * tables
    (row,) = scaling_rows([4], spec, HorizonSpec(), 4096, hardware, optimizer=ADAMW)
    (muon,) = scaling_rows([4], spec, HorizonSpec(), 4096, hardware)
    assert row.state_bytes == sum(state.values()) > muon.state_bytes
    just_enough = with_memory(int(sum(memory_bytes(cost.config, cost, hardware, 1, 1).values()) / 0.89), hardware)
    monkeypatch.setattr(scaling_table, "DEEPEST", 5)
    assert largest_depth(spec, 4096, just_enough) == 4
    assert largest_depth(spec, 4096, just_enough, optimizer=ADAMW) == 3


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
    told = run_program("-c", TRIAL)
    assert told.returncode == 0, told.stderr
    small, rows, accumulation = map(int, told.stdout.split()[-3:])
    assert small == 2 and 1 < rows <= 64 and rows * accumulation == 256


TRIAL_OF_TWO = """
import resource, sys
import torch
from nanochat_pl.core.distributed import Processes
from nanochat_pl.core.place import place
from tests.planning.test_fitting import *
torch.set_num_threads(1)
processes = Processes(place())
two = dataclasses.replace(with_memory(10**12), devices=2)
small = tried(plan(two, rows=2), MuonAdamWSpec(), processes)
with open("/proc/self/statm") as told:
    now = int(told.read().split()[0]) * resource.getpagesize()
if processes.place.rank == 1:
    resource.setrlimit(resource.RLIMIT_AS, (now + 100_000_000,) * 2)
made = tried(plan(two, rows=128), MuonAdamWSpec(), processes)
print(small.micro_batch_rows, made.micro_batch_rows, made.accumulation)
processes.close()
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space")
def test_all_processes_take_what_fits_the_one_with_the_least_memory() -> None:
    told = run_together(2, "-c", TRIAL_OF_TWO)
    assert [rank.returncode for rank in told] == [0, 0], told
    (small, rows, accumulation), other = (tuple(map(int, rank.stdout.split()[-3:])) for rank in told)
    assert (small, rows, accumulation) == other
    assert small == 1 and 1 < rows <= 32 and rows * accumulation == 64


@pytest.mark.parametrize("world_size", [1, 2, 8])
def test_what_is_tried_holds_one_ranks_share(world_size: int) -> None:
    config = SPEC.config(1024)
    expected = state_bytes(ModelCost(config), dataclasses.replace(CPU, devices=world_size))
    trained = set()
    for rank in range(world_size):
        model, ids = build_model(config, "cpu", 0), torch.randint(1024, (1, 128))
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer = share_of_optimizer(model, MuonAdamWSpec(), config.n_embd, rank, world_size)
        model(ids, ids).backward()
        optimizer.step()
        moments = sum(value.nbytes for state in optimizer.state.values() for value in state.values())
        assert moments == pytest.approx(expected["optimizer"], rel=0.05)
        assert expected["gradients"] == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
        trained |= {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert trained >= {name for name, p in model.named_parameters() if model.param_roles()[name] == "embedding"}


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


def test_the_command_fits_where_half_would_not() -> None:
    small = with_memory(750_000_000)
    made = plan(small).with_micro_batch(48)
    assert not made.with_micro_batch(24).fits
    said, command = str(out_of_memory_advice(made, [], FULL)).split("\n")
    rows = int(command.split("=")[-1]) // 128
    assert rows == plan(small).micro_batch_rows and made.with_micro_batch(rows).fits
    assert "may still be too much" not in said and f"micro-batches of {rows} rows" in said
    told = str(out_of_memory_advice(plan(with_memory(10**6)).with_micro_batch(48), [], FULL))
    assert "may still be too much (then add hw.recompute=true)" in told
    assert told.endswith("train.py hw.tokens_per_device=128")


@pytest.mark.parametrize(
    ("nodes", "started", "words"),
    [
        (1, {}, "python train.py"),
        (2, {"SLURM_STEP_NUM_TASKS": "8"}, "srun python train.py"),
        (
            2,
            {"TORCHELASTIC_RUN_ID": "x", "MASTER_ADDR": "host7"},
            "torchrun --nnodes=2 --nproc-per-node=4 --rdzv-backend=c10d --rdzv-endpoint=host7:29500 train.py",
        ),
    ],
)
def test_the_command_takes_the_devices_that_a_launcher_has_started(
    nodes: int, started: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_STEP_NUM_TASKS", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    made = plan(dataclasses.replace(with_memory(10**12), devices=4, nodes=nodes))
    rows = 48 // 4 // nodes
    assert made.micro_batch_rows == rows
    message = str(out_of_memory_advice(made, ["model.depth=4", "hw.devices=null"], FULL))
    assert message.endswith(f"\n  {words} model.depth=4 hw.tokens_per_device={rows // 2 * 128} hw.devices=4")
    assert ("on every node" in message) == (nodes > 1)


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
    code, output = train(*SMALL, *full, "hw.tokens_per_device=256", runs=tmp_path)
    assert whole[0] == 0 and code == EXIT_MACHINE, output
    assert "Traceback" not in output
    command = shlex.split(output.strip().splitlines()[-1])
    assert command[:2] == ["python", "train.py"] and command[-1] == "hw.tokens_per_device=128", output
    seen = oom.diagnose(RunFolder(tmp_path / "test" / "base"), lambda: SPEC)
    assert seen.findings[0].what.startswith("The run ended because the memory was full") and not seen.sound
    assert any(finding.advice.strip() == shlex.join(command) for finding in seen.findings), seen.findings
    code, output = train(*(part for part in command[2:] if "callbacks.full" not in part), runs=tmp_path)
    assert code == 0 and "Going on from step" in output, output
    losses = [
        [line.split(",") for line in (tmp_path / name / "base" / "metrics.csv").read_text().splitlines()]
        for name in ("whole", "test")
    ]
    column = losses[0][0].index("train/loss")
    ends = [float([row[column] for row in rows[1:] if row[column]][-1]) for rows in losses]
    assert ends[0] == pytest.approx(ends[1], abs=1e-5)
