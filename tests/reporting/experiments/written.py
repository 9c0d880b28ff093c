"""Experiments as trainings leave them behind, with numbers that a test chooses."""

import json
from typing import Any

import yaml

from nanochat_pl.core.paths import write_text
from nanochat_pl.core.run_folder import RunFolder

BEGAN = "2026-01-{day:02}T10:00:00+0000"


def write_run(name: str, *, day: int = 1, stage: str = "base", status: str = "finished", **more: Any) -> RunFolder:
    """One stage of a run of the recipe tiny, trained for 24 of 24 steps where it is finished, else for 8.

    Args:
        day: of January, on which it was begun.
        more: val_bpb, seed, depth, lr_scale, goal, error, metrics (lines of metrics.csv), began_with (a model).
    """
    run = RunFolder.of(name, stage)
    step = 24 if status == "finished" else 8
    depth, seed, scale = more.get("depth", 4), more.get("seed", 42), more.get("lr_scale", 0.2)
    config = {
        "recipe_name": "tiny", "seed": seed, "model": {"depth": depth}, "horizon": {"lr_scale": scale},
        "stage": {"name": stage}, "run": {"name": name}, "callbacks": {"metrics": {"every_n_steps": day}},
        "data": {"_target_": "nanochat_pl.data.specs.TinyDataSpec", "num_documents": 64},
    }  # fmt: skip
    write_text(run.config, yaml.safe_dump(config))
    hardware = {"chip": {"name": "Abacus 3000"}, "devices": 2, "nodes": 1, "precision": "float32"}
    parent = {"path": more["began_with"]} if "began_with" in more else {}
    write_text(run.resolved, json.dumps({"steps": 24, "lr_scale": scale, "hardware": hardware, "parent": parent}))
    write_text(run.metrics, "step,train/loss,val/bpb\n" + more.get("metrics", "8,3.0,\n"))
    overrides = [f"model.depth={depth}", f"seed={seed}", f"run.name={name}"]
    call = {"resumed_step": None, "goal": more.get("goal"), "overrides": overrides, "command": ["train.py", *overrides]}
    write_text(run.invocations, json.dumps({"time": BEGAN.format(day=day)} | call) + "\n")
    run.write_summary(
        status=status, stage=stage, step=step, tokens=2048 * step, parameters=1_000_000, wall_seconds=90.0,
        train_loss=3.0, val_bpb=more.get("val_bpb", 1.5), tokens_per_second=1000.0, command=["train.py", *overrides],
    )  # fmt: skip
    if status != "running":
        run.record_event(status, **({"error": more["error"]} if "error" in more else {}))
    return run
