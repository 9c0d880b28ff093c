"""The spread over seeds, against numbers worked out by hand."""

import json
from pathlib import Path

import pytest

from nanochat_pl.config.sweep import spread_over_seeds
from tests.processes import SMALL, train_anew


def test_runs_that_differ_in_their_seed_are_one_group() -> None:
    runs = [
        {"overrides": ["a=1", "seed=1"], "val_bpb": 1.0},
        {"overrides": ["a=1", "seed=2"], "val_bpb": 2.0},
        {"overrides": ["a=1", "seed=3"], "val_bpb": 6.0},
        {"overrides": ["a=2", "seed=1"], "val_bpb": 9.0},
    ]
    (group,) = spread_over_seeds(runs)
    assert group["overrides"] == ["a=1"] and group["seeds"] == 3
    assert group["val_bpb"] == {"mean": 3.0, "standard_deviation": pytest.approx(7**0.5), "min": 1.0, "max": 6.0}


@pytest.mark.slow
def test_a_sweep_that_fails_still_shows_what_it_has_made(tmp_path: Path) -> None:
    small = [option for option in SMALL if not option.startswith(("run.name", "model.n_embd", "horizon.steps"))]
    code, output = train_anew("-m", *small, "horizon.steps=2", "seed=1,2", "model.n_embd=32,33", runs=tmp_path)
    assert code == 2 and "choose 32 or 48" in output and "Traceback" not in output, output
    assert "Sweep" in output and "val bpb" in output, output
    (sweep,) = (tmp_path / "sweeps").glob("*/sweep.json")
    (run,) = json.loads(sweep.read_text())["runs"]
    assert run["status"] == "finished" and run["step"] == 2 and "seed=1" in run["overrides"]
