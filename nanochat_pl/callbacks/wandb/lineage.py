"""Models at W&B: what a run has made, and what it began with, so that base, mid, sft and rl are one line."""

import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

from nanochat_pl.callbacks.wandb.journal import Journal
from nanochat_pl.core.run_folder import RunFolder, as_object, read_object

log = logging.getLogger(__name__)


def artifact_name(model: Path) -> str:
    """Of a model folder, `runs/NAME/STAGE/model`: NAME-STAGE, with the characters that W&B allows."""
    stage = model.resolve().parent
    return re.sub(r"[^\w.-]+", "_", f"{stage.parent.name}-{stage.name}")[:128]


def use_parent(session: Any, run: RunFolder) -> None:
    """Say which model the run began with.

    Where W&B has the same files under the same name, it is that version; else they are sent.
    """
    parent = as_object(read_object(run.resolved).get("parent"))
    if not parent or not Path(parent["path"]).is_dir():
        return
    artifact = _artifact(run, Path(parent["path"]), parent["step"], {"stage": parent["stage"]})
    # As `use_artifact` does it, which refuses offline, and waits for the upload.
    session._log_artifact(artifact, aliases=[f"step-{parent['step']}"], is_user_created=True, use_after_commit=True)


def give_model(session: Any, run: RunFolder, journal: Journal) -> None:
    """Make the trained model an artifact of this run, unless it is one already."""
    summary = run.read_summary()
    step = summary.get("step", 0)
    if not run.model.is_dir() or journal.has_model(step):
        return
    facts = {name: summary[name] for name in ("tokens", "val_bpb", "parameters") if name in summary}
    artifact = _artifact(run, run.model, step, {"stage": run.path.name} | facts)
    session.log_artifact(artifact, aliases=["latest", f"step-{step}"])
    journal.give_model(step)


def _artifact(run: RunFolder, model: Path, step: int, facts: dict[str, Any]) -> Any:
    import wandb

    name = artifact_name(model)
    artifact = wandb.Artifact(name, "model", metadata={"step": step} | facts)
    # Links to the files of now: training replaces them by others, and these take no room until then.
    kept = run.path / "wandb" / "models" / f"{name}-step-{step}"
    shutil.copytree(model, kept, copy_function=_link, dirs_exist_ok=True)
    artifact.add_dir(str(kept), policy="immutable", skip_cache=True)
    return artifact


def _link(source: str, target: str) -> None:
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
