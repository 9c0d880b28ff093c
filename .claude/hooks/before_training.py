"""PreToolUse on Bash: a training that is bound to fail is refused with the reason; every other command goes ahead."""

from __future__ import annotations  # a machine's own python3 may be older than the project's

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

from project import PROJECT, answer, is_training, patience, python, runs_root, summary
from training_commands import Training, trainings

LEAST_FREE_BYTES = 64 << 20
"""Of the disk that the runs are on: not even the default run's checkpoints fit into less."""
SWEEP = {"-m", "--multirun"}
GPU_FILES = ("nvidia[0-9]*", "nvidiactl", "dxg", "kfd")  # NVIDIA's, Windows' under WSL, AMD's


def before(event: dict[str, Any]) -> dict[str, Any] | None:
    command = event.get("tool_input", {}).get("command", "")
    if event.get("tool_name") != "Bash" or "train" not in command:
        return None
    started = trainings(command, Path(event.get("cwd") or PROJECT), PROJECT)
    if not started or not started[0].comes_first or not started[0].is_plain:
        return None
    training = started[0]
    described = _described(training)
    if reason := _reason_to_fail(training, described):
        return _said(permissionDecision="deny", permissionDecisionReason=reason)
    return _said(additionalContext=_outlook(training.folder / described["run"])) if "run" in described else None


def _said(**fields: str) -> dict[str, Any]:
    return {"hookSpecificOutput": {"hookEventName": "PreToolUse", **fields}}


def _described(training: Training) -> dict[str, Any]:
    """What describe_training.py says of it; empty where it says nothing in time."""
    arguments = _of_first_job(training)
    if any(text.startswith("-") or re.search(r"=(range|choice|glob|interval)\(", text) for text in arguments):
        return {}
    command = [str(python()), str(Path(__file__).with_name("describe_training.py")), *arguments]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)} | training.environment
    try:
        done = subprocess.run(
            command, cwd=training.folder, env=environment, capture_output=True, text=True, timeout=patience()
        )
        return json.loads(done.stdout)
    except (subprocess.TimeoutExpired, OSError, ValueError):
        return {}


def _of_first_job(training: Training) -> list[str]:
    """The arguments; of a sweep those of its first job, without lists in brackets or quotes."""
    if not _is_sweep(training):
        return training.arguments
    arguments = [text for text in training.arguments if text not in SWEEP]
    return [re.sub(r"^([^=\[{('\"]+=[^,\[{('\"]*),[^\[{('\"]*$", r"\1", text) for text in arguments]


def _reason_to_fail(training: Training, described: dict[str, Any]) -> str | None:
    if "error" in described:
        return f"This training would end with exit code 2: {described['error']}"
    if any(text.startswith("hydra/launcher=") for text in training.arguments):
        return None  # it trains elsewhere
    root = runs_root(os.environ | training.environment, training.folder)
    if (free := _free_bytes(root)) < LEAST_FREE_BYTES:
        return (
            f"This training would end with exit code 3: {root.resolve()} is on a disk with {free / 1e6:.0f} MB left. "
            "Free some space, or set NANOCHAT_PL_RUNS to a folder on another disk."
        )
    if described.get("accelerator") == "cuda" and (reason := _lacking_gpus(training, described["devices"] or 1)):
        return reason
    is_one_of_several = training.is_launched or "RANK" in os.environ | training.environment  # rank 0 may be there
    if "run" not in described or _is_sweep(training) or is_one_of_several:
        return None
    if is_training(run := training.folder / described["run"]):
        return (
            f"Another process is training in {run}. Wait for it, stop it, or give this run another folder with "
            "run.name=NAME."
        )
    return None


def _is_sweep(training: Training) -> bool:
    return bool(SWEEP.intersection(training.arguments))


def _free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _lacking_gpus(training: Training, wanted: int) -> str | None:
    files = [path.name for pattern in GPU_FILES for path in Path("/dev").glob(pattern)]
    if not files and shutil.which("nvidia-smi") is None:
        options = shlex.join(_of_first_job(training))
        return (
            "This training would end with exit code 2: its profile asks for a CUDA GPU, and this machine has none. "
            f"Train with hw=auto, or look what it would take: python -m nanochat_pl plan {options}"
        )
    numbered = [name for name in files if re.fullmatch(r"nvidia\d+", name)]
    if 0 < len(numbered) < wanted and not training.is_launched:
        return (
            f"This training would end with exit code 2: it asks for {wanted} GPUs, and this machine has "
            f"{len(numbered)}. Train with hw.devices={len(numbered)}, or a profile of that size."
        )
    return None


def _outlook(run: Path) -> str:
    facts = summary(run)
    state = {"finished": "has finished there: the same command only says so"}.get(facts.get("status", ""), "")
    if not state:
        state = f"goes on there from about step {facts.get('step', 0)}" if facts else "begins there"
    return f"The training's folder is {run}; it {state}. Its log: train.log, what the callbacks found: events.jsonl."


answer(before)
