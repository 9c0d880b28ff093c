"""doctor loss on run folders: whole, without anything, and with garbage in them."""

import csv
from pathlib import Path

import pytest

from nanochat_pl.core.findings import Finding, announce
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.diagnosis import loss
from tests.diagnosis.curves import Metrics, diverging, healthy, with_spike

PNG = b"\x89PNG\r\n"


def written(metrics: Metrics, stage: str = "base") -> RunFolder:
    """A run with these metrics."""
    run = RunFolder.of("a$b$", stage)
    run.path.mkdir(parents=True)
    rows: dict[int, dict[str, float]] = {}
    for name, points in metrics.items():
        for step, value in points:
            rows.setdefault(step, {"step": step})[name] = value
    with run.metrics.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", *metrics])
        writer.writeheader()
        writer.writerows(rows[step] for step in sorted(rows))
    return run


def test_a_healthy_run_and_its_picture() -> None:
    run = written(healthy(1, points=100))
    run.write_summary(status="finished")
    diagnosis = loss.diagnose(run)
    assert diagnosis.sound and diagnosis.findings[0].what.startswith("Healthy. The loss falls from")
    (picture,) = diagnosis.artifacts
    assert picture.parent == run.path and picture.read_bytes().startswith(PNG)


def test_what_the_monitor_saw_is_told_too() -> None:
    run = written(diverging(healthy(1, points=100)))
    for step in (60, 70):
        announce(run, Finding("divergence", step, "The loss rises.", "Stop."))
    announce(run, Finding("slow_steps", 1, "It is slow.", ""))
    diagnosis = loss.diagnose(run)
    said = [finding.what for finding in diagnosis.findings]
    assert not diagnosis.sound and said[0].startswith("Divergence.")
    assert said[1:] == ["The monitor at step 70: The loss rises. (2 times, this one last)"]


def test_a_run_that_diverged_between_two_rows() -> None:
    run = written(healthy(1, points=100))
    run.write_summary(status="diverged")
    assert not loss.diagnose(run).sound


def test_damaged_rows_are_left_out() -> None:
    run = written(with_spike(healthy(1, points=300)))
    run.metrics.write_bytes(run.metrics.read_bytes().replace(b"\n", b"\n\xff\xfe,x,,\n", 40) + b"99,4.")
    assert [finding.what[:6] for finding in loss.diagnose(run).findings] == ["Spike."]


@pytest.mark.parametrize(
    "content", [None, "", "step\n", "\x00\x00\x00", "step,train/loss\n1,nan\n", "step,train/loss\n1,2\n"]
)
def test_too_little_to_tell(content: str | None, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "base")
    run.path.mkdir()
    if content is not None:
        run.metrics.write_text(content)
    assert loss.diagnose(run).sound == (content is None or "nan" not in content)


def test_metrics_that_cannot_be_read_are_a_finding(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "base")
    run.metrics.mkdir(parents=True)
    assert "metrics.csv cannot be read" in loss.diagnose(run).findings[0].what


@pytest.mark.parametrize(
    ("rewards", "said", "sound"),
    [
        ([0.2 + 0.01 * i for i in range(40)], "does not fall", True),
        ([0.8 - 0.01 * i for i in range(40)], "The reward falls.", False),
        ([0.0] * 40, "No answer was ever rewarded", False),
        ([0.5], "too few", True),
    ],
)
def test_rl_is_judged_by_its_reward(rewards: list[float], said: str, sound: bool) -> None:
    run = written({"rl/reward": list(enumerate(rewards, 1)), "train/loss": [(1, 0.0)]}, "rl")
    diagnosis = loss.diagnose(run)
    assert diagnosis.sound == sound and said in diagnosis.findings[0].what
