"""How the stages of a run went: the curves of metrics.csv and what the monitor found."""

import math
from typing import Any

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.findings import read_findings
from nanochat_pl.core.run_folder import as_object
from nanochat_pl.reporting.pictures import thinned
from nanochat_pl.reporting.records import RunRecord, StageRecord, as_number
from nanochat_pl.video.scene import Scene, rounded, scene

SERIES = {
    "loss": "train/loss",
    "val_loss": "val/loss",
    "bpb": "val/bpb",
    "tokens_per_second": "speed/tokens_per_second",
    "reward": "rl/reward",
    "passed": "val/pass@1",
}
"""Name in the scene -> in metrics.csv."""


def loss_scene(run: RunRecord) -> Scene:
    """Of all stages that have trained.

    Raises:
        UserError: there is no step yet.
    """
    trained = [stage for stage in run.stages if stage.metrics]
    if not trained:
        raise UserError(f"{run.path} has no metrics yet: nothing was trained there, or not for long enough.")
    stages = [_stage(stage) for stage in trained]
    return scene("loss", run.name, parameters=_parameters(run), vocabulary=_vocabulary(trained[0]), stages=stages)


def _stage(stage: StageRecord) -> dict[str, Any]:
    series = {name: _points(stage.metrics.get(metric, [])) for name, metric in SERIES.items()}
    if stage.name == "rl":
        series["loss"] = series["val_loss"] = []  # weighted by advantages: no nats of anything
    findings = [
        {"step": finding.step, "kind": finding.kind, "message": finding.message, "severity": finding.severity}
        for finding in read_findings(stage.folder)
    ]
    return {
        "stage": stage.name,
        "status": stage.status,
        "steps": max(step for points in stage.metrics.values() for step, _ in points),
        "tokens_per_step": as_number(stage.resolved.get("total_batch_tokens")) if stage.name != "rl" else None,
        "seconds": stage.number("wall_seconds"),
        **series,
        "findings": findings,
    }


def _points(points: list[tuple[int, float]]) -> list[tuple[float, float]]:
    """Of a long curve neighbours are averaged, of what is no number nothing is shown."""
    return [(rounded(x, 7), rounded(y)) for x, y in thinned(points) if math.isfinite(y)] if points else []


def _parameters(run: RunRecord) -> int | float | None:
    return next((number for stage in run.stages if (number := stage.number("parameters"))), None)


def _vocabulary(first: StageRecord) -> int | float | None:
    """Of a stage that begins from nothing, with a loss of ln vocabulary; None: of another."""
    if first.name != "base" or first.resolved.get("parent"):
        return None
    return as_number(as_object(first.resolved.get("model")).get("vocab_size"))
