"""doctor gpu: what this machine trains on, and whether driver, torch and GPU work together."""

import importlib.util
import os
import platform
from dataclasses import dataclass
from typing import Any

from nanochat_pl.core.chips import device_name, find_chip
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.figures import size
from nanochat_pl.core.gpus import Driver, Gpu, NoDriver, has_nvidia_device, links, read_driver, read_topology
from nanochat_pl.core.hardware import HardwareSpec
from nanochat_pl.core.memory import available_memory_bytes, usable_cpus
from nanochat_pl.diagnosis.diagnosis import Diagnosis

LITTLE_FREE = 0.9
"""A GPU of whose memory less than this share is free is not this training's alone."""
HOT_CELSIUS = 85.0
"""Where the driver does not say at what temperature the chip is slowed down."""
BFLOAT16_FROM, FLOAT8_FROM = (8, 0), (8, 9)
"""Compute capabilities from which a chip multiplies in them."""
INSTALL_TORCH = "pytorch.org/get-started has the command that installs the build for this driver."


@dataclass(frozen=True)
class TorchBuild:
    """What torch says of itself and of the GPUs.

    Attributes:
        cuda: that it was built for, "12.8"; None: a build for CPUs (or ROCm).
        rocm: of AMD, likewise.
        devices: names of the GPUs that it sees, with their compute capability.
        architectures: that it has kernels for, as sm_90.
        mps: it sees an Apple GPU.
    """

    version: str
    cuda: str | None
    rocm: str | None
    devices: tuple[tuple[str, tuple[int, int]], ...] = ()
    architectures: tuple[str, ...] = ()
    mps: bool = False

    @classmethod
    def here(cls) -> "TorchBuild":
        """Of the torch that is installed."""
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return cls(
            version=torch.__version__,
            cuda=torch.version.cuda,
            rocm=torch.version.hip,
            devices=tuple((torch.cuda.get_device_name(i), torch.cuda.get_device_capability(i)) for i in range(count)),
            architectures=tuple(torch.cuda.get_arch_list()) if count else (),
            mps=torch.backends.mps.is_available(),
        )


def diagnose(hw: HardwareSpec | None = None) -> Diagnosis:
    """Look at this machine."""
    diagnosis = Diagnosis("gpu", platform.node() or "this machine")
    build = TorchBuild.here()
    try:
        driver: Driver | str = read_driver()
    except NoDriver as error:
        driver = str(error)
    judge_build(diagnosis, build, driver, has_nvidia_device())
    if isinstance(driver, Driver):
        for gpu in driver.gpus:
            judge_gpu(diagnosis, gpu)
        if len(driver.gpus) > 1:
            _connections(diagnosis)
    if build.devices:
        judge_chips(diagnosis, build)
    _processor(diagnosis, build)
    if hw is not None:
        try:
            found = hw.detect()
            diagnosis.good(f"The hardware profile fits: {found.devices} x {found.chip.name}, {found.precision}.")
        except UserError as error:
            diagnosis.wrong(str(error), "")
    return diagnosis


