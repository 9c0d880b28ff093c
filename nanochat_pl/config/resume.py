"""What to do with a run folder that is already there: go on, or refuse; and what to say at the end."""

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.flat import flat
from nanochat_pl.core.paths import write_text
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.planning.plan import Plan

MAY_CHANGE = (
    "run.", "trainer.", "callbacks.", "logger.", "schedule.", "horizon.steps", "horizon.epochs", "horizon.flops",
    "hw.accelerator", "hw.chip", "hw.devices", "hw.nodes", "hw.tokens_per_device", "hw.attention", "hw.compile",
    "hw.recompute", "hw.timeout_seconds", "hw.threads", "hw.loader_threads",
    "streaming.rank_k", "data.mode", "data.cache_gigabytes", "data.on_bad_shard",
)  # fmt: skip
"""Options (or sections) that an unfinished run may be resumed with in another setting: none changes which rows a step
trains on. More steps and another schedule are how a run is extended."""


@dataclass(frozen=True)
class Earlier:
    """What an earlier invocation left in the folder.

    Attributes:
        finished_steps: the steps it finished with, None where it did not finish.
        resolved: its automatic decisions.
    """

    finished_steps: int | None
    resolved: dict[str, Any]


def load_config(run: RunFolder) -> DictConfig:
    """The configuration that a run was trained with.

    Raises:
        UserError: it is damaged.
    """
    try:
        config = OmegaConf.load(run.config)
        assert isinstance(config, DictConfig), "it is no mapping"
    except (YAMLError, AssertionError) as error:
        raise UserError(f"{run.config} is damaged: {error}. Restore it, or train anew with run.fresh=true.") from error
    return config


def find_earlier(run: RunFolder, config: DictConfig) -> Earlier | None:
    """The earlier run in this folder; None where there is none, or it ended before its first checkpoint.

    Raises:
        UserError: it was trained with another configuration; the difference is shown.
    """
    if not run.config.exists() or not any(run.checkpoints.glob("step-*.ckpt")):
        return None
    differences = _differences(load_config(run), config)
    if differences:
        may_change = ", ".join(name.rstrip(".") for name in MAY_CHANGE)
        shown = "; ".join(f"{key} was {old!r} and is now {new!r}" for key, old, new in differences[:5])
        more = f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise UserError(
            f"{run.path} holds a run of another configuration: {shown}{more}. Repeat the earlier values to go on with "
            "it, give this one its own folder with run.name=NAME, or start over with run.fresh=true (the earlier run "
            f"is moved aside). On resume only these may change: {may_change}."
        )
    summary = run.read_summary()
    try:
        resolved = json.loads(run.resolved.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        resolved = {}
    finished = summary.get("step") if summary.get("status") == "finished" else None
    return Earlier(finished_steps=finished, resolved=resolved)


def record(run: RunFolder, config: DictConfig, plan: Plan) -> None:
    """Write config.yaml, resolved.json and plan.txt."""
    write_text(run.config, OmegaConf.to_yaml(config, resolve=True))
    write_text(run.resolved, json.dumps(plan.as_dict(), indent=2) + "\n")
    write_text(run.plan, plan.text() + "\n")


def finished_message(run: RunFolder, overrides: Sequence[str]) -> str:
    """What to say when the same command meets a finished run."""
    summary = run.read_summary()
    return (
        f"{run.path} is finished ({summary['step']} steps{_bits_per_byte(summary)}); nothing to do. Go on with\n"
        f"  {_longer(run, overrides)}   (train it longer)\n"
        f"  {_command(overrides, 'run.fresh=true')}   (start over; the finished run is moved aside)\n"
        f"  {_command(overrides, 'run.name=another')}   (one more beside it)"
    )


def next_steps(run: RunFolder, overrides: Sequence[str]) -> str:
    """What a finished run has made, and the next commands."""
    summary, path = run.read_summary(), os.path.relpath(run.path)
    trained = (
        f"\nTrained {summary['step']:,} steps{_tokens(summary)} in {summary['wall_seconds']:.0f} s"
        f"{_bits_per_byte(summary)}.\n"
    )
    if not run.model.exists():
        return trained
    if summary.get("stage") == "base":
        try_it = shlex.join(["python", "-m", "nanochat_pl", "sample", path, "--prompt", "One sunny morning,"])
    else:
        try_it = shlex.join(["python", "-m", "nanochat_pl", "chat", path])
    return (
        f"{trained}  {path}/model      the portable model\n"
        f"  {path}/loss.png   the loss curve (numbers in metrics.csv, samples in samples.txt)\n\n"
        f"Next:\n  {try_it}\n  {_longer(run, overrides)}   (train it longer)" + _next_stage(run, overrides)
    )


def _next_stage(run: RunFolder, overrides: Sequence[str]) -> str:
    following = {"base": ("sft", "teach it to answer"), "mid": ("sft", "teach it to answer"),
                 "sft": ("rl", "reward its right answers")}.get(run.path.name)  # fmt: skip
    if following is None or any(override.startswith("experiment=") for override in overrides):
        return ""
    own = [override for override in overrides if not override.startswith("stage=")]
    kept = [override for override in own if override.startswith(("recipe=", "hw=", "hw.", "streaming."))]
    name = [_quoted_name(run)] if kept != own else []
    return f"\n  {shlex.join(['python', 'train.py', f'stage={following[0]}', *kept, *name])}   ({following[1]})"


def _tokens(summary: dict[str, Any]) -> str:
    return f", {summary['tokens']:,} tokens" if "tokens" in summary else ""


def _bits_per_byte(summary: dict[str, Any]) -> str:
    return f", val bpb {summary['val_bpb']:.4f}" if "val_bpb" in summary else ""


def _longer(run: RunFolder, overrides: Sequence[str]) -> str:
    epochs = load_config(run).horizon.get("epochs")
    longer = f"horizon.epochs={2 * epochs:g}" if epochs else f"horizon.steps={2 * run.read_summary()['step']}"
    kept = [
        override
        for override in overrides
        if not override.startswith(("horizon.steps=", "horizon.epochs=", "horizon.flops="))
    ]
    return _command(kept, _quoted_name(run), longer)


def _quoted_name(run: RunFolder) -> str:
    # Quoted for Hydra, which reads commas and equals signs, and then by shlex for the shell.
    return f'run.name="{run.path.parent.name}"'


def _command(overrides: Sequence[str], *more: str) -> str:
    kept = [override for override in overrides if not override.startswith("run.")]
    return shlex.join(["python", "train.py", *kept, *more])


def _differences(before: DictConfig, after: DictConfig) -> list[tuple[str, Any, Any]]:
    old, new = flat(OmegaConf.to_container(before, resolve=True)), flat(OmegaConf.to_container(after, resolve=True))
    # What an earlier version did not have: whole sections, and options that stand as if nobody had set them.
    since = {key for key in new.keys() - old.keys() if key.split(".")[0] not in before or _is_default(after, key)}
    keys = sorted(key for key in (old.keys() | new.keys()) - since if not key.startswith(MAY_CHANGE))
    return [(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]


def _is_default(config: DictConfig, key: str) -> bool:
    """Whether an option has the value that its section's dataclass gives it."""
    section, *names = key.split(".")
    target = OmegaConf.select(config, f"{section}._target_")
    if target is None:
        return False
    try:
        value: Any = get_class(target)
    except ValueError:  # a function, whose defaults are not asked for
        return False
    for name in names:
        value = getattr(value, name, ...)
    return value == OmegaConf.select(config, key)
