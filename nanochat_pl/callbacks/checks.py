"""Before the long parts begin: what of this machine would end or spoil the training later.

A hook of Lightning's comes too late: the micro-batch has been tried out by then, and the data opened. So `prepare`
asks, as soon as there is a plan. What is checked elsewhere is not checked here: whether the profile's devices are there
(core/hardware.py), the port where the processes meet (core/distributed.py), tokenizers by their fingerprints and data
as they are opened and read, the disk's room for shards (data/hub/space.py).
"""

import contextlib
import logging
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from nanochat_pl.core.errors import MachineError
from nanochat_pl.core.figures import size
from nanochat_pl.core.findings import Finding, announce, read_events
from nanochat_pl.core.gpus import Driver, NoDriver, has_nvidia_device, read_driver
from nanochat_pl.core.invocation import git_commit
from nanochat_pl.core.memory import available_memory_bytes
from nanochat_pl.core.paths import cache_root
from nanochat_pl.core.place import ALONE, Place
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.planning.memory import STATE
from nanochat_pl.planning.plan import Plan

log = logging.getLogger(__name__)

CACHE_BYTES = 500_000_000
"""Tokenizers and compiled kernels need less."""
LATE_SECONDS = 120
"""So far machines that share a folder may differ."""
YEARS = range(2025, 2100)


class Checks(Callback):
    """Looks at memory, disk, driver, clock and code once, and says in a line what it saw.

    What cannot end well is raised, what may not is announced as a finding of kind "check".
    """

    def before(
        self, run: RunFolder, plan: Plan, step: int, keep: Any, place: Place = ALONE, is_asked_for: bool = False
    ) -> None:
        """Look at everything; by the first process of a run.

        Args:
            step: from which it goes on.
            keep: the rule by which checkpoints are kept (`checkpoint.saved.Keep`); None: none are written.
            is_asked_for: the accelerator was named, not chosen as the best that is here.

        Raises:
            MachineError: it would fail: no room for the first checkpoint, or none on the device for the model.
        """
        looks = _memory(plan, place), _disk(run, plan, keep), _clock(run), _driver(plan, is_asked_for), _code()
        seen = [one for look in looks for one in look]
        log.info("%10s  %s", "checked", "; ".join(one for one in seen if isinstance(one, str)))
        _announce(run, step, seen)

    def own_device(self, run: RunFolder, plan: Plan, step: int, place: Place) -> None:
        """Look at the device of one of the other processes.

        Raises:
            MachineError: it has no room for the model.
        """
        if plan.hardware.accelerator != "cpu":  # else they share the memory that the first has looked at
            _announce(run, step, _memory(plan, place))


Seen = str | tuple[str, str]
"""What is said on the screen in any case; or what is wrong and what to do about it."""


def _announce(run: RunFolder, step: int, seen: Iterable[Seen]) -> None:
    for one in seen:
        if not isinstance(one, str):
            announce(run, Finding("check", step, *one))


def _memory(plan: Plan, place: Place) -> Iterator[Seen]:
    """Whether what others have left of the device's memory is enough."""
    needed = plan.total_bytes - plan.memory_bytes["framework"]  # of which much is taken already
    if plan.hardware.accelerator == "cuda":
        import torch

        free, total = torch.cuda.mem_get_info(place.local_rank)
        state = sum(plan.memory_bytes[name] for name in STATE)
        yield from check_gpu_memory(place.local_rank, free, total, needed, state)
    elif plan.hardware.accelerator == "cpu" and (free_bytes := available_memory_bytes()) is not None:
        needed *= place.local_world_size
        yield f"memory {size(free_bytes)} free"
        if needed > free_bytes:
            yield (
                f"{size(free_bytes)} of the main memory are free, and the training takes about {size(needed)}.",
                "End other programs, or make it smaller: hw.tokens_per_device=, model.depth=.",
            )


def check_gpu_memory(device: int, free: int, total: int, needed: int, state: int) -> Iterator[Seen]:
    """Compare bytes of one GPU.

    Args:
        state: what of `needed` does not shrink with the micro-batch.

    Raises:
        MachineError: not even that is free.
    """
    yield f"GPU {size(free)} of {size(total)} free"
    if needed > free:
        said = (
            f"GPU {device} has {size(free)} of its {size(total)} free{_others_on_gpus()}, and the training takes about "
            f"{size(needed)}."
        )
        advice = "End what else is on it, or choose another GPU with CUDA_VISIBLE_DEVICES"
        if state > free:
            raise MachineError(f"{said} {advice}.")
        yield said, f"{advice}, or take smaller micro-batches with hw.tokens_per_device=."


def _others_on_gpus() -> str:
    try:
        driver = read_driver()
    except NoDriver:
        return ""
    shown = [
        f"{Path(process.name).name} {process.pid} with {size(process.memory_bytes or 0)} on GPU {gpu.index}"
        for gpu in driver.gpus
        for process in gpu.processes
        if process.pid != os.getpid()
    ]
    return f" ({', '.join(shown[:4])})" if shown else ""