def judge_build(diagnosis: Diagnosis, build: TorchBuild, driver: Driver | str, has_device: bool) -> None:
    """Whether torch can use the GPUs that there are.

    Args:
        driver: or why there is none.
        has_device: an NVIDIA GPU is in the machine.
    """
    works = isinstance(driver, Driver) and bool(driver.gpus)
    if isinstance(driver, str) and has_device:
        diagnosis.wrong(
            f"An NVIDIA GPU is in this machine, but its driver does not answer. {driver}",
            "Install the driver, or in a container start it with the GPUs (docker run --gpus all); after an update of "
            "the driver, restart the machine.",
        )
    elif not works and not build.mps and not build.rocm:
        said = driver if isinstance(driver, str) else "The driver knows of no GPU."
        diagnosis.info(f"No GPU is here. {said}", "Training on the CPU works: python train.py hw=cpu")
    if isinstance(driver, Driver):
        diagnosis.info(f"Driver {driver.version}, for CUDA up to {driver.cuda}; {len(driver.gpus)} GPU(s).")
    kind = f"CUDA {build.cuda}" if build.cuda else f"ROCm {build.rocm}" if build.rocm else "CPUs only"
    if works and not build.cuda:
        diagnosis.wrong(
            f"torch {build.version} is a build for {kind}, on a machine with an NVIDIA GPU: it will not be used.",
            INSTALL_TORCH,
        )
    elif isinstance(driver, Driver) and works and build.cuda and _number(driver.cuda)[0] < _number(build.cuda)[0]:
        diagnosis.wrong(
            f"torch {build.version} was built for CUDA {build.cuda}, but driver {driver.version} runs CUDA up to "
            f"{driver.cuda}.",
            f"Update the driver, or take a torch that was built for CUDA {driver.cuda} or less. {INSTALL_TORCH}",
        )
    elif works and not build.devices:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = f"CUDA_VISIBLE_DEVICES is '{hidden}'" if hidden is not None else "it gives no reason"
        diagnosis.wrong(
            f"torch {build.version} (CUDA {build.cuda}) sees none of the GPUs: {why}.",
            "Unset CUDA_VISIBLE_DEVICES. If it is not set, this says what fails:\n"
            "python -c 'import torch; torch.cuda.init()'",
        )
    elif isinstance(driver, Driver) and works and len(build.devices) < len(driver.gpus):
        diagnosis.info(
            f"torch sees {len(build.devices)} of {len(driver.gpus)} GPUs "
            f"(CUDA_VISIBLE_DEVICES is '{os.environ.get('CUDA_VISIBLE_DEVICES', '')}')."
        )
    else:
        diagnosis.good(f"torch {build.version}, built for {kind}.")


def judge_gpu(diagnosis: Diagnosis, gpu: Gpu) -> None:
    """Memory, heat, clocks, faults, and who else is on it."""
    name = f"GPU {gpu.index}, {gpu.name}"
    before = len(diagnosis.findings)
    free, total = gpu.memory_free_bytes, gpu.memory_total_bytes
    memory = f"{size(free)} of {size(total)} free" if free is not None and total else "its memory is not told"
    others = ", ".join(f"{one.pid} {os.path.basename(one.name)}" for one in gpu.processes[:4])
    more = f" and {len(gpu.processes) - 4} more" if len(gpu.processes) > 4 else ""
    if free is not None and total and free < LITTLE_FREE * total and not gpu.mig:
        who = f"the processes {others}{more} are on it" if others else "processes that are not shown here hold the rest"
        diagnosis.warn(
            f"{name}: {memory}; {who}.",
            "End what need not run, or take other GPUs with CUDA_VISIBLE_DEVICES; hw.tokens_per_device=auto takes what "
            "is left.",
        )
    if gpu.mig:
        diagnosis.info(f"{name} is split by MIG: each part is a device of its own, and one process sees one of them.")
    if gpu.uncorrected_errors or gpu.needs_reset:
        count = f"{gpu.uncorrected_errors} uncorrected errors of its memory" if gpu.uncorrected_errors else "a fault"
        diagnosis.wrong(
            f"{name} has had {count} since the driver was loaded.",
            "What it computed may be wrong: go back to a checkpoint from before, let its administrator reset it, and "
            "have it replaced if that comes again.",
        )
    _judge_speed(diagnosis, gpu, name)
    if len(diagnosis.findings) == before or (gpu.mig and len(diagnosis.findings) == before + 1):
        heat = "" if gpu.temperature_celsius is None else f", {gpu.temperature_celsius:.0f} C"
        power = "" if gpu.power_watts is None else f", {gpu.power_watts:.0f} of {gpu.power_limit_watts or 0:.0f} W"
        diagnosis.good(f"{name}: {memory}{heat}{power}.")


def _judge_speed(diagnosis: Diagnosis, gpu: Gpu, name: str) -> None:
    limit = gpu.slowdown_celsius or HOT_CELSIUS
    hot = gpu.temperature_celsius is not None and gpu.temperature_celsius >= limit - 3
    clocks = {"sm_clock_mhz": gpu.sm_clock_mhz, "max_mhz": gpu.max_sm_clock_mhz, "celsius": gpu.temperature_celsius}
    evidence: dict[str, Any] = {key: value for key, value in clocks.items() if value is not None}
    heat = [reason for reason in gpu.slowed_by if "heat" in reason or reason == "hardware slowdown"]
    if hot or heat:
        diagnosis.warn(
            f"{name} is slowed down by {', '.join(heat) or 'nothing yet, but it is near its limit'}.",
            "Look at its fans and the room's air; nvidia-smi -pl WATTS lowers the power and so the heat.",
            **evidence,
        )
    elif "power brake" in gpu.slowed_by:
        diagnosis.warn(f"{name} is slowed down by its power supply.", "Its machine has too little power.", **evidence)
    elif "power limit" in gpu.slowed_by and (gpu.utilization or 0) > 0.5:
        diagnosis.info(f"{name} runs at its power limit, as under full load it does.", **evidence)


