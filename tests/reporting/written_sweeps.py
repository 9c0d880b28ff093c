"""A sweep as its jobs leave it behind, with losses that follow a known law."""

import json
import math
from pathlib import Path
from typing import Any

import yaml

from nanochat_pl.core.paths import runs_root, write_text
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.core.sweep_folder import SweepFolder, job_of
from nanochat_pl.models.contract import build_config
from nanochat_pl.models.cost import ModelCost

STEPS, BATCH = 40, 65_536
FLOOR, SCALE, EXPONENT, UNIT = 0.7, 1.0, 0.25, 1e12
BEST_RATE = 0.4


def model_of(depth: int) -> dict[str, Any]:
    width = 32 * depth
    return {
        "n_layer": depth,
        "n_embd": width,
        "n_head": depth,
        "n_kv_head": depth,
        "sequence_len": 64,
        "vocab_size": 256,
    }


def flops_per_token(depth: int) -> int:
    return ModelCost(build_config("nanochat", model_of(depth))).training_flops_per_token


def loss(compute: float, rate: float = BEST_RATE, noise: float = 0.0) -> float:
    """The law, where the rate is the best; a parabola above it elsewhere."""
    return FLOOR + SCALE * (compute / UNIT) ** -EXPONENT + 0.05 * math.log(rate / BEST_RATE) ** 2 + noise


def write_job(name: str, *, depth: int, rate: float = BEST_RATE, seed: int = 1, steps: int = STEPS) -> RunFolder:
    """A finished base stage."""
    run = RunFolder.of(name, "base")
    config = {"seed": seed, "model": {"depth": depth}, "horizon": {"lr_scale": rate}, "run": {"name": name}}
    write_text(run.config, yaml.safe_dump(config))
    resolved = {"model": model_of(depth), "steps": steps, "total_batch_tokens": BATCH}
    write_text(run.resolved, json.dumps(resolved))
    per_step = flops_per_token(depth) * BATCH
    losses = [loss(step * per_step, rate, 0.001 * seed) for step in range(1, steps + 1)]
    rows = [f"{step},{value + 1},{value if step % 5 == 0 else ''}" for step, value in enumerate(losses, 1)]
    write_text(run.metrics, "step,train/loss,val/bpb\n" + "\n".join(rows) + "\n")
    run.record_invocation(command=["train.py", "-m", "model.depth=2,4,8"], git_commit="abc")
    run.write_summary(
        status="finished", stage="base", step=steps, tokens=steps * BATCH, val_bpb=losses[-1], wall_seconds=60.0,
        train_loss=losses[-1] + 1, tokens_per_second=1000.0 * depth, parameters=1000 * depth,
    )  # fmt: skip
    return run


def write_sweep(jobs: list[dict[str, Any]], failed: tuple[str, ...] = ()) -> Path:
    """A sweep of these jobs, each given as arguments of `write_job`, and of some more that failed at once.

    Args:
        failed: the value of model.depth in each of these.
    """
    sweep = SweepFolder(runs_root() / "sweeps" / "one")
    sweep.begin(["hw=cpu", "model.depth=2,4,8"])
    options = {"depth": "model.depth", "rate": "horizon.lr_scale", "seed": "seed", "steps": "horizon.steps"}
    for number, job in enumerate(jobs):
        overrides = ["hw=cpu", *(f"{options[key]}={value}" for key, value in job.items())]
        run = write_job(",".join(overrides), **job)
        sweep.record(number, **job_of(run, overrides, "finished", 0))
    for number, depth in enumerate(failed, len(jobs)):
        overrides = ["hw=cpu", f"model.depth={depth}"]
        error = "The memory is full: 3 < 4. Take a smaller model."
        run = RunFolder.of(",".join(overrides), "base")
        sweep.record(number, **job_of(run, overrides, "failed", 3, error))
    return sweep.path
