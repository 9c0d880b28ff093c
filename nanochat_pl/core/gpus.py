"""What NVIDIA's driver says of the GPUs of this machine: memory, clocks, heat, faults, who else is on them."""

import re
import subprocess
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

ASKING_SECONDS = 20.0
"""A driver that has lost a GPU may never answer."""
SLOWING = {
    "sw_power_cap": "power limit",
    "hw_slowdown": "hardware slowdown",
    "hw_thermal_slowdown": "heat (hardware)",
    "hw_power_brake_slowdown": "power brake",
    "sw_thermal_slowdown": "heat",
}
"""Reasons for lower clocks that nobody has asked for, as nvidia-smi names them -> in words."""


class NoDriver(RuntimeError):
    """NVIDIA's driver says nothing: the message says why, in one sentence."""


@dataclass(frozen=True)
class GpuProcess:
    """A process on a GPU; its memory is None where the driver does not tell it (in a container)."""

    pid: int
    name: str
    memory_bytes: int | None


@dataclass(frozen=True)
class Gpu:
    """One GPU; None: the driver does not say.

    Attributes:
        bus_id: of PCI.
        sm_clock_mhz, max_sm_clock_mhz: of the multiprocessors, now and at most.
        slowed_by: why its clocks are lower than they could be; empty: they are not, or it is idle.
        uncorrected_errors: of its memory (ECC), since the driver was loaded.
        needs_reset: the driver recommends a reset, or rows of memory wait for one to be replaced.
        mig: it is split into several.
    """

    index: int
    name: str
    bus_id: str
    memory_total_bytes: int | None
    memory_free_bytes: int | None
    temperature_celsius: float | None
    slowdown_celsius: float | None
    power_watts: float | None
    power_limit_watts: float | None
    sm_clock_mhz: float | None
    max_sm_clock_mhz: float | None
    utilization: float | None
    slowed_by: tuple[str, ...]
    uncorrected_errors: int | None
    needs_reset: bool
    mig: bool
    processes: tuple[GpuProcess, ...]


@dataclass(frozen=True)
class Driver:
    """What nvidia-smi tells.

    Attributes:
        cuda: the newest CUDA that the driver runs, such as "12.4".
        gpus: in its order, which CUDA has too where CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """

    version: str
    cuda: str
    gpus: tuple[Gpu, ...]


def read_driver() -> Driver:
    """What the driver says now.

    Raises:
        NoDriver: there is none, or it does not work.
    """
    told = _ask("nvidia-smi", "-q", "-x")
    try:
        return parse_driver(told)
    except ValueError as error:
        raise NoDriver(f"nvidia-smi said what cannot be read: {error}.") from error


def parse_driver(text: str) -> Driver:
    """The output of `nvidia-smi -q -x`, of drivers from 470 on.

    Raises:
        ValueError: it is something else.
    """
    try:
        # Entities are what makes XML dangerous to read; the driver's has none.
        root = ElementTree.fromstring(re.sub(r"<!DOCTYPE[^>\[]*>", "", text))
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from error
    if root.tag != "nvidia_smi_log":
        raise ValueError(f"<{root.tag[:40]}> where <nvidia_smi_log> is expected")
    gpus = tuple(_gpu(index, gpu) for index, gpu in enumerate(root.findall("gpu")))
    return Driver(_text(root, "driver_version"), _text(root, "cuda_version"), gpus)


def read_topology() -> str:
    """How the GPUs are connected, as `nvidia-smi topo -m` draws it.

    Raises:
        NoDriver: it does not draw it.
    """
    return re.sub(r"\x1b\[[\d;]*m", "", _ask("nvidia-smi", "topo", "-m"))


def links(topology: str) -> dict[str, int]:
    """The kinds of connection between two GPUs (NV18, PIX, SYS ...) -> between how many pairs."""
    rows = [line.split() for line in topology.splitlines() if re.match(r"\s*GPU\d+\s.*\bX\b", line)]
    counts: dict[str, int] = {}
    for number, row in enumerate(rows):
        for kind in row[1:][number + 1 : len(rows)]:
            counts[kind] = counts.get(kind, 0) + 1
    return counts


