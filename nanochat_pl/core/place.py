"""Where a launcher (torchrun or srun) has put this process."""

import dataclasses
import os
import re
from dataclasses import dataclass

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.hardware import Hardware, HardwareSpec


@dataclass(frozen=True)
class Place:
    """This process among those that a launcher has started."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1

    @property
    def nodes(self) -> int:
        return self.world_size // self.local_world_size


ALONE = Place()


def place() -> Place | None:
    """Where torchrun or srun has put this process; None where neither has started several.

    What srun says is written into the variables that torchrun sets, for the libraries to find.
    """
    env = os.environ
    if "RANK" not in env and int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        tasks, nodes = int(env["SLURM_STEP_NUM_TASKS"]), int(env.get("SLURM_STEP_NUM_NODES", "1"))
        if tasks % nodes:
            raise UserError(
                f"srun started {tasks} processes on {nodes} nodes, not the same number on each; use "
                "--ntasks-per-node, with one process for each device."
            )
        port = 15_000 + (int(env["SLURM_JOB_ID"]) * 16 + int(env.get("SLURM_STEP_ID", "0"))) % 16_000
        said = {"RANK": env["SLURM_PROCID"], "LOCAL_RANK": env["SLURM_LOCALID"], "WORLD_SIZE": str(tasks)}
        said |= {"LOCAL_WORLD_SIZE": str(tasks // nodes), "GROUP_RANK": env.get("SLURM_NODEID", "0")}
        env.update(said)
        env.setdefault("MASTER_ADDR", first_host(env.get("SLURM_STEP_NODELIST", "127.0.0.1")))
        env.setdefault("MASTER_PORT", str(port))
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    if "RANK" not in env:
        return None
    if missing := [name for name in (*names, "MASTER_ADDR", "MASTER_PORT") if name not in env]:
        raise UserError(
            f"RANK is set, as a launcher does it, but {', '.join(missing)} is not. Start the processes with torchrun "
            "or srun, or unset RANK to train alone."
        )
    return Place(*(int(env[name]) for name in names))


def restarts() -> int:
    """How often torchrun or SLURM has started this process's command again, as far as this node knows."""
    return max(int(os.environ.get(name, "0")) for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))


def command_on(hardware: Hardware) -> list[str]:
    """The words before the options of a command that trains on so many nodes: as these processes were started."""
    if hardware.nodes == 1:  # train.py starts a process for each of hw.devices
        return ["python", "train.py"]
    if "SLURM_STEP_NUM_TASKS" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ:
        return ["srun", "python", "train.py"]
    meeting = f"{os.environ.get('MASTER_ADDR', 'FIRST_HOST')}:29500"
    sizes = [f"--nnodes={hardware.nodes}", f"--nproc-per-node={hardware.devices}"]
    return ["torchrun", *sizes, "--rdzv-backend=c10d", f"--rdzv-endpoint={meeting}", "train.py"]


def first_host(nodes: str) -> str:
    """The first of a list of hosts as SLURM writes it: "gpu[03-05,9],login" is "gpu03"."""
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", nodes).split(",")[0]


def placed(hw: HardwareSpec, place: Place | None) -> HardwareSpec:
    """A profile with the devices and nodes that there are.

    Raises:
        UserError: it asks for others than were started.
    """
    if place is None:
        if (hw.nodes or 1) > 1:
            raise UserError(
                f"hw.nodes is {hw.nodes}, but this process is alone. Start the training on every node: with SLURM "
                f"`srun python train.py ...`, else `torchrun --nnodes={hw.nodes} --nproc-per-node={hw.devices or 1} "
                "--rdzv-backend=c10d --rdzv-endpoint=FIRST_HOST:29500 train.py ...` (docs/cluster.md)."
            )
        return dataclasses.replace(hw, devices=hw.devices or 1, nodes=1)
    for name, started, what in (
        ("devices", place.local_world_size, "processes on this node"),
        ("nodes", place.nodes, "nodes"),
    ):
        asked = getattr(hw, name)
        if asked is not None and asked != started:
            raise UserError(
                f"hw.{name} is {asked}, but there are {started} {what}, by the launcher (torchrun or srun). Make both "
                f"the same, or leave it to the launcher with hw.{name}=null."
            )
    return dataclasses.replace(hw, devices=place.local_world_size, nodes=place.nodes)
