"""What goes wrong during a training: the exit code says which kind, and what was saved before stays."""

import json
import resource
import signal
import time
from pathlib import Path

import pytest

from nanochat_pl.checkpoint.saved import is_sound
from nanochat_pl.core.findings import read_findings
from nanochat_pl.core.run_folder import RunFolder
from tests.forks import run_program
from tests.processes import PICTURED, SMALL, environment_of, start_fork, train


@pytest.mark.slow
def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path: Path) -> None:
    spoil = ("+callbacks.spoil._target_=tests.faults.Spoil", "+callbacks.spoil.step=13")
    code, output = train(*PICTURED, *spoil, runs=tmp_path)
    assert code == 4 and "Traceback" not in output, output
    assert "loss is nan at step 14" in output and "step-00000008.ckpt" in output
    run = tmp_path / "test/base"
    assert [path.name for path in sorted((run / "checkpoints").glob("step-*"))] == ["step-00000008.ckpt"]
    assert json.loads((run / "summary.json").read_text())["status"] == "diverged"
    told = read_findings(RunFolder(run))
    assert {(finding.kind, finding.step, finding.severity) for finding in told} == {("not_finite", 14, "error")}
    assert (run / "loss.png").exists()


@pytest.mark.slow
def test_a_disk_that_fills_up_loses_nothing(tmp_path: Path) -> None:
    """A limit on the size of files plays the full disk: the first export and checkpoint fit, the logs too."""
    code, output = train(*SMALL, "horizon.steps=8", runs=tmp_path)
    assert code == 0, output
    run = tmp_path / "test/base"
    checkpoint = run / "checkpoints/step-00000008.ckpt"
    before = {path: path.read_bytes() for path in (checkpoint, run / "model/model.safetensors")}
    program = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "
        "sys.argv = ['train.py', *sys.argv[1:]]; runpy.run_path('train.py', run_name='__main__')"
    )
    assert checkpoint.stat().st_size > 20_000
    result = run_program("-c", program, *SMALL, "horizon.steps=16", environment=environment_of(tmp_path))
    assert result.returncode == 3, result.stderr
    assert "Could not write" in result.stderr and "Traceback" not in result.stderr
    assert {path: path.read_bytes() for path in before} == before
    assert not list(run.rglob("*.tmp"))
    code, output = train(*SMALL, "horizon.steps=16", runs=tmp_path)
    assert code == 0 and "Going on from step 8" in output, output
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.slow
def test_two_trainings_in_one_folder_and_kill_at_any_moment(tmp_path: Path) -> None:
    first = start_fork(*SMALL, "horizon.steps=100000", "callbacks.metrics.every_n_steps=1000", runs=tmp_path)
    checkpoints = tmp_path / "test/base/checkpoints"
    deadline = time.monotonic() + 120
    while not (checkpoints / "last.ckpt").exists():
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    code, output = train(*SMALL, runs=tmp_path)
    assert code == 2 and "Another process is training" in output, output
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert is_sound((checkpoints / "last.ckpt").resolve())
    assert 1 <= len(list(checkpoints.glob("step-*.ckpt"))) <= 4