def has_nvidia_device() -> bool:
    """Whether an NVIDIA GPU is in this (Linux) machine, with a driver or without."""
    for path in Path("/sys/bus/pci/devices").glob("*"):
        try:
            vendor, kind = (path / "vendor").read_text().strip(), (path / "class").read_text().strip()
        except OSError:
            continue
        if vendor == "0x10de" and kind.startswith("0x03"):
            return True
    return False


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=ASKING_SECONDS)
    except FileNotFoundError as error:
        raise NoDriver("There is no nvidia-smi: no NVIDIA driver on this machine.") from error
    except subprocess.TimeoutExpired as error:
        raise NoDriver(
            f"nvidia-smi did not answer within {ASKING_SECONDS:.0f} s: the driver or a GPU hangs."
        ) from error
    except OSError as error:
        raise NoDriver(f"nvidia-smi could not be started: {error}.") from error
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()
        raise NoDriver(f"nvidia-smi failed: {said[-1][:200] if said else f'exit code {done.returncode}'}")
    return done.stdout


def _gpu(index: int, gpu: ElementTree.Element) -> Gpu:
    """Newer drivers and older ones name some of it differently."""
    power = [f"{group}power_readings/" for group in ("gpu_", "")]
    draws = ("instant_power_draw", "power_draw", "average_power_draw")
    limits = ("current_power_limit", "enforced_power_limit", "power_limit")
    errors = [_numbers(one) for one in gpu.findall("ecc_errors/volatile/*") if "uncorrectable" in one.tag]
    resets = (
        "gpu_reset_status/reset_required",
        "remapped_rows/remapped_row_pending",
        "retired_pages/pending_retirement",
    )
    utilization = _number(gpu, "utilization/gpu_util")
    reasons = [f"clocks_{word}_reasons/clocks_{word}_reason_" for word in ("event", "throttle")]
    return Gpu(
        index=index,
        name=_text(gpu, "product_name"),
        bus_id=gpu.get("id", ""),
        memory_total_bytes=_bytes(gpu, "fb_memory_usage/total"),
        memory_free_bytes=_bytes(gpu, "fb_memory_usage/free"),
        temperature_celsius=_number(gpu, "temperature/gpu_temp"),
        slowdown_celsius=_number(gpu, "temperature/gpu_temp_slow_threshold"),
        power_watts=_number(gpu, *(group + name for group in power for name in draws)),
        power_limit_watts=_number(gpu, *(group + name for group in power for name in limits)),
        sm_clock_mhz=_number(gpu, "clocks/sm_clock"),
        max_sm_clock_mhz=_number(gpu, "max_clocks/sm_clock"),
        utilization=None if utilization is None else utilization / 100,
        slowed_by=tuple(
            what for path in reasons for name, what in SLOWING.items() if _text(gpu, path + name) == "Active"
        ),
        uncorrected_errors=round(sum(map(sum, errors))) if any(errors) else None,
        needs_reset=any(_text(gpu, path) == "Yes" for path in resets),
        mig=_text(gpu, "mig_mode/current_mig") == "Enabled",
        processes=tuple(
            GpuProcess(int(pid), _text(one, "process_name"), _bytes(one, "used_memory"))
            for one in gpu.findall("processes/process_info")
            if (pid := _text(one, "pid")).isdecimal()
        ),
    )


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _number(element: ElementTree.Element, *paths: str) -> float | None:
    """The first that is there: of "67.03 W"; None for "N/A" and the like."""
    return next((number for path in paths for one in element.findall(path) for number in _numbers(one)), None)


def _numbers(element: ElementTree.Element) -> list[float]:
    return [float(match[1])] if (match := re.match(r"\s*(-?\d+(?:\.\d+)?)", element.text or "")) else []


def _bytes(element: ElementTree.Element, path: str) -> int | None:
    mebibytes = _number(element, path)
    return None if mebibytes is None else round(mebibytes * 2**20)
