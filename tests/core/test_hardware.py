"""Profiles against machines: what fits, what is said of what does not, what is planned for elsewhere."""

from types import SimpleNamespace

import pytest
import torch

from nanochat_pl.core.chips import CHIPS
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.hardware import HardwareSpec
from nanochat_pl.core.spec import call_checked

H100X8 = HardwareSpec(accelerator="cuda", chip="H100", devices=8, precision="bfloat16")


def be_machine(monkeypatch: pytest.MonkeyPatch, name: str | None, count: int) -> None:
    """Let torch tell of `count` GPUs of this name."""
    memory = SimpleNamespace(total_memory=80 * 10**9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: name is not None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: name)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: memory)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("name", "count", "words"),
    [
        (None, 0, ("hw=h100x8 asks for 8 x H100, but this machine has no CUDA GPU.", "fits: hw=cpu.")),
        ("NVIDIA H100 80GB HBM3", 1, ("but this machine has 1 x H100.", "fits: hw=h100x1.")),
        ("NVIDIA H100 80GB HBM3", 4, ("but this machine has 4 x H100.", "fits: hw.devices=4.")),
        ("NVIDIA A100-SXM4-80GB", 8, ("but this machine has 8 x A100.", "fits: hw=a100x8.")),
        ("Tesla V100-SXM2-16GB", 8, ("but this machine has 8 x Tesla V100-SXM2-16GB.", "fits: hw=auto hw.devices=8.")),
    ],
)
def test_a_profile_for_another_machine_names_the_nearest_that_fits(
    name: str | None, count: int, words: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    be_machine(monkeypatch, name, count)
    with pytest.raises(UserError) as raised:
        H100X8.detect()
    message = str(raised.value)
    assert all(part in message for part in words), message
    assert "\n" not in message
    planned = H100X8.assume()
    assert (planned.chip, planned.world_size, planned.precision) == (CHIPS["H100"], 8, "bfloat16")


def test_a_profile_fits_any_kind_of_its_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    be_machine(monkeypatch, "NVIDIA H100 PCIe", 8)
    found = H100X8.detect()
    assert found.chip.name == "H100 PCIe" and found.chip.memory_bytes == 80 * 10**9
    assert H100X8.assume() == found
    assert HardwareSpec(accelerator="cpu").detect().accelerator == "cpu"


def test_under_srun_a_task_must_see_all_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    be_machine(monkeypatch, "NVIDIA H100 80GB HBM3", 1)
    monkeypatch.setenv("SLURM_LOCALID", "3")
    with pytest.raises(UserError, match=r"sees 1 of the 8 devices of its node.*--gpus-per-node"):
        H100X8.detect()


def test_precision_follows_the_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    be_machine(monkeypatch, "NVIDIA A100-SXM4-80GB", 1)
    assert HardwareSpec().detect().precision == "bfloat16"
    be_machine(monkeypatch, None, 0)
    assert HardwareSpec().detect().precision == "float32"
    assert HardwareSpec(accelerator="mps").assume().precision == "float32"


def test_what_is_open_is_planned_for_a_usual_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    be_machine(monkeypatch, None, 0)
    planned = HardwareSpec(accelerator="cuda", devices=8, nodes=2).assume()
    assert (planned.chip.name, planned.world_size) == ("H100", 16)


def test_the_micro_batch_of_the_plan_is_kept_on_the_same_chips_only() -> None:
    auto = HardwareSpec(accelerator="cpu", tokens_per_device="auto")
    fresh = auto.detect()
    decided = {
        "accelerator": "cpu",
        "chip": {"name": fresh.chip.name},
        "devices": 1,
        "precision": "float32",
        "tokens_per_device": 512,
    }
    assert fresh.tokens_per_device is None
    assert auto.detect(decided).tokens_per_device == 512
    assert auto.detect(decided | {"devices": 2}).tokens_per_device is None
    assert auto.detect(decided | {"chip": {"name": "another"}}).tokens_per_device is None
    assert HardwareSpec(accelerator="cpu", tokens_per_device=64).detect(decided).tokens_per_device == 64
    assert HardwareSpec(accelerator="cpu").detect().tokens_per_device == 2048


def test_processes_on_a_cpu_share_its_memory() -> None:
    one, two = (HardwareSpec(accelerator="cpu", devices=devices).detect() for devices in (1, 2))
    assert two.chip.memory_bytes == one.chip.memory_bytes // 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"chip": "H10"}, "did you mean 'H100'?"),
        ({"tokens_per_device": 0}, "hw.tokens_per_device is 0"),
        ({"tokens_per_device": "all"}, "tokens_per_device"),
        ({"devices": 0}, "hw.devices is 0"),
    ],
)
def test_a_wrong_option_is_refused(options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words.replace("?", r"\?")):
        call_checked(HardwareSpec, options, "hw")
