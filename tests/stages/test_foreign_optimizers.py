"""Trainings by torch's optimizers among several processes, and a learning rate range test."""

import json
from pathlib import Path

import pytest

from nanochat_pl.callbacks.lr_range import steepest
from tests.processes import SMALL, losses, train, train_together


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    options = (*SMALL, "optim=torch_muon", "schedule=cosine", "schedule.warmup_steps=4", "horizon.steps=8")
    code, output = train(*options, runs=tmp_path / "one")
    assert code == 0, output
    for code, output in train_together(2, *options, runs=tmp_path / "two"):
        assert code == 0, output
    one, two = (losses(tmp_path / name / "test/base") for name in ("one", "two"))
    assert len(one) == 8
    for step, row in one.items():
        for name in ("train/loss", "update_ratio/matrix", "train/lr_multiplier"):
            assert float(two[step][name]) == pytest.approx(float(row[name]), rel=1e-3), (step, name)


@pytest.mark.slow
def test_a_range_test_ends_itself_and_suggests_a_rate(tmp_path: Path) -> None:
    options = ("experiment=lr_range_test", *SMALL, "horizon.steps=60", "schedule.highest=1e5")
    code, output = train(*options, runs=tmp_path)
    assert code == 0, output
    run = tmp_path / "test/base"
    result, summary = (json.loads((run / name).read_text()) for name in ("lr_range.json", "summary.json"))
    assert f"The loss falls fastest at horizon.lr_scale={result['lr_scale']:.3g}" in output
    assert 0.02 < result["lr_scale"] < 20
    assert 20 < result["steps"] < 60 and summary["status"] == "finished"
    assert (run / "lr_range.png").read_bytes().startswith(b"\x89PNG")
    assert not (run / "model").exists() and "the portable model" not in output


def test_the_steepest_descent() -> None:
    rates = [10 ** (step / 10) for step in range(40)]
    falling = [5 - 2 / (1 + 2.718 ** (20 - step)) for step in range(30)] + [9.0] * 10
    assert steepest(rates, falling) in (19, 20, 21)
    assert steepest(rates, [1 + 0.1 * step for step in range(40)]) is None
