"""Short real runs in which something goes wrong: the training goes on, and it is told what and why."""

import re
from pathlib import Path

import pytest
import torch

from nanochat_pl.callbacks.checkpoints import step_checkpoints
from nanochat_pl.core.findings import Finding, read_findings
from nanochat_pl.core.run_folder import RunFolder
from tests.processes import SMALL, losses, train

STEPS = 170
LONG = (*SMALL, "trainer.validate_every_n_steps=100", "callbacks.stuck_watch.at_least_seconds=0.5",
        "callbacks.monitor.price_per_hour=3600")  # fmt: skip
TROUBLES = {
    "faulty": {"_target_": "Faulty", "step": 5},
    "data": {"_target_": "SlowData", "step": 60, "seconds": 2.0},
    "disk": {"_target_": "FullDisk", "first": 80, "last": 90},
    "bump": {"_target_": "Bump", "first": 120, "last": 121, "factor": 30.0},
    "batch": {"_target_": "BadBatch", "step": 150},
}


def planted(troubles: dict[str, dict[str, object]]) -> list[str]:
    """As arguments of train.py."""
    values = ((f"+callbacks.{name}.{key}", value) for name, keys in troubles.items() for key, value in keys.items())
    return [f"{key}={'tests.callbacks.troubles.' if key.endswith('_') else ''}{value}" for key, value in values]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, str]:
    """A run with all of them one after the other, and then one that goes on from its end."""
    runs = tmp_path_factory.mktemp("troubles")
    code, output = train(*LONG, *planted(TROUBLES), f"horizon.steps={STEPS}", runs=runs)
    assert code == 0, output
    return RunFolder(runs / "test/base"), output


def found(run: tuple[RunFolder, str], kind: str) -> list[Finding]:
    return [finding for finding in read_findings(run[0]) if finding.kind == kind]


@pytest.mark.slow
def test_the_time_left_and_the_cost_are_told(run: tuple[RunFolder, str]) -> None:
    [(so_far, in_all)] = re.findall(r"step 100/170: about .* left, .*cost ([\d.]+) so far, ([\d.]+) at the end", run[1])
    assert 2 < float(so_far) < float(in_all) < 3 * float(so_far)  # one a second; the slow data alone take two


@pytest.mark.slow
def test_a_callback_that_raises_is_switched_off_and_the_training_goes_on(run: tuple[RunFolder, str]) -> None:
    [finding] = found(run, "callback_disabled")
    assert finding.step == 5 and finding.evidence["callback"] == "Faulty"
    assert "nonsense at step 5" in run[1] and "nonsense at step 6" not in run[1]
    assert list(losses(run[0].path)) == [str(step) for step in range(1, STEPS + 1)]


@pytest.mark.slow
def test_data_that_come_late_are_seen_while_they_are_waited_for(run: tuple[RunFolder, str]) -> None:
    [stuck] = [finding for finding in found(run, "stuck") if finding.evidence["cause"] == "loader"]
    assert 50 < stuck.step <= 60 and stuck.evidence["rank"] == 0 and "background.py" in str(stuck.evidence["at"])
    stacks = (run[0].path / str(stuck.evidence["stacks"])).read_text()
    assert "background.py" in stacks and "in late" in stacks  # the thread that waits, and the one it waits for
    [stall] = found(run, "loader_stall")
    assert stuck.step <= stall.step <= stuck.step + 20


@pytest.mark.slow
def test_rows_of_a_full_disk_are_kept(run: tuple[RunFolder, str]) -> None:
    assert [finding.severity for finding in found(run, "disk_full")] == ["error", "info"]
    assert "Logging error" not in run[1]
    kept = losses(run[0].path)
    assert all("train/loss" in kept[str(step)] and "grad_norm/matrix" in kept[str(step)] for step in range(75, 95))


@pytest.mark.slow
def test_a_bump_of_the_learning_rate_and_a_bad_batch_are_told(run: tuple[RunFolder, str]) -> None:
    bumped = next(finding for finding in found(run, "update_ratio") if 120 <= finding.step < 140)
    assert bumped.evidence["role"] == "matrix" and "embedding" in str(bumped.evidence["also"])
    [spike] = [finding for finding in found(run, "loss_spike") if finding.step >= 150]
    assert spike.step == 150 and float(spike.evidence["loss"]) > float(spike.evidence["usual"]) + 1
    assert [finding for finding in found(run, "gradient_norm") if 150 <= finding.step < 170]


@pytest.mark.slow
def test_the_monitor_goes_on_where_it_was(run: tuple[RunFolder, str]) -> None:
    folder = run[0]
    code, output = train(*LONG, f"horizon.steps={STEPS + 10}", runs=folder.path.parents[1])
    assert code == 0 and f"Going on from step {STEPS}" in output, output
    newest = torch.load(step_checkpoints(folder.checkpoints)[0], weights_only=True)
    state = newest["callbacks"]["Monitor"]["detectors"]
    logged = [loss for _, loss in folder.read_metrics()["train/loss"]]
    assert state["LossSpike"]["values"][-29:] == logged[-29:] and len(logged) == STEPS + 10
    assert len(state["grad_norm/matrix"]["values"]) == 30


@pytest.mark.slow
def test_what_is_trained_again_after_a_kill_is_not_told_again(tmp_path: Path) -> None:
    options = (*SMALL, *planted({"batch": {"_target_": "BadBatch", "step": 40}}), "horizon.steps=56",
               "trainer.validate_every_n_steps=32")  # fmt: skip
    kill = ("+callbacks.kill._target_=tests.faults.Kill", "+callbacks.kill.micro_batch=46")
    told = []
    for arguments, ending in ((kill, -9), ((), 0)):
        code, output = train(*options, *arguments, runs=tmp_path)
        assert code == ending, output
        told.append([finding for finding in read_findings(RunFolder(tmp_path / "test/base")) if finding.step == 40])
    assert "Going on from step 32" in output and [finding.kind for finding in told[0]] == ["loss_spike"]
    assert told[1] == told[0]