def _disk(run: RunFolder, plan: Plan, keep: Any) -> Iterator[Seen]:
    """Whether checkpoints and model have room, and the caches."""
    weights = plan.cost.weight_bytes
    checkpoint = weights + plan.memory_bytes["optimizer"] * plan.hardware.world_size if keep else 0
    files = [*run.checkpoints.glob("*"), *run.model.glob("*")]
    there = sum(path.stat().st_size for path in files if path.is_file() and not path.is_symlink())
    # The model is written beside the one that it replaces.
    wanted = (keep.most_bytes(checkpoint, plan.horizon.steps) if keep else 0) + 2 * weights - there
    free = shutil.disk_usage(run.path).free
    yield f"disk {size(free)} free, {size(max(0, wanted))} wanted"
    room = "Free some space, or point NANOCHAT_PL_RUNS to another disk"
    if checkpoint + weights > free:
        raise MachineError(
            f"The disk of {run.path} has {size(free)} free, but the first checkpoint and the model take "
            f"{size(checkpoint + weights)}. {room}, and run the same command again."
        )
    cache = next(folder for folder in (cache_root(), *cache_root().absolute().parents) if folder.exists())
    if wanted > free:
        yield (
            f"The disk of {run.path} has {size(free)} free, the checkpoints will take {size(wanted)} more.",
            f"{room}, or keep fewer: callbacks.checkpoints.keep_last=1 or budget_gigabytes=.",
        )
    elif (left := shutil.disk_usage(cache).free) < CACHE_BYTES:
        yield (
            f"The disk of the caches, {cache}, has {size(left)} free.",
            "Free some space, or point NANOCHAT_PL_CACHE to another disk.",
        )


def _clock(run: RunFolder) -> Iterator[Seen]:
    """Whether the clock may be right: certificates and records depend on it."""
    now = time.time()
    advice = "Set the clock (timedatectl set-ntp true): downloads are refused and records are in disorder else."
    if (year := time.gmtime(now).tm_year) not in YEARS:
        yield f"By this machine's clock it is the year {year}.", advice
        return
    with contextlib.suppress(IndexError, KeyError, ValueError):  # no event, or not written by this program
        last = datetime.strptime(str(read_events(run)[-1]["time"]), "%Y-%m-%dT%H:%M:%S%z").timestamp()
        if last > now + LATE_SECONDS:
            yield f"This machine's clock is {(last - now) / 60:,.0f} minutes behind the run's last event.", advice


def _driver(plan: Plan, is_asked_for: bool) -> Iterator[Seen]:
    """The driver; where the CPU was chosen, whether there is a GPU that torch cannot use."""
    is_cpu = plan.hardware.accelerator == "cpu"
    if plan.hardware.accelerator == "mps" or (is_cpu and (is_asked_for or not has_nvidia_device())):
        return
    import torch

    try:
        driver = read_driver()
    except NoDriver as error:
        if is_cpu:
            yield (
                f"There is an NVIDIA GPU, but the training runs on the CPU: {error}",
                "Install NVIDIA's driver, or say hw=cpu to train on the CPU without this warning.",
            )
        return
    yield f"driver {driver.version} (CUDA {driver.cuda})"
    if is_cpu:
        yield cpu_beside_gpu(driver, torch.version.cuda)
    elif spoilt := ", ".join(f"GPU {gpu.index} ({gpu.name})" for gpu in driver.gpus if gpu.needs_reset):
        yield f"The driver asks for a reset of {spoilt}.", "Reset it when nobody uses it."


def cpu_beside_gpu(driver: Driver, built_for: str | None) -> tuple[str, str]:
    """Why torch trains on the CPU although there is a GPU, and what to do.

    Args:
        built_for: the CUDA version that torch was built for; None: for none.
    """
    said = f"There is an NVIDIA GPU (driver {driver.version}, CUDA {driver.cuda}), but the training runs on the CPU: "
    calm = "or say hw=cpu to train on the CPU without this warning."
    if built_for is None:
        return f"{said}this torch was built without CUDA.", f"Install torch for CUDA {driver.cuda} or older, {calm}"
    if _version(built_for) > _version(driver.cuda):
        return (
            f"{said}this torch was built for CUDA {built_for}, which is newer than the driver.",
            f"Update the driver, or install torch for CUDA {driver.cuda} or older, {calm}",
        )
    return f"{said}torch cannot use it.", f"See that CUDA_VISIBLE_DEVICES does not hide it, {calm}"


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)[:2]))


def _code() -> Iterator[Seen]:
    """The commit, which a record without changes beside it can be repeated from."""
    if commit := git_commit():
        yield f"code {commit[:9]}{' with uncommitted changes' if commit.endswith('+changes') else ''}"
