"""doctor oom: what a training holds in memory, what was held, and the largest settings that fit."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from nanochat_pl.core.chips import Chip, present_chip
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.figures import size
from nanochat_pl.core.findings import read_events, read_findings
from nanochat_pl.core.hardware import Hardware
from nanochat_pl.core.memory import available_memory_bytes
from nanochat_pl.core.paths import is_out_of_memory
from nanochat_pl.core.run_folder import RunFolder, as_object, parse_object, read_object
from nanochat_pl.diagnosis.diagnosis import Diagnosis, examining
from nanochat_pl.models.contract import build_config
from nanochat_pl.models.cost import ModelCost
from nanochat_pl.models.depth import ModelSpec
from nanochat_pl.optim.scaling import Horizon
from nanochat_pl.planning.out_of_memory import command_that_fits
from nanochat_pl.planning.plan import AUTO_TOKENS, Plan, divisors, largest_that_fits
from nanochat_pl.planning.scaling_table import largest_depth
from nanochat_pl.reporting.records import as_number

HOLDS = {"base": "text", "rl": "questions"}
"""What the data of a stage hold; of the others conversations."""
NEARLY_FULL = 0.95
"""Of a GPU's memory, at which the next step may fail."""
FAR_FROM_FULL = 1 / 3
"""Where the plan wants less than this share, a full memory is not the plan's error."""
HALF_FULL = 0.5
"""A process that was killed without a word, with less than this share, was hardly killed for its memory."""


def diagnose(run: RunFolder, spec: Callable[[], ModelSpec]) -> Diagnosis:
    """Of a run, by what it planned (resolved.json), what it held, and how it ended."""
    diagnosis = Diagnosis("oom", str(run.path))
    if not run.resolved.exists():
        diagnosis.info("There is no resolved.json: the run ended before it was planned, or is none yet.")
        return diagnosis
    with examining(diagnosis, f"{run.resolved.name} or config.yaml"):
        plan = planned(run)
        summary = run.read_summary()
        held = as_number(summary.get("peak_memory_bytes"))
        most = max(held or 0, plan.total_bytes) / max(1, plan.hardware.chip.memory_bytes)
        was_full = _how_it_ended(diagnosis, run, perhaps_full=most > HALF_FULL)
        _judge(diagnosis, plan, held, was_full, fitted=summary.get("status") == "finished")
        if was_full and most < FAR_FROM_FULL:
            diagnosis.warn(
                "That is far from full: another program held the rest, or something grew.",
                "Look which (nvidia-smi, top, python -m nanochat_pl doctor gpu); smaller micro-batches help little.",
            )
        # As the training itself has said, a smaller micro-batch may still pass beside what else is there.
        by_plan = was_full and (most >= FAR_FROM_FULL or plan.micro_batch_rows > 1)
        factor = max(1.0, (held or 0) / plan.total_bytes)
        _print_settings(diagnosis, plan, spec(), _overrides(run), factor, by_plan)
    return diagnosis


def diagnose_plan(plan: Plan, spec: ModelSpec, overrides: Sequence[str]) -> Diagnosis:
    """Of a command that is yet to train."""
    diagnosis = Diagnosis("oom", " ".join(["train.py", *overrides]))
    _judge(diagnosis, plan, None, was_full=False, fitted=False)
    _print_settings(diagnosis, plan, spec, overrides)
    return diagnosis


def planned(run: RunFolder) -> Plan:
    """The plan of a run, as it was decided.

    Raises:
        UserError, KeyError, TypeError, ValueError: resolved.json is damaged or of another version.
    """
    resolved = read_object(run.resolved)
    if not resolved:
        raise UserError(f"{run.resolved} is damaged. The next training here writes it anew.")
    facts = dict(resolved["hardware"])
    chip = dict(facts.pop("chip"))
    chip["profiles"] = tuple((int(count), str(name)) for count, name in chip.get("profiles", ()))
    model = build_config(resolved.get("architecture", "nanochat"), resolved["model"])
    horizon = Horizon(
        int(resolved["steps"]), int(resolved["total_batch_tokens"]), 0, resolved["lr_scale"],
        resolved["weight_decay_scale"],
    )  # fmt: skip
    rows, micro = int(resolved["rows_per_step"]), int(resolved["micro_batch_rows"])
    hardware = Hardware(**facts, chip=Chip(**chip))
    if rows < 1 or micro < 1 or rows % (hardware.world_size * micro):
        raise ValueError(f"{rows} rows a step are not {micro} at a time on {hardware.world_size} device(s)")
    holds = HOLDS.get(run.path.name, "conversations")
    parent = as_object(resolved.get("parent"))
    return Plan(model, hardware, horizon, ModelCost(model), rows, micro, 0.0, holds, parent)


