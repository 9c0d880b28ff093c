"""Which checkpoints a real training keeps."""

import json
from pathlib import Path

import pytest
import torch

from nanochat_pl.callbacks.checkpoints import Checkpoints
from nanochat_pl.checkpoint.saved import Keep, step_checkpoints, step_of
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.core.spec import call_checked
from tests.processes import SMALL, train

# At such rates the loss soon rises again, so that the best is not the last.
OPTIONS = (
    *SMALL, "trainer.validate_every_n_steps=2", "horizon.lr_scale=60", "callbacks.checkpoints.keep_last=1",
    "callbacks.checkpoints.keep_best=2", "callbacks.checkpoints.keep_every_n_steps=8",
)  # fmt: skip


@pytest.mark.slow
def test_last_best_and_regular_ones_are_kept_after_a_resume_too(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "test/base")
    for steps in (14, 24):
        code, output = train(*OPTIONS, f"horizon.steps={steps}", runs=tmp_path)
        assert code == 0 and "checked" in output, output
        val_bpb = dict(run.read_metrics()["val/bpb"])
        assert len(val_bpb) == steps // 2
        # What is let go once does not come back: the rule is followed from step to step.
        expected: set[int] = set()
        for step in sorted(val_bpb):
            known = {other: value for other, value in val_bpb.items() if other <= step}
            expected = Keep(1, 2, 8).chosen(dict.fromkeys(expected | {step}, 1), known)
        assert {step_of(path) for path in step_checkpoints(run.checkpoints)} == expected
        assert {steps, 8} <= expected and min(val_bpb, key=lambda step: val_bpb[step]) in expected
        assert (run.checkpoints / "last.ckpt").resolve().name == f"step-{steps:08d}.ckpt"
    told = (tmp_path / "training.log").read_text().splitlines()
    assert len(told) == 2 and all("finished" in line and "test/base" in line for line in told)
    assert "step 24" in told[1] and f"val bpb {val_bpb[24]:.4f}" in told[1]


@pytest.mark.slow
def test_a_budget_holds_on_the_disk(tmp_path: Path) -> None:
    code, output = train(*SMALL, "horizon.steps=8", runs=tmp_path)
    assert code == 0, output
    checkpoints = tmp_path / "test/base/checkpoints"
    size = step_checkpoints(checkpoints)[0].stat().st_size
    budget = f"callbacks.checkpoints.budget_gigabytes={2.5 * size / 1e9:.9f}"
    options = ("callbacks.checkpoints.every_n_steps=2", "callbacks.checkpoints.keep_last=9", budget)
    code, output = train(*SMALL, *options, "horizon.steps=16", runs=tmp_path)
    assert code == 0, output
    assert [step_of(path) for path in step_checkpoints(checkpoints)] == [16, 14]
    saved = torch.load(checkpoints / "last.ckpt", weights_only=True)
    resolved = json.loads((tmp_path / "test/base/resolved.json").read_text())
    assert saved["global_step"] == 16 and saved["nanochat_pl"]["model"] == resolved["model"]


def test_rules_that_cannot_be(tmp_path: Path) -> None:
    for options in ({"keep_best": 0}, {"keep_every_n_steps": -1}, {"budget_gigabytes": 0.0}, {"keep_last": 0}):
        [name] = options
        with pytest.raises(UserError, match=f"callbacks.checkpoints.{name} is"):
            call_checked(Checkpoints, options, "callbacks.checkpoints")
    with pytest.raises(UserError, match="budget_gigabytes is inf"):
        call_checked(Checkpoints, {"budget_gigabytes": float("inf")}, "callbacks.checkpoints")
    assert Checkpoints().keep == Keep(last=3)
