"""What is looked at before a training."""

import dataclasses
import shutil
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

from nanochat_pl.callbacks.checks import Checks, check_gpu_memory, cpu_beside_gpu
from nanochat_pl.checkpoint.saved import Keep
from nanochat_pl.config.compose import compose
from nanochat_pl.config.specs import Specs
from nanochat_pl.core.errors import MachineError
from nanochat_pl.core.findings import read_findings
from nanochat_pl.core.gpus import parse_driver
from nanochat_pl.core.place import Place
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.planning.plan import Plan
from tests.core.test_gpus import NEWER
from tests.processes import SMALL, train

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def plan() -> Plan:
    specs = Specs.of(compose(["tokenizer=byte", "hw=cpu", "hw.threads=1"]))
    return specs.plan(265, specs.hw.detect())


@pytest.fixture
def run() -> RunFolder:
    run = RunFolder.of("mine", "base")
    run.checkpoints.mkdir(parents=True)
    return run


def said(run: RunFolder) -> list[str]:
    return [f"{finding.message} {finding.advice}" for finding in read_findings(run) if finding.kind == "check"]


def free(monkeypatch: pytest.MonkeyPatch, size: float, elsewhere: float = 1e12) -> None:
    """The disk of the runs has so many bytes left, that of the caches others."""

    def usage(path: Path) -> Usage:
        return Usage(1 << 50, 0, round(size if "runs" in str(path) else elsewhere))

    monkeypatch.setattr(shutil, "disk_usage", usage)


def test_a_machine_as_it_should_be_gets_one_line(run: RunFolder, plan: Plan, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    run.record_event("interrupted")
    Checks().before(run, plan, 0, Keep(), is_asked_for=True)
    [record] = caplog.records
    assert record.levelname == "INFO" and "disk" in record.message and "code" in record.message
    assert said(run) == []


def test_room_for_checkpoints_is_counted_with_what_is_there(
    run: RunFolder, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = plan.cost.weight_bytes + plan.memory_bytes["optimizer"]
    model = 2 * plan.cost.weight_bytes
    free(monkeypatch, one)
    with pytest.raises(MachineError, match=r"the first checkpoint and the model take .* NANOCHAT_PL_RUNS"):
        Checks().before(run, plan, 0, Keep())
    Checks().before(run, plan, 0, keep=None)  # none are written
    assert said(run) == []
    free(monkeypatch, 4 * one + model - 1)
    Checks().before(run, plan, 7, Keep(last=3))
    [finding] = read_findings(run)
    assert finding.step == 7 and "the checkpoints will take" in finding.message and "keep_last=1" in finding.advice
    Checks().before(run, plan, 7, Keep(last=2))
    Checks().before(run, plan, 7, Keep(last=3, budget_bytes=2 * one))
    (run.checkpoints / "step-00000001.ckpt").write_bytes(bytes(one))
    (run.checkpoints / "last.ckpt").symlink_to("step-00000001.ckpt")
    Checks().before(run, plan, 7, Keep(last=3))
    assert len(read_findings(run)) == 1
    Checks().before(run, plan, 7, Keep(last=5))
    assert len(read_findings(run)) == 2


def test_a_full_disk_of_the_caches(run: RunFolder, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 1e12, elsewhere=1e8)
    Checks().before(run, plan, 0, Keep())
    [finding] = said(run)
    assert "caches" in finding and "NANOCHAT_PL_CACHE" in finding


def test_memory_that_is_not_there(run: RunFolder, plan: Plan) -> None:
    processes = Place(world_size=1_000_000, local_world_size=1_000_000)  # each of which takes as much
    Checks().before(run, plan, 0, Keep(), processes)
    assert ["main memory" in finding for finding in said(run)] == [True]
    Checks().own_device(run, plan, 0, dataclasses.replace(processes, rank=1))
    assert len(said(run)) == 1, "it is one memory, and has been told"


def test_a_clock_that_runs_behind(run: RunFolder, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    run.events.write_text('{"event": "finished", "time": "yesterday"}\n')
    Checks().before(run, plan, 0, Keep())
    assert said(run) == []
    run.record_event("interrupted")
    monkeypatch.setattr(time, "time", lambda: now - 7200)
    Checks().before(run, plan, 0, Keep())
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    Checks().before(run, plan, 0, Keep())
    behind, year = said(run)
    assert "120 minutes behind" in behind and "the year 1970" in year


def test_a_gpu_that_others_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "smi.xml").write_text(NEWER)
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!{sys.executable}\nprint(open({str(tmp_path / 'smi.xml')!r}).read())\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    gigabyte = 10**9
    assert list(check_gpu_memory(0, 80 * gigabyte, 85 * gigabyte, 70 * gigabyte, 10 * gigabyte)) == [
        "GPU 80 GB of 85 GB free"
    ]
    _, trouble = check_gpu_memory(1, 60 * gigabyte, 85 * gigabyte, 70 * gigabyte, 10 * gigabyte)
    assert "GPU 1 has 60 GB of its 85 GB free" in trouble[0] and "python 4242 with 944 MB" in trouble[0]
    assert "hw.tokens_per_device" in trouble[1]
    with pytest.raises(MachineError, match="CUDA_VISIBLE_DEVICES"):
        list(check_gpu_memory(0, 5 * gigabyte, 85 * gigabyte, 70 * gigabyte, 10 * gigabyte))


@pytest.mark.parametrize(
    ("built_for", "what"),
    [(None, "built without CUDA"), ("13.0", "newer than the driver"), ("12.10", "newer"), ("12.4", "hide it")],
)
def test_why_torch_does_not_use_the_gpu(built_for: str | None, what: str) -> None:
    said = " ".join(cpu_beside_gpu(parse_driver(NEWER), built_for))
    assert what in said and "hw=cpu" in said and "driver 550.54.15, CUDA 12.4" in said


@pytest.mark.slow
def test_a_training_that_has_no_room_for_a_checkpoint_does_not_begin(tmp_path: Path) -> None:
    small = ("+callbacks.disk._target_=tests.faults.SmallDisk", "+callbacks.disk.free_bytes=300000")
    code, output = train(*SMALL, *small, runs=tmp_path)
    assert code == 3 and "the first checkpoint and the model take" in output and "Traceback" not in output, output
    run = RunFolder(tmp_path / "test/base")
    assert not run.checkpoints.exists() and not run.metrics.exists()
    code, output = train(*SMALL, *small, "callbacks.checks=null", "horizon.steps=8", runs=tmp_path)
    assert code == 0 and "checked" not in output, output
