"""What is said of GPUs, by what driver and torch say."""

import dataclasses

import pytest

from nanochat_pl.core.gpus import Driver, Gpu, GpuProcess
from nanochat_pl.core.hardware import HardwareSpec
from nanochat_pl.diagnosis.diagnosis import Diagnosis
from nanochat_pl.diagnosis.gpu import TorchBuild, diagnose, judge_build, judge_chips, judge_gpu

IDLE = Gpu(
    index=0, name="NVIDIA H100 80GB HBM3", bus_id="00000000:01:00.0", memory_total_bytes=80 * 2**30,
    memory_free_bytes=79 * 2**30, temperature_celsius=35.0, slowdown_celsius=None, power_watts=70.0,
    power_limit_watts=700.0, sm_clock_mhz=345.0, max_sm_clock_mhz=1980.0, utilization=0.0, slowed_by=(),
    uncorrected_errors=0, needs_reset=False, mig=False, processes=(),
)  # fmt: skip
DRIVER = Driver("550.54.15", "12.4", (IDLE,))
H100 = (IDLE.name, (9, 0))
CUDA = TorchBuild("2.13.0+cu124", "12.4", None, (H100,), ("sm_80", "sm_90"))
CPU = TorchBuild("2.13.0+cpu", None, None)


def of_build(build: TorchBuild, driver: Driver | str, has_device: bool = True) -> Diagnosis:
    diagnosis = Diagnosis("gpu", "here")
    judge_build(diagnosis, build, driver, has_device)
    return diagnosis


def said(diagnosis: Diagnosis) -> str:
    return " ".join(finding.what for finding in diagnosis.findings)


@pytest.mark.parametrize(
    ("build", "driver", "has_device", "words", "sound"),
    [
        (CUDA, DRIVER, True, "torch 2.13.0+cu124, built for CUDA 12.4", True),
        (CPU, "There is no nvidia-smi.", False, "No GPU is here. There is no nvidia-smi.", True),
        (CPU, DRIVER, True, "is a build for CPUs only, on a machine with an NVIDIA GPU", False),
        (CPU, "nvidia-smi failed: version mismatch", True, "its driver does not answer. nvidia-smi failed", False),
        (dataclasses.replace(CUDA, devices=()), DRIVER, True, "sees none of the GPUs", False),
        (dataclasses.replace(CUDA, cuda="13.0"), DRIVER, True, "runs CUDA up to 12.4", False),
        (CUDA, Driver("1", "12.4", (IDLE, IDLE)), True, "torch sees 1 of 2 GPUs", True),
        (dataclasses.replace(CPU, mps=True), "There is no nvidia-smi.", False, "built for CPUs only", True),
    ],
    ids=["right", "cpu", "cpu build", "no driver", "hidden", "old driver", "some", "apple"],
)
def test_torch_and_driver(build: TorchBuild, driver: Driver | str, has_device: bool, words: str, sound: bool) -> None:
    diagnosis = of_build(build, driver, has_device)
    assert words in said(diagnosis) and diagnosis.sound == sound
    assert all(finding.advice for finding in diagnosis.findings if finding.severity == "error")


@pytest.mark.parametrize(
    ("change", "words", "sound"),
    [
        ({}, "85.9 GB free", True),
        (
            {"memory_free_bytes": 2**30, "processes": (GpuProcess(7, "/usr/bin/python", None),)},
            "7 python are on",
            False,
        ),
        ({"slowed_by": ("heat (hardware)",), "temperature_celsius": 92.0}, "slowed down by heat (hardware)", False),
        ({"temperature_celsius": 84.0}, "near its limit", False),
        ({"temperature_celsius": 84.0, "slowdown_celsius": 95.0}, "84 C", True),
        ({"slowed_by": ("power limit",), "utilization": 0.98}, "runs at its power limit", True),
        ({"slowed_by": ("power limit",)}, "70 of 700 W", True),
        ({"slowed_by": ("power brake",)}, "by its power supply", False),
        ({"uncorrected_errors": 3}, "3 uncorrected errors", False),
        ({"needs_reset": True}, "has had a fault", False),
        ({"mig": True, "memory_free_bytes": 0}, "is split by MIG", True),
        ({"memory_total_bytes": None, "memory_free_bytes": None, "power_watts": None}, "its memory is not told", True),
    ],
)
def test_one_gpu(change: dict[str, object], words: str, sound: bool) -> None:
    diagnosis = Diagnosis("gpu", "here")
    judge_gpu(diagnosis, dataclasses.replace(IDLE, **change))  # type: ignore[arg-type]
    assert words in said(diagnosis) and diagnosis.sound == sound, said(diagnosis)


@pytest.mark.parametrize(
    ("devices", "architectures", "words", "sound"),
    [
        ((("Tesla T4", (7, 5)),), ("sm_75",), "does not multiply in bfloat16", False),
        ((H100,), ("sm_80",), "has no kernels for NVIDIA H100", False),
        ((("New", (12, 0)),), ("sm_90", "compute_90"), "it is not in the table of chips", True),
        ((("NVIDIA A100-SXM4-80GB", (8, 0)),), ("sm_80",), "A100-SXM4-80GB: bfloat16, attention by", True),
        ((H100,), ("sm_90a",), "bfloat16, float8", True),
        ((H100, ("NVIDIA A100-SXM4-80GB", (8, 0))), (), "The GPUs differ", False),
    ],
)
def test_chips(
    devices: tuple[tuple[str, tuple[int, int]], ...], architectures: tuple[str, ...], words: str, sound: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("nanochat_pl.diagnosis.gpu._attention", lambda: "flash")  # which only a GPU can tell
    diagnosis = Diagnosis("gpu", "here")
    judge_chips(diagnosis, dataclasses.replace(CUDA, devices=devices, architectures=architectures))
    assert words in said(diagnosis) and diagnosis.sound == sound, said(diagnosis)


def test_this_machine_and_a_profile() -> None:
    assert "core(s)" in said(diagnose())
    assert "The hardware profile fits: 1 x" in said(diagnose(HardwareSpec(accelerator="cpu")))
    misfit = diagnose(HardwareSpec(accelerator="cuda", chip="H100", devices=64))
    assert not misfit.sound and "asks for 64 x H100" in said(misfit)
