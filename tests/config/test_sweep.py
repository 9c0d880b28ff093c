"""The spread over seeds, against numbers worked out by hand."""

import pytest

from nanochat_pl.config.sweep import spread_over_seeds


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
