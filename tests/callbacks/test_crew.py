"""A callback or a logger that fails: what ends a training, and what does not."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from nanochat_pl.callbacks.checkpoints import Checkpoints
from nanochat_pl.callbacks.crew import guarded
from nanochat_pl.callbacks.metrics_csv import MetricsCSV
from nanochat_pl.core.errors import DivergedError, Interrupted, MachineError, UserError
from nanochat_pl.core.findings import Finding, read_findings
from nanochat_pl.core.run_folder import RunFolder


class Faulty(Callback):
    """Raises what it is given, in every hook; counts how often it was asked."""

    def __init__(self, error: Exception | None):
        self.error, self.asked = error, 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.on_validation_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.asked += 1
        if self.error:
            raise self.error


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def asked_twice(error: Exception, run: RunFolder) -> tuple[int, list[Finding]]:
    callback: Any = guarded(Faulty(error), run)
    for _ in range(2):
        callback.on_validation_end(Trainer(logger=False, enable_progress_bar=False, accelerator="cpu"), None)
    return callback.asked, read_findings(run)


def test_one_that_fails_is_not_asked_again(tmp_path: Path) -> None:
    asked, [finding] = asked_twice(KeyError("nonsense"), RunFolder(tmp_path))
    assert asked == 1 and finding.kind == "callback_disabled" and finding.severity == "error"
    assert finding.evidence == {"callback": "Faulty", "error": "KeyError: 'nonsense'"}


def test_one_that_the_disk_has_no_room_for_is_told_once_and_tried_again(tmp_path: Path) -> None:
    wrapped = MachineError("Could not write")
    wrapped.__cause__ = full()
    for name, error in (("bare", full()), ("wrapped", wrapped)):
        asked, [finding] = asked_twice(error, RunFolder(tmp_path / name))
        assert asked == 2 and finding.kind == "disk_full", name
    callback: Any = guarded(Faulty(full()), run := RunFolder(tmp_path / "again"))
    callback.on_validation_end(None, None)
    callback.error = None
    callback.on_validation_end(None, None)
    callback.error = full()
    callback.on_validation_end(None, None)
    assert len(read_findings(run)) == 2  # it had room in between


@pytest.mark.parametrize("error", [DivergedError("at step 3"), Interrupted("enough", exit_code=143)])
def test_what_is_said_about_the_training_ends_it(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)):
        asked_twice(error, RunFolder(tmp_path))
    assert not read_findings(RunFolder(tmp_path))


def test_a_users_mistake_ends_it_before_the_first_step_only(tmp_path: Path) -> None:
    callback: Any = guarded(Faulty(UserError("callbacks.faulty.x is -1")), RunFolder(tmp_path))
    with pytest.raises(UserError):
        callback.setup(None, None, "fit")
    callback.on_validation_end(None, None)
    assert [finding.kind for finding in read_findings(RunFolder(tmp_path))] == ["callback_disabled"]


def test_safety_checks_are_left_as_they_are(tmp_path: Path) -> None:
    class Needed(Faulty):
        ends_training = True

    with pytest.raises(KeyError):
        guarded(Needed(KeyError("x")), RunFolder(tmp_path)).on_validation_end(None, None)  # type: ignore[arg-type]
    checkpoints = Checkpoints()
    assert vars(guarded(checkpoints, RunFolder(tmp_path))).keys() == vars(Checkpoints()).keys()


def test_a_logger_that_fails_is_switched_off(tmp_path: Path) -> None:
    class Broken(MetricsCSV):
        asked = 0

        def log_metrics(self, *_: Any, **__: Any) -> None:
            self.asked += 1
            raise ConnectionError("no route to host")

    logger = guarded(Broken(tmp_path / "metrics.csv"), RunFolder(tmp_path))
    for step in range(3):
        logger.log_metrics({"train/loss": 1.0}, step=step)
    logger.save()
    assert logger.asked == 1
    [finding] = read_findings(RunFolder(tmp_path))
    assert finding.evidence["callback"] == "Broken" and "no route to host" in str(finding.evidence["error"])
