"""The table of chips against the names that torch tells and against Lightning's table of peaks."""

from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.throughput import _CUDA_FLOPS

from nanochat_pl.core.chips import CHIPS, FLOAT8_GAIN, Chip, device_name, find_chip, present_chip


@pytest.mark.parametrize(
    ("name", "chip"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA GeForce RTX 5090", "RTX 5090"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA A800 80GB PCIe", "A100"),
        ("NVIDIA A100 80GB PCIe", "A100"),
        ("Apple M4", "Apple M4"),
    ],
)
def test_a_device_is_found_by_the_name_that_torch_tells(name: str, chip: str) -> None:
    found = find_chip(name)
    assert found is not None and found.name == chip


OTHERS = [
    *("NVIDIA GeForce RTX 4090 Laptop GPU", "AMD EPYC 7763", "Tesla T4"),
    *("NVIDIA RTX A1000 Laptop GPU", "NVIDIA GH200 480GB", "Apple M4 Pro"),
]


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_in_the_table_is_not_taken_for_something_else(name: str) -> None:
    assert find_chip(name) is None


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("A100", "a100"),
        ("H100", "h100 sxm"),
        ("H100 PCIe", "h100 pcie"),
        ("L4", "l4"),
    ],
)
def test_peaks_are_those_of_lightnings_table(ours: str, theirs: str) -> None:
    assert CHIPS[ours].bfloat16_flops == pytest.approx(_CUDA_FLOPS[theirs][torch.bfloat16], rel=0.01)
    assert CHIPS[ours].float32_flops == pytest.approx(_CUDA_FLOPS[theirs]["tfloat32"], rel=0.01)


def test_where_lightnings_table_holds_other_figures() -> None:
    # Of the H200 it has those with sparsity; of the RTX 4090 those without tensor cores.
    assert 2 * CHIPS["H200"].bfloat16_flops == pytest.approx(_CUDA_FLOPS["h200 sxm1"][torch.bfloat16], rel=0.02)
    assert CHIPS["RTX 4090"].bfloat16_flops == pytest.approx(2 * _CUDA_FLOPS["rtx 4090"][torch.bfloat16], rel=0.01)


def test_training_speed_is_a_share_of_the_peak() -> None:
    chip = Chip("x", 1, bfloat16_flops=100.0, float32_flops=10.0, mfu=0.5)
    assert chip.training_flops("bfloat16") == chip.training_flops("float16") == 50
    assert chip.training_flops("float32") == 5
    assert chip.training_flops("float8") == pytest.approx(50 * FLOAT8_GAIN)
    assert Chip("y", 1).training_flops("float32") is None


def test_this_cpu_has_a_name_and_memory() -> None:
    chip = present_chip("cpu")
    assert chip.name and 2**28 < chip.memory_bytes < 2**50 and chip.pattern is None


def test_an_apple_chip_is_found_by_the_name_that_its_system_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sysctl = tmp_path / "sysctl"
    sysctl.write_text('#!/bin/sh\n[ "$*" = "-n machdep.cpu.brand_string" ] && echo "Apple M4"\n')
    sysctl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_chip(device_name("mps"))
    assert found is not None and found.name == "Apple M4"
    sysctl.unlink()
    assert device_name("mps").startswith("Apple ")
