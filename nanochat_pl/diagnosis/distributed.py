"""doctor distributed: whether several processes can work together here, and how fast they exchange gradients."""

import os
import platform
import shutil
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import torch

from nanochat_pl.core.distributed import Processes
from nanochat_pl.core.errors import MachineError, UserError
from nanochat_pl.core.figures import size
from nanochat_pl.core.memory import usable_cpus
from nanochat_pl.core.place import Place, place
from nanochat_pl.core.run_folder import RunFolder, as_object, read_object
from nanochat_pl.diagnosis.all_reduce import MEETING_SECONDS, Measured, measure, measure_in_own
from nanochat_pl.diagnosis.diagnosis import Diagnosis

PREFIXES = ("NCCL_", "GLOO_", "TORCH_NCCL_", "TORCH_DISTRIBUTED_", "MASTER_", "FI_", "UCX_")
"""Of variables that decide how processes meet and exchange."""
SLOWING = {
    "NCCL_P2P_DISABLE": "GPUs exchange through the main memory instead of NVLink or PCIe",
    "NCCL_SHM_DISABLE": "processes of one machine exchange over the network",
    "NCCL_IB_DISABLE": "nodes exchange over TCP instead of InfiniBand",
    "CUDA_LAUNCH_BLOCKING": "every kernel is waited for",
}
"""Variables that, set to 1, cost speed; what then happens."""
SLOW_SHARE = 0.4
"""A link is slow that carries less than this share of what they carry in the middle."""
SLOW_GPU_BYTES = 4e9
"""Per second between GPUs: less is slower than PCIe 3.0 x16 in practice."""
LITTLE_SHARED_BYTES = 2**30
MOST_CPU_PROCESSES = 4


def diagnose(devices: int | None, measuring: bool = True) -> Diagnosis:
    """Look at the environment, and let processes add up tensors.

    Under torchrun or srun these are its processes, each of which calls this; else some are started for it.

    Args:
        devices: that a training is to have on this node; None: all GPUs, or two processes on a CPU.
        measuring: without it, only the environment is looked at.

    Raises:
        MachineError: the launcher's processes don't find each other.
    """
    diagnosis = Diagnosis("distributed", platform.node() or "this machine")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    try:
        here = place()
    except (UserError, KeyError, ValueError) as error:
        diagnosis.wrong(f"The launcher's variables are wrong: {error}", "Unset what torchrun or srun has not set.")
        return diagnosis
    environment = os.environ
    check_meeting(diagnosis, environment, here)
    check_interfaces(diagnosis, environment, [name for _, name in socket.if_nameindex()])
    check_variables(diagnosis, environment)
    check_devices(diagnosis, here, devices, gpus)
    _shared_memory(diagnosis, gpus)
    if measuring and diagnosis.sound:
        _measure(diagnosis, here, devices, gpus)
    elif measuring:
        diagnosis.info("The exchange was not tested, as it could not go well.")
    else:
        diagnosis.info("The exchange was not tested.", "python -m nanochat_pl doctor distributed tests it.")
    return diagnosis


def devices_of(run: RunFolder) -> int | None:
    """Processes a node that a run was planned for."""
    devices = as_object(read_object(run.resolved).get("hardware")).get("devices")
    return devices if isinstance(devices, int) and devices > 0 else None


def check_meeting(diagnosis: Diagnosis, environment: Mapping[str, str], here: Place | None) -> None:
    """The names and the port by which processes find each other."""
    host, nodes = socket.gethostname(), here.nodes if here else 1
    try:
        address = socket.gethostbyname(host)
    except OSError as error:
        diagnosis.warn(
            f"This machine's name, {host}, is not resolved ({error}): gloo may not find which interface to take.",
            f"Add a line '127.0.0.1 {host}' to /etc/hosts (on several nodes: its address in their network), or set "
            "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME.",
        )
    else:
        if nodes > 1 and address.startswith("127."):
            diagnosis.wrong(
                f"This machine's name, {host}, is resolved to {address}, which other nodes cannot reach.",
                "Give it its address in /etc/hosts, or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the interface "
                "between the nodes.",
            )
        else:
            diagnosis.good(f"This machine's name, {host}, is resolved to {address}.")
    master, port = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT")
    if master is not None:
        try:
            diagnosis.good(f"MASTER_ADDR, {master}, is resolved to {socket.gethostbyname(master)}.")
        except OSError as error:
            diagnosis.wrong(f"MASTER_ADDR is '{master}', which is not resolved ({error}).", "Give a name or address of "
                            "the first node that every node knows.")  # fmt: skip
    if port is not None and not (port.isdecimal() and 0 < int(port) < 2**16):
        diagnosis.wrong(f"MASTER_PORT is '{port}', which is no port.", "Choose one from 1024 to 65535, such as 29500.")
    elif port is not None and here is None and not _is_free(int(port)):
        diagnosis.wrong(
            f"The port {port} (MASTER_PORT) is in use by another program.", "Choose another, or unset MASTER_PORT."
        )


def check_interfaces(diagnosis: Diagnosis, environment: Mapping[str, str], interfaces: Sequence[str]) -> None:
    """Whether the interfaces that are named are there: NCCL reads "=eth0" as this one, "eth" as all that begin so."""
    for variable in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        value = environment.get(variable, "")
        if not value or value.startswith("^"):
            continue
        exact = value.startswith("=") or variable.startswith("GLOO")
        names = value.lstrip("=").split(",")
        found = [name for name in interfaces for one in names if (name == one if exact else name.startswith(one))]
        if not found:
            diagnosis.wrong(
                f"{variable} is '{value}', but no interface of this machine is called so: {', '.join(interfaces)}.",
                f"Set it to one of them, or unset {variable}.",
            )
    diagnosis.info(f"Network interfaces: {', '.join(interfaces)}.")