def largest_micro_batch(plan: Plan, recompute: bool, factor: float = 1.0, was_full: bool = False) -> Plan | None:
    """The same training in the largest micro-batches that fit; None where not even one row does.

    Args:
        factor: what is held in truth, as a multiple of the plan.
        was_full: this plan's own micro-batch did not fit, whatever the plan says.
    """
    hardware = dataclasses.replace(plan.hardware, recompute=recompute)
    most = max(plan.micro_batch_rows, AUTO_TOKENS // plan.model.sequence_len)
    if was_full:
        most = plan.micro_batch_rows if recompute and not plan.hardware.recompute else plan.micro_batch_rows // 2
    sizes = [rows for rows in divisors(plan.rows_per_step // hardware.world_size) if rows <= most]
    return largest_that_fits(dataclasses.replace(plan, hardware=hardware), sizes, factor)


def _judge(diagnosis: Diagnosis, plan: Plan, held: float | None, was_full: bool, fitted: bool) -> None:
    chip, total = plan.hardware.chip, plan.total_bytes
    parts = sorted(plan.memory_bytes.items(), key=lambda part: -part[1])[:3]
    most = ", ".join(f"{name} {size(part)}" for name, part in parts)
    of = f"{size(total)} of {size(chip.memory_bytes)} of {chip.name}"
    rows = f"micro-batches of {plan.micro_batch_rows} row(s) of {plan.model.sequence_len:,} tokens"
    if not plan.fits and not fitted:
        diagnosis.wrong(f"Planned, in {rows}: {of}, which does not fit (most: {most}).", "Take a setting below.")
    else:
        diagnosis.good(f"Planned, in {rows}: {of} (most: {most}).")
    if held is not None:
        share = held / max(1, chip.memory_bytes)
        if plan.hardware.accelerator != "cpu" and share > NEARLY_FULL and not was_full:
            diagnosis.warn(f"It held {size(held)} at most: {share:.0%} of the device.", "Take a setting below.")
        else:
            diagnosis.info(f"It held {size(held)} at most.")
    free = _free_now(plan.hardware)
    if free is not None and free < total:
        diagnosis.warn(
            f"Only {size(free)} are free on this machine now.",
            "End what else runs (nvidia-smi or top show it), or take smaller micro-batches.",
        )


def _how_it_ended(diagnosis: Diagnosis, run: RunFolder, perhaps_full: bool) -> bool:
    """Whether the memory was full, by what the run left."""
    errors = [str(event["error"]) for event in read_events(run) if event["event"] == "failed" and "error" in event]
    status, was_full = run.read_summary().get("status"), False
    if status == "failed" and errors and (is_out_of_memory(RuntimeError(errors[-1])) or "memory" in errors[-1].lower()):
        diagnosis.wrong(f"The run ended because the memory was full: {errors[-1][:300]}", "Take a setting below.")
        was_full = True
    elif status == "running" and not run.is_held() and not perhaps_full:
        diagnosis.info("The run was killed without a word, but hardly by a full memory.")
    elif status == "running" and not run.is_held():
        diagnosis.warn(
            "The run was killed without a word, as the system does when the main memory is full (or someone, or a "
            "power cut).",
            "dmesg | grep -i 'out of memory' tells whether it was the system. The same command goes on.",
        )
    creeps = [finding for finding in read_findings(run) if finding.kind == "memory_creep"]
    if creeps:
        diagnosis.warn(
            f"The monitor at step {creeps[-1].step}: {creeps[-1].message}",
            "What grows is no matter of the micro-batch: look for tensors that are kept from step to step (a loss that "
            "is summed up without .item(), a list of outputs).",
        )
    return was_full


def _print_settings(
    diagnosis: Diagnosis,
    plan: Plan,
    spec: ModelSpec,
    overrides: Sequence[str],
    factor: float = 1.0,
    was_full: bool = False,
) -> None:
    """The largest that fit, with their commands; the batch of a step stays the same."""
    plain, recomputing = (largest_micro_batch(plan, recompute, factor, was_full) for recompute in (False, True))
    if factor > 1.05:
        diagnosis.info(f"It held {factor:.2g} times what was planned; the settings below count with that.")
    shown = [one for one in (plain, recomputing) if one is not None]
    if plain and recomputing and plain.micro_batch_rows == recomputing.micro_batch_rows:
        shown = [plain]
    for one in shown:
        saving = one.hardware.recompute
        how = "computing activations again (slower by a third)" if saving else "keeping activations"
        is_taken = (saving, one.micro_batch_rows) == (plan.hardware.recompute, plan.micro_batch_rows)
        diagnosis.info(
            f"Largest micro-batch {how}: {one.micro_batch_rows} row(s), hw.tokens_per_device="
            f"{one.hardware.tokens_per_device}, {size(factor * one.total_bytes)}; the same batch, "
            f"by {one.accumulation} of them a step.",
            "It is the one that is taken." if is_taken else f"\n{command_that_fits(one.hardware, overrides)}",
        )
    smaller_chip = dataclasses.replace(plan.hardware.chip, memory_bytes=int(plan.hardware.chip.memory_bytes / factor))
    hardware = dataclasses.replace(plan.hardware, chip=smaller_chip, recompute=True)
    # A stage behind base has the depth of the model that it begins with.
    ask = (spec, plan.model.vocab_size, hardware, plan.streaming, plan.optimizer)
    deepest = None if plan.parent else largest_depth(*ask)
    if not shown:
        what = f"; model.depth={deepest} is the deepest that does" if deepest else ""
        diagnosis.wrong(
            f"Not even one row fits{what}.",
            "Take a shallower model, a shorter model.sequence_len, or more devices (the optimizer is shared out).",
        )
    elif deepest:
        diagnosis.info(
            f"Deepest model of this kind that fits, one row at a time and recomputing: model.depth={deepest} "
            f"(this one: {plan.model.n_layer})."
        )


def _free_now(hardware: Hardware) -> int | None:
    """On this machine's device, where it is of the plan's kind."""
    if hardware.accelerator == "cpu":
        return available_memory_bytes()
    import torch

    if hardware.accelerator != "cuda" or not torch.cuda.is_available():
        return None
    return torch.cuda.mem_get_info()[0] if present_chip("cuda").name == hardware.chip.name else None


def _overrides(run: RunFolder) -> list[str]:
    """Of the command that trained last."""
    try:
        lines = run.invocations.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    commands = [as_object(parse_object(line)).get("command") for line in lines]
    words: Any = next((command for command in reversed(commands) if isinstance(command, list) and command), None)
    return (
        [str(word) for word in words[1:]] if words else [f'run.name="{run.path.parent.name}"', f"stage={run.path.name}"]
    )
