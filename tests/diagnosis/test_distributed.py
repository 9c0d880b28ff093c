"""doctor distributed: the environment by hand, the exchange in real processes."""

import dataclasses
import socket

import pytest

from nanochat_pl.core.errors import MachineError
from nanochat_pl.core.place import Place
from nanochat_pl.diagnosis import all_reduce, distributed
from nanochat_pl.diagnosis.all_reduce import AllReduce, Measured, measure_in_own
from nanochat_pl.diagnosis.diagnosis import Diagnosis

MEASURED = Measured(
    4, "nccl", [AllReduce(2**20, 1e-4, 2e10, True), AllReduce(2**28, 1e-3, 3e11, True)],
    [(0, 1, 3e11), (1, 2, 3e11), (2, 3, 1e10), (3, 0, 3e11)], ["a"] * 4,
)  # fmt: skip


def said(diagnosis: Diagnosis) -> str:
    return "\n".join(f"{finding.severity}: {finding.what}" for finding in diagnosis.findings)


@pytest.fixture
def diagnosis() -> Diagnosis:
    return Diagnosis("distributed", "here")


def test_where_processes_meet(diagnosis: Diagnosis) -> None:
    distributed.check_meeting(diagnosis, {"MASTER_ADDR": "no.such.host.invalid", "MASTER_PORT": "99999"}, None)
    assert "error: MASTER_ADDR is 'no.such.host.invalid'" in said(diagnosis) and "is no port" in said(diagnosis)
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        used = Diagnosis("distributed", "here")
        distributed.check_meeting(used, {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}, None)
        launched = Diagnosis("distributed", "here")
        distributed.check_meeting(launched, {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}, Place(0, 0, 2, 2))
    assert f"error: The port {port}" in said(used) and "good: MASTER_ADDR" in said(used)
    assert "The port" not in said(launched)


@pytest.mark.parametrize(
    ("variable", "value", "sound"),
    [
        ("NCCL_SOCKET_IFNAME", "eth", True),
        ("NCCL_SOCKET_IFNAME", "=eth", False),
        ("NCCL_SOCKET_IFNAME", "^docker", True),
        ("NCCL_SOCKET_IFNAME", "ib0,eth0", True),
        ("GLOO_SOCKET_IFNAME", "eth", False),
        ("GLOO_SOCKET_IFNAME", "eth0", True),
        ("GLOO_SOCKET_IFNAME", "", True),
    ],
)
def test_interfaces_that_are_named(diagnosis: Diagnosis, variable: str, value: str, sound: bool) -> None:
    distributed.check_interfaces(diagnosis, {variable: value}, ["lo", "eth0"])
    assert diagnosis.sound == sound


def test_variables_that_slow_down(diagnosis: Diagnosis) -> None:
    distributed.check_variables(diagnosis, {"NCCL_P2P_DISABLE": "0", "NCCL_DEBUG": "WARN", "HOME": "/root"})
    assert (
        diagnosis.sound and "NCCL_DEBUG=WARN, NCCL_P2P_DISABLE=0." in said(diagnosis) and "HOME" not in said(diagnosis)
    )
    distributed.check_variables(diagnosis, {"NCCL_P2P_DISABLE": "1", "TORCH_DISTRIBUTED_DEBUG": "detail"})
    assert said(diagnosis).count("warning:") == 2


@pytest.mark.parametrize(
    ("here", "devices", "gpus", "severity"),
    [
        (None, 8, 4, "error"),
        (None, 4, 4, "good"),
        (Place(3, 3, 8, 8), None, 4, "error"),
        (None, 4096, 0, "warning"),
        (None, 1, 0, "good"),
    ],
)
def test_processes_and_devices(
    diagnosis: Diagnosis, here: Place | None, devices: int | None, gpus: int, severity: str
) -> None:
    distributed.check_devices(diagnosis, here, devices, gpus)
    assert diagnosis.findings[-1].severity == severity


def test_a_launcher_that_said_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    for name in ("LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    (finding,) = distributed.diagnose(None).findings
    assert finding.severity == "error" and "LOCAL_RANK" in finding.what


def test_what_was_measured_is_judged(diagnosis: Diagnosis) -> None:
    distributed.judge(diagnosis, MEASURED, "cuda")
    assert "are right, bit for bit" in said(diagnosis)
    assert [one.what for one in diagnosis.findings if one.severity == "warning"] == [
        "From rank 2 to 3 it is slow: 10 GB/s, where others have 300 GB/s."
    ]
    broken = dataclasses.replace(MEASURED, sums=[AllReduce(2**20, 1e-4, 1e9, False)])
    distributed.judge(diagnosis, broken, "cuda")
    assert "error: The sum of tensors of 1.05 MB over 4 processes" in said(diagnosis)
    assert "less than PCIe should carry" in said(diagnosis)


@pytest.mark.slow
def test_two_processes_add_up() -> None:
    measured = measure_in_own(2, "cpu")
    assert measured.world_size == 2 and measured.backend == "gloo" and len(measured.hosts) == 2
    assert [one.num_bytes for one in measured.sums] == list(all_reduce.SIZES_BYTES["cpu"])
    assert all(one.right and one.seconds > 0 for one in measured.sums)
    for one in measured.sums:  # of two processes, each link carries the tensor once
        assert one.bus_bytes_per_second == pytest.approx(one.num_bytes / one.seconds)
    assert [(a, b) for a, b, speed in measured.links if speed > 0] == [(0, 1), (1, 0)]


@pytest.mark.slow
def test_processes_that_cannot_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nosuchdevice0")
    with pytest.raises(MachineError, match=r"The test of 2 processes failed in rank \d"):
        measure_in_own(2, "cpu")


@pytest.mark.slow
def test_processes_that_come_to_no_end_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_reduce, "TESTING_SECONDS", 0.1)
    with pytest.raises(MachineError, match=r"The test of 2 processes came to no end within 0 s"):
        measure_in_own(2, "cpu")
