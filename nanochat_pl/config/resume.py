"""What to do with a run folder that is already there: go on, start anew, or refuse."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.paths import write_text
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.planning.plan import Plan, measured_matmul_flops_per_second

MAY_CHANGE = ("run", "hw", "trainer", "callbacks", "logger", "horizon", "schedule")
"""Sections that an unfinished run may be resumed with in another setting: none of them changes what a step trains on,
and a longer horizon or another warmdown is how a run is extended."""


@dataclass(frozen=True)
class Earlier:
    """What an earlier invocation left in the folder.

    Attributes:
        finished_steps: the steps it finished with, None where it did not finish.
        resolved: its automatic decisions.
    """

    finished_steps: int | None
    resolved: dict[str, Any]


def find_earlier(run: RunFolder, config: DictConfig) -> Earlier | None:
    """The earlier run in this folder; None where there is none, or it was moved aside (`run.fresh=true`).

    Raises:
        UserError: it was trained with another configuration; the difference is shown.
    """
    if not run.config.exists():
        return None
    if config.run.fresh:
        _move_aside(run)
        return None
    differences = _differences(OmegaConf.load(run.config), config)
    if differences:
        shown = "; ".join(f"{key} was {old!r} and is now {new!r}" for key, old, new in differences[:5])
        more = f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise UserError(
            f"{run.path} holds a run of another configuration: {shown}{more}. Repeat the earlier values to go on with "
            "it, give this one its own folder with run.name=NAME, or start over with run.fresh=true (the earlier run "
            "is moved aside). On resume only these sections may change: " + ", ".join(MAY_CHANGE) + "."
        )
    summary = run.read_summary()
    try:
        resolved = json.loads(run.resolved.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        resolved = {}
    finished = summary.get("step") if summary.get("status") == "finished" else None
    return Earlier(finished_steps=finished, resolved=resolved)


def record(run: RunFolder, config: DictConfig, plan: Plan) -> None:
    """Write config.yaml, resolved.json and plan.txt, with the expected time on this device."""
    hardware = plan.hardware
    speed = measured_matmul_flops_per_second(hardware.accelerator, hardware.compute_dtype, plan.model.n_embd)
    write_text(run.config, OmegaConf.to_yaml(config, resolve=True))
    write_text(run.resolved, json.dumps(plan.as_dict(), indent=2) + "\n")
    write_text(run.plan, plan.text(speed) + "\n")


def finished_message(run: RunFolder, steps: int) -> str:
    """What to say when the same command meets a finished run."""
    name, stage = run.path.parent.name, run.path.name
    summary = run.read_summary()
    reached = f", val bpb {summary['val_bpb']:.4f}" if summary.get("val_bpb") is not None else ""
    return (
        f"{run.path} is finished ({steps} steps{reached}); nothing to do. Go on with\n"
        f"  python train.py run.name={name} stage={stage} horizon.steps={2 * steps}   (more steps)\n"
        f"  python train.py run.fresh=true   (start over; the finished run is moved aside)\n"
        f"  python train.py run.name=NAME   (another run beside it)"
    )


def next_steps(run: RunFolder) -> str:
    """What a finished run has made, and the next two commands."""
    summary, relative = run.read_summary(), os.path.relpath(run.path)
    bpb = f", val bpb {summary['val_bpb']:.4f}" if summary.get("val_bpb") is not None else ""
    return (
        f"\nTrained {summary['step']:,} steps, {summary['tokens']:,} tokens in {summary['wall_seconds']:.0f} s{bpb}.\n"
        f"  {relative}/model      the portable model\n"
        f"  {relative}/loss.png   the loss curve (numbers in metrics.csv, samples in samples.txt)\n\n"
        f'Next:\n  python -m nanochat_pl sample {relative} --prompt "Once upon a time"\n'
        f"  python train.py run.name={run.path.parent.name} horizon.steps={2 * summary['step']}   (train it longer)"
    )


def _move_aside(run: RunFolder) -> None:
    target = Path(f"{run.path}.before-{time.strftime('%Y%m%d-%H%M%S')}")
    while target.exists():
        target = Path(f"{target}x")
    target.mkdir()
    for item in run.path.iterdir():
        if item.name != ".lock":
            os.replace(item, target / item.name)


def _differences(before: Any, after: DictConfig) -> list[tuple[str, Any, Any]]:
    old, new = _flat(OmegaConf.to_container(before, resolve=True)), _flat(OmegaConf.to_container(after, resolve=True))
    keys = sorted(key for key in old.keys() | new.keys() if key.partition(".")[0] not in MAY_CHANGE)
    return [(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix[:-1]: values}
    return {key: value for name, part in values.items() for key, value in _flat(part, f"{prefix}{name}.").items()}
