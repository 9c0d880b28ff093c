"""How fast, and whether rightly, the processes of a run add up and pass on tensors."""

import socket
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.elastic.multiprocessing.errors import record

from nanochat_pl.core.distributed import Processes
from nanochat_pl.core.launch import in_own_processes
from nanochat_pl.core.place import ALONE, place

SIZES_BYTES = {"cpu": (4096, 2**20, 2**24), "cuda": (4096, 2**20, 2**25, 2**28)}
"""Of the tensors that are added up, by accelerator."""
LINK_BYTES = {"cpu": 2**23, "cuda": 2**26}
SECONDS_A_SIZE, MOST_ROUNDS = 0.5, 50
"""So long and so often each size is measured, at most."""
MEETING_SECONDS = 60.0
"""So long the processes may take to find each other, and for any single operation."""


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
        MachineError: one of them failed; says with what.
    """
    return in_own_processes(_measure_here, (accelerator,), world_size, TESTING_SECONDS)


TESTING_SECONDS = 120.0
"""In which the test ends on any sound machine."""


@record
def _measure_here(accelerator: str) -> Measured:
    """As one of the processes that were started."""
    torch.set_num_threads(1)
    processes = Processes(place() or ALONE, accelerator, MEETING_SECONDS)
    measured = measure(processes, accelerator)
    processes.close()
    return measured


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
