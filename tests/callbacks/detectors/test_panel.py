"""The detectors on made series: silent where all is well, quick where it is not."""

import json
from dataclasses import replace

import pytest

from nanochat_pl.callbacks.detectors.panel import Panel, Reading
from nanochat_pl.core.findings import Finding
from tests.callbacks.detectors.series import EVERY, TROUBLES, healthy, with_trouble

SINCE = 401


def told(readings: list, panel: Panel | None = None) -> list[tuple[int, Finding]]:
    """(step at which it was told, finding)."""
    panel = panel or Panel()
    return [(reading.step, finding) for reading in readings for finding in panel.see(reading)]


def test_healthy_runs_raise_no_alarm() -> None:
    readings = {seed: healthy(seed, steps=800) for seed in range(50)}
    assert {seed: findings for seed, run in readings.items() if (findings := told(run))} == {}
    losses = [loss for run in readings.values() for reading in run for loss in reading.losses]
    assert len(losses) == 50 * 800 and max(losses) > 2 * min(losses)


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_trouble_is_told_within_20_steps_and_not_at_every_reading(trouble: str) -> None:
    kind = trouble.split()[0]
    for seed in range(3):
        found = told(list(with_trouble(healthy(seed, steps=600), trouble, SINCE)))
        mine = [(step, finding) for step, finding in found if finding.kind == kind]
        assert mine and min(step for step, _ in found) >= SINCE
        step, finding = mine[0]
        assert SINCE <= finding.step <= step < SINCE + 20
        assert finding.message and finding.advice and finding.evidence
        assert len(mine) <= 2, [str(finding) for _, finding in mine]


@pytest.mark.parametrize("last_fall", [0, 200, 390])
def test_a_plateau_is_told_once_it_has_lasted_as_long_as_the_run_before_it(last_fall: int) -> None:
    run = healthy(7, steps=1000)
    level = healthy(7, steps=1000)[last_fall // EVERY].losses[0]
    flat = [
        replace(now, losses=[level + loss - late for loss, late in zip(after.losses, after.losses[::-1])])
        if now.step > last_fall
        else now
        for now, after in zip(run, run[::-1])
    ]
    steps = [step for step, finding in told(flat) if finding.kind == "plateau"]
    assert steps and last_fall < steps[0] <= max(300, 2 * last_fall) + 20


def test_a_trouble_that_comes_again_is_told_again() -> None:
    readings = healthy(3, steps=600)
    for step in (301, 501):
        readings = list(with_trouble(readings[: step // EVERY + 4], "loss_spike", step)) + readings[step // EVERY + 4 :]
    assert [finding.step for _, finding in told(readings) if finding.kind == "loss_spike"] == [301, 501]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_state_that_was_saved_goes_on_as_if_nothing_had_happened(trouble: str) -> None:
    readings = list(with_trouble(healthy(2, steps=600), trouble, SINCE))
    before, resumed = Panel(), Panel()
    first = told(readings[:41], before)
    resumed.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert [*first, *told(readings[41:], resumed)] == told(readings)


def test_a_loss_that_rewards_make_is_not_judged() -> None:
    readings = list(with_trouble(healthy(1, steps=500), "loss_spike", SINCE))
    assert told(readings) and not told(readings, Panel(judges_loss=False))


def test_steps_that_learn_nothing_say_nothing_about_those_that_do() -> None:
    """As in reinforcement learning, where seldom one of a question's answers is better than the others."""

    def seldom(reading: Reading) -> Reading:
        norms = {name: 0.0 for name in reading.metrics if name.startswith(("grad_norm/", "update_ratio/"))}
        return reading if reading.step % 70 == 0 else replace(reading, metrics={**reading.metrics, **norms})

    assert told(list(map(seldom, healthy(4, steps=1000))), Panel(judges_loss=False)) == []


def test_pauses_of_a_busy_machine_are_no_slow_training() -> None:
    """Tokens per second and seconds of each reading."""
    fast, slow, pause = (30_000.0, 0.01), (6_000.0, 0.05), (300.0, 1.0)
    usual, disturbed = (10_000.0, 2.0), (7_000.0, 3.0)

    def kinds(*steps: tuple[float, float]) -> list[str]:
        readings = [
            Reading(n, [3.0], {"speed/tokens_per_second": speed}, seconds)
            for n, (speed, seconds) in enumerate(steps, 1)
        ]
        return [finding.kind for _, finding in told(readings)]

    assert kinds(*[fast] * 50, pause, *[slow] * 9, *[fast] * 50) == []
    assert kinds(*[fast] * 50, *[slow] * 50) == ["slow_steps"]
    assert kinds(*[usual] * 20, *[disturbed] * 3, *[usual] * 20) == []
    assert kinds(*[usual] * 20, *[disturbed] * 4) == ["slow_steps"]
