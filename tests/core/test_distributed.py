"""Where a process stands among those of a run, and what is said where that does not fit."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from nanochat_pl.core.distributed import Processes
from nanochat_pl.core.errors import MachineError, UserError
from nanochat_pl.core.hardware import HardwareSpec
from nanochat_pl.core.place import ALONE, Place, first_host, place, placed, restarts
from tests.forks import FORKS
from tests.processes import free_port

TORCHRUN = {
    "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500", "TORCHELASTIC_RESTART_COUNT": "2",
}  # fmt: skip
SRUN = {
    "SLURM_STEP_NUM_TASKS": "16", "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "9", "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1", "SLURM_JOB_ID": "4242", "SLURM_STEP_ID": "1", "SLURM_STEP_NODELIST": "gpu[07-08]",
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TORCHRUN, *SRUN, "GROUP_RANK", "SLURM_RESTART_COUNT"):
        monkeypatch.setenv(name, "")  # so that what `place` writes is forgotten afterwards
        monkeypatch.delenv(name)


def started_by(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Place | None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return place()


def test_torchrun_and_srun_say_where_a_process_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    assert place() is None
    with monkeypatch.context() as patch:  # one task, which is to start others itself
        assert started_by(SRUN | {"SLURM_STEP_NUM_TASKS": "1"}, patch) is None
    with monkeypatch.context() as patch:
        here = started_by(TORCHRUN, patch)
        assert here == Place(rank=3, local_rank=1, world_size=4, local_world_size=2) and here.nodes == 2
        assert restarts() == 2
    with monkeypatch.context() as patch:
        here = started_by(SRUN, patch)
        assert here == Place(rank=9, local_rank=1, world_size=16, local_world_size=8) and here.nodes == 2
        assert place() == here  # by the variables that torchrun sets, now
        assert restarts() == 0
        patch.setenv("SLURM_RESTART_COUNT", "1")
        assert restarts() == 1


def test_unequal_nodes_and_half_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(UserError, match="3 processes on 2 nodes"):
        started_by(SRUN | {"SLURM_STEP_NUM_TASKS": "3"}, patch)
    with pytest.raises(UserError, match="RANK is set, as a launcher does it, but WORLD_SIZE"):
        started_by({"RANK": "0", "LOCAL_RANK": "0"}, monkeypatch)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu7", "gpu7"), ("gpu[03-05,9],login", "gpu03"), ("a-b[1,4],c", "a-b1"), ("x.y,z", "x.y"), ("n[007]", "n007")],
)
def test_the_first_host_of_a_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_a_profile_takes_what_was_started_and_refuses_what_was_not() -> None:
    here = Place(rank=0, world_size=4, local_world_size=2)
    taken = placed(HardwareSpec(), here)
    assert (taken.devices, taken.nodes) == (2, 2)
    assert placed(HardwareSpec(devices=2, nodes=2), here) == taken
    alone = placed(HardwareSpec(), None)
    assert (alone.devices, alone.nodes) == (1, 1)
    with pytest.raises(UserError, match=r"hw.devices is 8, but there are 2 processes on this node"):
        placed(HardwareSpec(devices=8), here)
    with pytest.raises(UserError, match=r"hw.nodes is 1, but there are 2 nodes"):
        placed(HardwareSpec(nodes=1), here)
    with pytest.raises(UserError, match=r"hw.nodes is 2, but this process is alone"):
        placed(HardwareSpec(devices=8, nodes=2), None)


def test_a_process_alone_asks_nobody() -> None:
    processes = Processes(ALONE)
    processes.check_alike({"anything": 1})
    assert processes.is_first and processes.decided_by_first(lambda: 7) == 7
    with processes.one_by_node(), processes.failing_once():
        pass


def test_a_port_in_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        variables = TORCHRUN | {"RANK": "0", "LOCAL_RANK": "0", "MASTER_PORT": str(port)}
        here = started_by(variables, monkeypatch)
        assert here is not None
        with pytest.raises(MachineError, match=f"The port of 127.0.0.1:{port}.*is in use by another program"):
            Processes(here, timeout_seconds=5)


def test_others_that_never_come_are_not_waited_for_longer_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    variables = {"RANK": "0", "LOCAL_RANK": "0", "MASTER_PORT": port, "TORCHELASTIC_RESTART_COUNT": "0"}
    here = started_by(TORCHRUN | variables, monkeypatch)
    assert here is not None
    with pytest.raises(MachineError, match=r"Rank 0 of 4 did not find the others at 127.0.0.1:.* within 3 s"):
        Processes(here, timeout_seconds=2)


def prepare_then_stop(rank: int, port: int, said: Path) -> None:
    """Of two processes, rank 1 prepares something for long, and then is stopped while it prepares something else."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    here = Place(rank=rank, local_rank=1 - rank, world_size=2, local_world_size=2)
    processes = Processes(here, timeout_seconds=3)
    with processes.one_by_node():
        if rank == 1:
            time.sleep(6)
    said.write_text("prepared")
    began = time.monotonic()
    try:
        with processes.one_by_node():
            os.kill(os.getpid(), signal.SIGSTOP)
    except MachineError as error:
        said.write_text(f"after {time.monotonic() - began:.0f} s: {error}")
    os._exit(0)


@pytest.mark.slow
def test_one_that_prepares_is_waited_for_as_long_as_it_lives(tmp_path: Path) -> None:
    port, said = free_port(), [tmp_path / "0", tmp_path / "1"]
    pair = [FORKS.Process(target=prepare_then_stop, args=(rank, port, said[rank])) for rank in (0, 1)]
    for process in pair:
        process.start()
    pair[0].join(timeout=60)
    pair[1].kill()
    assert pair[0].exitcode == 0 and said[1].read_text() == "prepared"
    assert "no sign of life for 3 s: it is stopped" in said[0].read_text(), said[0].read_text()
