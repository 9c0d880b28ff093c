"""How fast, and whether rightly, the processes of a run add up and pass on tensors.

`python -m nanochat_pl.diagnosis.all_reduce ACCELERATOR`, as one of several processes, prints what rank 0 measured.
"""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import nanochat_pl
from nanochat_pl.core.distributed import Processes
from nanochat_pl.core.errors import MachineError
from nanochat_pl.core.place import place

SIZES_BYTES = {"cpu": (4096, 2**20, 2**24), "cuda": (4096, 2**20, 2**25, 2**28)}
"""Of the tensors that are added up, by accelerator."""
LINK_BYTES = {"cpu": 2**23, "cuda": 2**26}
SECONDS_A_SIZE, MOST_ROUNDS = 0.5, 50
"""So long and so often each size is measured, at most."""
MEETING_SECONDS = 60.0
"""So long the processes may take to find each other, and for any single operation."""
TESTING_SECONDS = 120.0
"""After which processes that were started here are ended."""


@dataclass(frozen=True)
class AllReduce:
    """Of one size.

    Attributes:
        seconds: the median of several.
        bus_bytes_per_second: that each link carried: 2 (W - 1) / W times the tensor, as NCCL's own tests count it.
        right: the sum was, in every process, bit for bit.
    """

    num_bytes: int
    seconds: float
    bus_bytes_per_second: float
    right: bool


@dataclass(frozen=True)
class Measured:
    """What the processes found together.

    Attributes:
        backend: gloo or nccl.
        links: (from rank, to rank, bytes per second) around the ring.
        hosts: of each rank.
    """

    world_size: int
    backend: str
    sums: list[AllReduce]
    links: list[tuple[int, int, float]]
    hosts: list[str]


def measure(processes: Processes, accelerator: str) -> Measured:
    """To be called by all processes, which have joined; all get the same."""
    rank, world_size = processes.place.rank, processes.place.world_size
    device = torch.device(accelerator, processes.place.local_rank) if accelerator == "cuda" else torch.device("cpu")
    sums = [_all_reduce(processes, device, num_bytes) for num_bytes in SIZES_BYTES[accelerator]]
    links = [_link(rank, sender, world_size, device, LINK_BYTES[accelerator]) for sender in range(world_size)]
    hosts: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(hosts, socket.gethostname())
    return Measured(world_size, "nccl" if accelerator == "cuda" else "gloo", sums, links, hosts)


def measure_in_own(world_size: int, accelerator: str) -> Measured:
    """The same in so many processes of this machine, which are started for it.

    Raises:
        MachineError: one of them failed or did not end; says with what.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    root = str(Path(nanochat_pl.__file__).parents[1])
    shared = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
    }  # fmt: skip
    command = [sys.executable, "-m", "nanochat_pl.diagnosis.all_reduce", accelerator]
    with tempfile.TemporaryDirectory(prefix="nanochat-pl-") as folder:
        outputs = [Path(folder, f"rank-{rank}") for rank in range(world_size)]
        children = [
            subprocess.Popen(
                command, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=output.with_suffix(".out").open("w"), stderr=output.with_suffix(".err").open("w"),
            )
            for rank, output in enumerate(outputs)
        ]  # fmt: skip
        deadline = time.monotonic() + TESTING_SECONDS
        try:
            _wait(children, deadline)
        finally:
            for child in children:
                child.kill()
                child.wait()
        failed = [(rank, child.returncode) for rank, child in enumerate(children) if child.returncode]
        if failed:
            rank, code = next(((rank, code) for rank, code in failed if code > 0), failed[0])
            said = outputs[rank].with_suffix(".err").read_text(errors="replace").strip().splitlines()
            why = said[-1][:300] if said else f"no word within {TESTING_SECONDS:.0f} s"
            raise MachineError(f"The test of {world_size} processes failed in rank {rank} (exit code {code}): {why}")
        return _parsed(outputs[0].with_suffix(".out").read_text())


def _wait(children: "list[subprocess.Popen[bytes]]", deadline: float) -> None:
    """Until all have ended, or one has failed, or the time is over."""
    while time.monotonic() < deadline:
        codes = [child.poll() for child in children]
        if any(codes) or all(code is not None for code in codes):
            return
        time.sleep(0.05)


def _parsed(text: str) -> Measured:
    values = json.loads(text.strip().splitlines()[-1])
    sums = [AllReduce(**one) for one in values.pop("sums")]
    links = [(int(a), int(b), float(speed)) for a, b, speed in values.pop("links")]
    return Measured(sums=sums, links=links, **values)


def _all_reduce(processes: Processes, device: torch.device, num_bytes: int) -> AllReduce:
    rank, world_size = processes.place.rank, processes.place.world_size
    # Whole numbers, whose sum float32 holds exactly in whatever order they are added.
    numbers = (torch.arange(num_bytes // 4, device=device) % 251 + 1).float()
    total = (rank + 1) * numbers
    torch.distributed.all_reduce(total)  # the first also connects
    right = processes.all_say(bool(torch.equal(total, numbers * (world_size * (world_size + 1) // 2))))
    first = _seconds(total, device)
    slowest = torch.tensor([first], device=device)
    torch.distributed.all_reduce(slowest, op=torch.distributed.ReduceOp.MAX)
    rounds = max(1, min(MOST_ROUNDS, int(SECONDS_A_SIZE / max(1e-9, slowest.item()))))
    seconds = sorted(_seconds(total, device) for _ in range(rounds))[rounds // 2]
    return AllReduce(num_bytes, seconds, num_bytes * 2 * (world_size - 1) / world_size / max(1e-9, seconds), right)


def _seconds(tensor: Tensor, device: torch.device) -> float:
    tensor.zero_()  # what is added up again and again would overflow
    _finish(device)
    started = time.perf_counter()
    torch.distributed.all_reduce(tensor)
    _finish(device)
    return time.perf_counter() - started


def _link(rank: int, sender: int, world_size: int, device: torch.device, num_bytes: int) -> tuple[int, int, float]:
    """From one process to the next, all others waiting."""
    receiver = (sender + 1) % world_size
    block = torch.ones(num_bytes // 4, device=device)
    best = torch.zeros(1, device=device)
    for _ in range(3):
        torch.distributed.barrier()
        started = time.perf_counter()
        if rank == sender:
            torch.distributed.send(block, receiver)
        elif rank == receiver:
            torch.distributed.recv(block, sender)
            _finish(device)
            best = best.clamp(min=num_bytes / max(1e-9, time.perf_counter() - started))
    torch.distributed.all_reduce(best, op=torch.distributed.ReduceOp.MAX)
    return sender, receiver, best.item()


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """As one of the processes that a launcher or `measure_in_own` has started."""
    accelerator = sys.argv[1]
    here = place()
    assert here is not None, "start it with torchrun, or let `doctor distributed` start it"
    processes = Processes(here, accelerator, MEETING_SECONDS)
    measured = measure(processes, accelerator)
    if processes.is_first:
        print(json.dumps(dataclasses.asdict(measured)), flush=True)
    processes.close()


if __name__ == "__main__":
    main()