def judge_chips(diagnosis: Diagnosis, build: TorchBuild) -> None:
    """What the chips that torch sees can do: bfloat16, float8, fast attention."""
    kinds = sorted(set(build.devices))
    if len(kinds) > 1:
        diagnosis.warn(
            f"The GPUs differ: {', '.join(name for name, _ in kinds)}; the slowest sets the pace.",
            "Take those of one kind with CUDA_VISIBLE_DEVICES.",
        )
    for name, capability in kinds:
        dotted = ".".join(map(str, capability))
        if build.architectures and not _has_kernels(build.architectures, capability):
            diagnosis.wrong(
                f"torch {build.version} has no kernels for {name} (compute capability {dotted}; it has "
                f"{', '.join(build.architectures)}).",
                INSTALL_TORCH,
            )
        if capability < BFLOAT16_FROM:
            diagnosis.warn(
                f"{name} (compute capability {dotted}) does not multiply in bfloat16.",
                "Take hw.precision=float16, or float32.",
            )
            continue
        float8 = "" if capability < FLOAT8_FROM else ", float8"
        if float8 and importlib.util.find_spec("torchao") is None:
            float8 += " (which needs torchao: pip install 'nanochat-pl[fp8]')"
        unknown = "" if find_chip(name) else "; it is not in the table of chips, so that plans measure its speed"
        diagnosis.good(f"{name}: bfloat16{float8}, attention by {_attention()}{unknown}.", capability=dotted)


def _has_kernels(architectures: tuple[str, ...], capability: tuple[int, int]) -> bool:
    """Kernels run on their own generation from their own capability on; compute_ ones (PTX) on any later chip."""
    major, minor = capability
    for architecture in architectures:
        kind, _, number = architecture.partition("_")
        digits = "".join(filter(str.isdigit, number))
        if not digits:
            continue
        theirs = int(digits[:-1] or 0), int(digits[-1])
        if (kind == "sm" and theirs[0] == major and theirs[1] <= minor) or (kind == "compute" and theirs <= capability):
            return True
    return False


def _attention() -> str:
    import torch

    from nanochat_pl.nn.attention.choose import choose

    return choose(None, "cuda", torch.bfloat16).name


def _connections(diagnosis: Diagnosis) -> None:
    try:
        kinds = links(read_topology())
    except NoDriver as error:
        diagnosis.info(f"How the GPUs are connected is not known: {error}")
        return
    shown = ", ".join(f"{pairs} by {kind}" for kind, pairs in sorted(kinds.items()))
    if slow := [kind for kind in kinds if not kind.startswith("NV")]:
        diagnosis.info(
            f"Pairs of GPUs are connected: {shown}. {', '.join(slow)} is PCIe or slower, not NVLink.",
            "Gradients take longer there; python -m nanochat_pl doctor distributed measures it.",
        )
    elif kinds:
        diagnosis.good(f"All pairs of GPUs are connected by NVLink: {shown}.")


def _processor(diagnosis: Diagnosis, build: TorchBuild) -> None:
    """The CPU and main memory, which feed a GPU where there is one."""
    import torch

    if build.mps:
        diagnosis.good(f"{device_name('mps')}: Apple's GPU works (hw=mps).")
    available, cores, threads = available_memory_bytes(), usable_cpus(), torch.get_num_threads()
    left = "" if available is None else f", {size(available)} of memory left"
    diagnosis.good(f"{device_name('cpu')}: {cores} core(s), {threads} thread(s) of torch{left}. hw=cpu works.")
    if not build.devices and not build.mps and threads < cores // 2:
        diagnosis.info(
            f"torch uses {threads} of {cores} cores (OMP_NUM_THREADS is '{os.environ.get('OMP_NUM_THREADS', '')}').",
            f"hw.threads={cores} uses all.",
        )


def _number(version: str) -> tuple[int, ...]:
    """ "12.4" as (12, 4); (0,) for what is none."""
    return tuple(int(part) for part in version.split(".") if part.isdigit()) or (0,)