def check_variables(diagnosis: Diagnosis, environment: Mapping[str, str]) -> None:
    """What is set that changes the exchange."""
    for name, what in SLOWING.items():
        if environment.get(name) == "1":
            diagnosis.warn(f"{name}=1: {what}.", f"Unset {name} once what it was set for is found.")
    if environment.get("TORCH_DISTRIBUTED_DEBUG", "").upper() == "DETAIL":
        diagnosis.warn("TORCH_DISTRIBUTED_DEBUG=DETAIL checks every exchange, which is slow.", "Unset it to train.")
    others = {name: value for name, value in environment.items() if name.startswith(PREFIXES)}
    if others:
        diagnosis.info("Set: " + ", ".join(f"{name}={value[:60]}" for name, value in sorted(others.items())) + ".")


def check_devices(diagnosis: Diagnosis, here: Place | None, devices: int | None, gpus: int) -> None:
    """Processes against GPUs, or cores."""
    count = here.local_world_size if here else devices
    if here:
        diagnosis.info(f"A launcher has started {here.world_size} processes on {here.nodes} node(s); this is rank "
                       f"{here.rank}.")  # fmt: skip
    if count is None:
        return
    if gpus and count > gpus:
        diagnosis.wrong(
            f"{count} processes on this node, but torch sees {gpus} GPU(s).",
            f"Start {gpus} (torchrun --nproc-per-node={gpus}, hw.devices={gpus}), or see what hides the others: "
            "CUDA_VISIBLE_DEVICES, --gpus-per-task.",
        )
    elif not gpus and count > usable_cpus():
        diagnosis.warn(
            f"{count} processes on {usable_cpus()} core(s) wait for each other.", f"hw.devices={usable_cpus()} at most."
        )
    else:
        diagnosis.good(f"{count} process(es) on {f'{gpus} GPU(s)' if gpus else f'{usable_cpus()} core(s)'}.")


def _shared_memory(diagnosis: Diagnosis, gpus: int) -> None:
    """NCCL exchanges through it within a node; containers get 64 MB."""
    shared = Path("/dev/shm")
    if gpus > 1 and shared.is_dir() and (total := shutil.disk_usage(shared).total) < LITTLE_SHARED_BYTES:
        diagnosis.warn(
            f"/dev/shm has {size(total)}, too little for NCCL between processes.",
            "Start the container with --shm-size=8g or --ipc=host.",
        )


def _measure(diagnosis: Diagnosis, here: Place | None, devices: int | None, gpus: int) -> None:
    accelerator = "cuda" if gpus else "cpu"
    if here is not None and here.world_size > 1:
        processes = Processes(here, accelerator, MEETING_SECONDS)
        judge(diagnosis, measure(processes, accelerator), accelerator)
        processes.close()
        return
    count = (devices or gpus) if gpus else min(devices or 2, MOST_CPU_PROCESSES)
    if gpus and count < 2:
        diagnosis.info("There is one GPU: nothing to exchange with. Two processes on the CPU are tested.")
    if count < 2 or not gpus:
        count, accelerator = max(2, count), "cpu"
    try:
        judge(diagnosis, measure_in_own(count, accelerator), accelerator)
    except (MachineError, ValueError, OSError) as error:
        diagnosis.wrong(
            f"Processes of this machine cannot exchange tensors: {error}",
            "Look for a firewall on loopback, and at the variables above; NCCL_DEBUG=INFO makes NCCL say more.",
        )


def judge(diagnosis: Diagnosis, measured: Measured, accelerator: str) -> None:
    """What was measured, in words."""
    hosts = len(set(measured.hosts))
    where = f"{measured.world_size} processes on {hosts} machine(s), by {measured.backend}"
    wrong = [one for one in measured.sums if not one.right]
    for one in wrong:
        diagnosis.wrong(
            f"The sum of tensors of {size(one.num_bytes)} over {where} is wrong.",
            "Do not train on this: a GPU, its memory or a link is broken. Leave out devices with CUDA_VISIBLE_DEVICES "
            "until it is right.",
        )
    if not wrong:
        diagnosis.good(f"The sums of tensors over {where} are right, bit for bit.")
    for one in measured.sums:
        took, carried = f"{one.seconds * 1e3:.3g} ms", f"{size(one.bus_bytes_per_second)}/s"
        diagnosis.info(f"All-reduce of {size(one.num_bytes)}: {took}, {carried} a link.")
    speeds = [speed for _, _, speed in measured.links]
    middle = median(speeds)
    diagnosis.info("From each process to the next: " + ", ".join(f"{a} to {b} {size(speed)}/s" for a, b, speed in
                   measured.links[:16]) + ".")  # fmt: skip
    for sender, receiver, speed in measured.links:
        if measured.world_size > 2 and speed < SLOW_SHARE * middle:
            between = f" ({measured.hosts[sender]} to {measured.hosts[receiver]})" if hosts > 1 else ""
            diagnosis.warn(
                f"From rank {sender} to {receiver}{between} it is slow: {size(speed)}/s, where others have "
                f"{size(middle)}/s.",
                "All wait for the slowest link: look at how these are connected (nvidia-smi topo -m, the network).",
            )
    largest = measured.sums[-1]
    if accelerator == "cuda" and hosts == 1 and largest.bus_bytes_per_second < SLOW_GPU_BYTES:
        diagnosis.warn(
            f"The GPUs exchange {size(largest.bus_bytes_per_second)}/s, less than PCIe should carry.",
            "See that NCCL_P2P_DISABLE is not set, and doctor gpu for how they are connected.",
        )


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except OSError:
            return False
    return True
