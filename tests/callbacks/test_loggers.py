"""Real trainings with W&B and TensorBoard, read back from the disk."""

import json
import resource
import threading
from pathlib import Path

import pytest

from nanochat_pl.callbacks.tensorboard import TensorBoard
from nanochat_pl.core.findings import read_findings
from nanochat_pl.core.run_folder import RunFolder
from tests.callbacks.mirrored import logged, read_mirrored
from tests.processes import SMALL, train, train_together


@pytest.fixture
def offline(tmp_path: Path) -> dict[str, str]:
    """Variables of a training whose W&B keeps to itself."""
    home = {name: str(tmp_path / name) for name in ("NETRC", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR")}
    return home | {"WANDB_MODE": "offline", "WANDB_BASE_URL": "http://127.0.0.1:9"}


@pytest.mark.slow
def test_all_loggers_have_each_step_once_after_a_kill(tmp_path: Path, offline: dict[str, str]) -> None:
    """Killed at once, when W&B has not written all that it was given: 50 steps are over, the checkpoint is at 48."""
    options = (
        *SMALL, "horizon.steps=64", "logger=[csv,tensorboard,wandb]", "+callbacks.find._target_=tests.faults.Find",
        "+callbacks.find.step=10",
    )  # fmt: skip
    kill = ("+callbacks.kill._target_=tests.faults.Kill", "+callbacks.kill.micro_batch=51")
    code, output = train(*options, *kill, runs=tmp_path, environment=offline)
    assert code == -9, output
    code, output = train(*options, runs=tmp_path, environment=offline)
    assert code == 0 and "Going on from step 48" in output and "wandb sync" in output, output
    run = tmp_path / "test/base"
    mirrored = read_mirrored(run)
    metrics = logged(run)
    assert {step for step, _ in metrics} == set(range(1, 65))

    def without_clock(figures: dict[tuple[int, str], float]) -> dict[tuple[int, str], float]:
        return {key: value for key, value in figures.items() if not key[1].startswith("speed/")}

    assert mirrored.figures().keys() == metrics.keys() and without_clock(mirrored.figures()) == without_clock(metrics)
    assert mirrored.config["optim"] and mirrored.config["plan"]["steps"] == 64
    found = [str(finding) for finding in read_findings(RunFolder(run))]  # a busy machine may add slow steps
    assert "It is planted. Leave it." in found and [alert.text for alert in mirrored.alerts] == found
    assert mirrored.exits == [0] and mirrored.summary["val_bpb"] > 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    shown = {(event.step, name): event.value for name in events.Tags()["scalars"] for event in events.Scalars(name)}
    assert shown.keys() == metrics.keys()
    assert sum(len(events.Scalars(name)) for name in events.Tags()["scalars"]) == len(metrics), "a step comes twice"
    assert without_clock(shown) == pytest.approx(without_clock(metrics))


def test_a_run_that_begins_anew_is_shown_once(tmp_path: Path) -> None:
    """One that was killed before its first checkpoint."""
    for last_step in (3, 2):
        logger = TensorBoard(RunFolder(tmp_path), None)
        for step in range(1, last_step + 1):
            logger.log_metrics({"train/loss": 1 / step}, step)
        logger.finalize("success")
    assert shown_losses(tmp_path) == [(1, 1), (2, 0.5)]


def test_what_the_disk_has_no_room_for_is_shown_when_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on the size of files plays the full disk."""
    monkeypatch.setattr(threading, "excepthook", lambda error: None)  # TensorBoard's thread ends by it
    logger, limits = TensorBoard(RunFolder(tmp_path), None), resource.getrlimit(resource.RLIMIT_FSIZE)
    logger.log_metrics({"train/loss": 1.0}, 1)
    logger.save()
    for step in range(2, 9):
        resource.setrlimit(resource.RLIMIT_FSIZE, (10 if step == 4 else limits[0], limits[1]))
        logger.log_metrics({"train/loss": 1 / step}, step)
        if step == 4:
            with pytest.raises(OSError):
                logger.save()
    logger.finalize("success")
    assert shown_losses(tmp_path) == [(step, pytest.approx(1 / step)) for step in range(1, 9)]


def shown_losses(run: Path) -> list[tuple[int, float]]:
    """(step, value), as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars("train/loss")]


@pytest.mark.slow
def test_a_sweep_is_a_group_and_its_stages_a_line_of_models(tmp_path: Path, offline: dict[str, str]) -> None:
    options = [option for option in SMALL if not option.startswith(("data.", "model.sequence_len", "horizon.steps"))]
    code, output = train(
        "-m", *options, "model.sequence_len=128", "horizon.steps=2", "callbacks.evaluate.suites=[]", "logger=wandb",
        "stage=base,sft", runs=tmp_path, environment=offline,
    )  # fmt: skip
    assert code == 0, output
    (sweep,) = (tmp_path / "sweeps").iterdir()
    base, sft = (read_mirrored(tmp_path / "test" / stage) for stage in ("base", "sft"))
    assert [record.run_group for record in (*base.runs, *sft.runs)] == [sweep.name] * 2
    assert base.runs[0].run_id != sft.runs[0].run_id and base.exits == sft.exits == [0]
    (made,) = base.artifacts
    used, own = sft.artifacts
    assert (used.name, used.digest, used.use_after_commit) == (made.name, made.digest, True)
    assert (made.name, own.name) == ("test-base", "test-sft") and json.loads(own.metadata)["step"] == 2


@pytest.mark.slow
def test_several_processes_are_one_run(
    tmp_path: Path, offline: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in offline.items():
        monkeypatch.setenv(name, value)
    ended = train_together(2, *SMALL, "horizon.steps=4", "logger=[tensorboard,wandb]", runs=tmp_path)
    assert [code for code, _ in ended] == [0, 0], ended
    run = tmp_path / "test/base"
    assert len(list(run.glob("wandb/offline-run-*"))) == 1 and len(list(run.glob("tensorboard/events*"))) == 1
    assert read_mirrored(run).figures() == logged(run) and len(logged(run)) > 12
