"""A sweep's losses against their compute, the law through their envelope, and tokens against parameters."""

from typing import Any

from nanochat_pl.core.errors import UserError
from nanochat_pl.models.contract import build_config
from nanochat_pl.models.cost import ModelCost
from nanochat_pl.reporting.fits import PowerLaw, envelope, fit_power_law
from nanochat_pl.reporting.pictures import MOST_POINTS
from nanochat_pl.reporting.sweep_contents import METRICS
from nanochat_pl.reporting.sweep_records import JobRecord, SweepRecord
from nanochat_pl.video.scene import Scene, rounded, scene

MOST_JOBS = 24
"""More lines than these are a thicket."""


def scaling_scene(sweep: SweepRecord) -> Scene:
    """Of the jobs of its first stage.

    Raises:
        UserError: the jobs' records do not tell losses against compute.
    """
    stage = sweep.jobs[0].stage
    jobs = [job for job in sweep.jobs if job.stage == stage]
    metric = next((name for name in METRICS if any(job.curve(name) for job in jobs)), None)
    jobs = [job for job in jobs if metric and job.curve(metric)]
    if metric is None or len(jobs) < 2:
        raise UserError(
            f"{sweep.path} has fewer than two jobs whose records tell losses and compute. Train several sizes: "
            "`python train.py -m model.depth=2,4,6`."
        )
    if len(jobs) > MOST_JOBS:
        raise UserError(f"{sweep.path} has {len(jobs)} jobs; at most {MOST_JOBS} can be drawn beside each other.")
    shown = [_job(job, metric) for job in jobs]
    best = envelope([point for job in jobs for point in job.curve(metric)])
    law = fit_power_law(best)
    return scene(
        "scaling",
        sweep.name,
        metric=METRICS[metric],
        jobs=sorted(shown, key=lambda job: (job["scaling_parameters"], job["tokens"])),
        envelope=_rounded(best),
        law=_law(law) if isinstance(law, PowerLaw) else None,
        why_no_law=law if isinstance(law, str) else "",
    )


def _job(job: JobRecord, metric: str) -> dict[str, Any]:
    config = build_config(job.record.resolved.get("architecture", "nanochat"), job.record.resolved["model"])
    curve = job.curve(metric)
    return {
        "name": job.name,
        "scaling_parameters": ModelCost(config).scaling_parameters,
        "tokens": job.record.number("tokens"),
        "points": _rounded(curve[:: -(-len(curve) // MOST_POINTS)]),
        "final": rounded(curve[-1][1]),
    }


def _law(law: PowerLaw) -> dict[str, Any]:
    values = {name: rounded(getattr(law, name)) for name in ("floor", "scale", "unit", "exponent")}
    return values | {
        "exponent_range": [rounded(end) for end in law.exponent_range],
        "is_determined": law.is_determined,
    }


def _rounded(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(rounded(x), rounded(y)) for x, y in points]
