"""What a report says of a run, in words and tables."""

import re
import shlex
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nanochat_pl.core.figures import duration, number, size
from nanochat_pl.core.run_folder import as_object
from nanochat_pl.reporting.evaluations import draw_evaluations, tables_of_evaluations
from nanochat_pl.reporting.pictures import Picture, draw_metrics
from nanochat_pl.reporting.records import RunRecord, StageRecord, as_list, as_number
from nanochat_pl.reporting.tables import Cell, Table

ENDINGS = {
    "running": "It was in training when this was written, or it was killed: the same command goes on.",
    "interrupted": "The state was saved: the same command goes on.",
    "failed": "Its last good checkpoint is kept: the same command goes on from there.",
    "diverged": "The loss was no longer a finite number. The last good checkpoint is kept.",
    "not begun": "Nothing was trained.",
}
"""What to say of a stage that is not finished."""

_CURVE_ROWS = 8


class Fact(NamedTuple):
    """One line of what is known."""

    name: str
    value: str


class Sample(NamedTuple):
    """What the model wrote, behind the prompt that it was given where the configuration has that."""

    prompt: str
    text: str


@dataclass(frozen=True)
class StageSection:
    """One stage.

    Attributes:
        trouble: how it ended, where that was not well; empty for a finished one.
        last_words: the end of its log, then.
        picture_path: of loss.png, relative to the run's folder; empty where there is none.
    """

    name: str
    status: str
    trouble: str
    last_words: str
    facts: list[Fact]
    pictures: list[Picture]
    validations: Table | None
    samples: list[Sample]
    samples_step: int | None
    plan: str
    picture_path: str


@dataclass(frozen=True)
class Report:
    """All of it."""

    name: str
    lead: str
    written: str
    overview: Table
    evaluations: list[Table]
    stages: list[StageSection]
    cost: Table
    environment: list[Fact]
    commands: list[str]
    changed: bool
    pictures: list[Picture] = field(default_factory=list)


def build_report(run: RunRecord, price_per_hour: float | None = None) -> Report:
    """Say all that the records hold.

    Args:
        price_per_hour: of one device; None leaves money out.
    """
    invocations = sorted(
        (call for stage in run.stages for call in stage.invocations), key=lambda call: str(call.get("time", ""))
    )
    return Report(
        name=run.name,
        lead=_lead(run),
        written=time.strftime("%Y-%m-%d %H:%M"),
        overview=_overview(run.stages),
        evaluations=tables_of_evaluations(run.stages),
        stages=[_section(stage) for stage in run.stages],
        cost=_cost(run.stages, price_per_hour),
        environment=_environment(run.stages, invocations),
        commands=_commands(invocations),
        changed=any(str(call.get("git_commit")).endswith("+changes") for call in invocations),
        pictures=draw_evaluations(run.stages),
    )


def _lead(run: RunRecord) -> str:
    names = [stage.name for stage in run.stages]
    listed = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    parameters = next((n for stage in run.stages[::-1] if (n := stage.number("parameters"))), None)
    tokens = sum(stage.number("tokens") or 0 for stage in run.stages)
    seconds = sum(stage.number("wall_seconds") or 0 for stage in run.stages)
    parts = [number(parameters) + " parameters" if parameters else "", f"{number(tokens)} tokens" if tokens else ""]
    done = ", ".join(filter(None, [*parts, duration(seconds) if seconds else ""]))
    hardware = next((found for stage in run.stages if (found := _plan_line(stage, "hardware"))), "")
    text = f"{'Stages' if len(names) > 1 else 'Stage'} {listed}: {done or 'nothing trained yet'}"
    return f"{text} on {hardware}." if hardware else f"{text}."


def _plan_line(stage: StageRecord, label: str) -> str:
    match = re.search(rf"^\s*{label}  (.*)$", stage.plan, flags=re.MULTILINE)
    return match[1] if match else ""


def _overview(stages: list[StageRecord]) -> Table:
    rows = []
    for stage in stages:
        rows.append([
            Cell(stage.name),
            Cell(stage.status, tone="" if stage.status == "finished" else "bad"),
            Cell(_steps(stage)),
            Cell(_or("–", stage.number("tokens"), number)),
            Cell(_or("–", stage.number("wall_seconds"), duration)),
            Cell(_or("–", _speed(stage), number)),
            Cell(_or("–", stage.number("peak_memory_bytes"), size)),
            Cell("–" if stage.name == "rl" else _or("–", stage.number("train_loss"), lambda x: f"{x:.3f}")),
            Cell(_validated(stage)),
        ])  # fmt: skip
    head = ["stage", "status", "steps", "tokens", "time", "tokens/s", "peak memory", "training loss", "validation"]
    note = (
        "tokens/s: the median of the training. Loss: nats per token. bpb: bits per byte; those of different stages "
        "are of different texts."
    )
    return Table("", head, rows, note)


def _validated(stage: StageRecord) -> str:
    if (bits := stage.number("val_bpb")) is not None:
        return f"{bits:.3f} bpb"
    passed = stage.metrics.get("val/pass@1")
    return f"{passed[-1][1]:.3f} pass@1" if passed else "–"


def _steps(stage: StageRecord) -> str:
    done, planned = stage.number("step"), as_number(stage.resolved.get("steps"))
    if done is None:
        return f"0 of {planned:,}" if planned else "0"
    return f"{done:,}" if planned in (None, done) else f"{done:,} of {planned:,}"


def _speed(stage: StageRecord) -> float | None:
    speeds = sorted(value for _, value in stage.metrics.get("speed/tokens_per_second", []))
    return speeds[len(speeds) // 2] if speeds else stage.number("tokens_per_second")


def _or(otherwise: str, value: Any, shown: Any) -> str:
    return otherwise if value is None else shown(value)


def _section(stage: StageRecord) -> StageSection:
    trouble = _trouble(stage)
    return StageSection(
        name=stage.name,
        status=stage.status,
        trouble=trouble,
        last_words=stage.last_words if trouble else "",
        facts=_facts(stage),
        pictures=draw_metrics(stage.metrics, stage.name),
        validations=_validations(stage),
        samples=[_sample(stage, text) for text in stage.samples],
        samples_step=stage.samples_step,
        plan=stage.plan,
        picture_path=f"{stage.name}/{stage.folder.loss_picture.name}" if stage.has_picture else "",
    )


def _trouble(stage: StageRecord) -> str:
    if stage.status == "finished":
        return ""
    ending = ENDINGS.get(stage.status, "It did not finish.")
    return f"{_steps(stage)} steps are done. {ending}"


def _sample(stage: StageRecord, text: str) -> Sample:
    asked = as_object(as_object(stage.config.get("callbacks")).get("samples")).get("prompts")
    prompt = max((prompt for prompt in map(str, as_list(asked)) if text.startswith(prompt)), key=len, default="")
    return Sample(prompt, text[len(prompt) :])


def _facts(stage: StageRecord) -> list[Fact]:
    config, resolved, number_of = stage.config, stage.resolved, stage.number
    model, data, parent = (
        as_object(section) for section in (resolved.get("model"), config.get("data"), resolved.get("parent"))
    )
    shape = [text.format(model[key]) for key, text in _SHAPE.items() if isinstance(model.get(key), int)]
    read = {"pieces": "conversations" if data.get("tasks") else "documents and parts of long ones"}
    counters = as_object(stage.summary.get("data")).items()
    counted = [f"{n:,} {read.get(k, k.replace('_', ' '))}" for k, n in counters if as_number(n) and k not in _KNOWN]
    step, first = as_number(parent.get("step")), number_of("seconds_to_first_step")
    began = f"{parent.get('stage')}{_or('', step, ' at step {:,}'.format)}: {parent.get('path')}"
    facts = {
        "recipe": str(config.get("recipe_name") or ""),
        "begins with": began if parent.get("stage") else "",
        **_data(data),
        "model": ", ".join(shape),
        "parameters": _or("", number_of("parameters"), "{:,}".format),
        "batch": _batch(stage),
        "steps": _steps(stage),
        "tokens": _or("", number_of("tokens"), "{:,}".format),
        "read": ", ".join(counted),
        "time": _or("", number_of("wall_seconds"), duration) + (f", {first:.0f} s to step 1" if first else ""),
        "speed": _or("", _speed(stage), lambda speed: f"{number(speed)} tokens/s"),
        "peak memory": _or("", number_of("peak_memory_bytes"), size),
    }
    return [Fact(name, text) for name, text in facts.items() if text]


_KNOWN = ("tokens", "epoch")
"""Counters of the data that are told elsewhere."""

_SHAPE = {
    "n_layer": "{:,} layers", "n_embd": "width {:,}", "n_head": "{:,} heads",
    "n_kv_head": "{:,} heads of keys and values", "sequence_len": "context {:,}", "vocab_size": "vocabulary {:,}",
}  # fmt: skip


def _batch(stage: StageRecord) -> str:
    """How much is one step, and in which pieces."""
    resolved = stage.resolved
    total, rows_per_step = as_number(resolved.get("total_batch_tokens")), as_number(resolved.get("rows_per_step"))
    amount = f"{total:,} tokens a step" if total else ""
    if stage.name == "rl":
        amount = f"{rows_per_step:,} answers a step" if rows_per_step else ""
    rows, accumulation = resolved.get("micro_batch_rows"), resolved.get("accumulation")
    devices = as_object(resolved.get("hardware")).get("devices")
    if not (amount and rows and accumulation and devices):
        return amount
    return f"{amount} = {accumulation} x {rows} rows" + (f" x {devices} devices" if devices != 1 else "")


def _data(data: dict[str, Any]) -> dict[str, str]:
    """What was read, in the words of the config."""
    kind = re.sub(r"(Data)?Spec$", "", str(data.get("_target_", "")).rpartition(".")[2])
    settings = ("repo", "config", "split", "path", "files", "num_documents")
    named = [f"{key}={data[key]}" for key in settings if data.get(key) is not None]
    tasks = ", ".join(map(_task, as_list(data.get("tasks")) or filter(None, [data.get("task")])))
    held_out = ", ".join(map(_task, as_list(data.get("val_tasks")) or filter(None, [data.get("val_task")])))
    text = "" if tasks else ", ".join(filter(None, [kind.lower(), *named]))
    return {"data": text, "tasks": tasks, "validated on": held_out}


def _task(task: Any) -> str:
    if not isinstance(task, dict):
        return str(task)
    start, stop, epochs = (as_number(task.get(key)) for key in ("start", "stop", "epochs"))
    start, epochs, split = start or 0, 1 if epochs is None else epochs, task.get("split")
    text = str(task.get("name")) + (f" {task['path']}" if task.get("path") else "")
    limits = [str(split)] if split not in (None, "train") else []
    limits += [f"first {stop:,}" if not start else f"{start:,} to {stop:,}"] if stop else []
    limits += [f"from {start:,} on"] if start and not stop else []
    text += f" ({', '.join(limits)})" if limits else ""
    return text + (f" x {epochs:g}" if epochs != 1 else "")


def _validations(stage: StageRecord) -> Table | None:
    """Some of the validations as numbers, the first and the last among them."""
    names = [name for name in stage.metrics if name.startswith("val/")]
    if not names:
        return None
    values = {name: dict(stage.metrics[name]) for name in names}
    steps = sorted({step for series in values.values() for step in series})
    count = min(_CURVE_ROWS, len(steps))
    shown = sorted({round(i * (len(steps) - 1) / max(1, count - 1)) for i in range(count)})
    rows = [
        [Cell(f"{steps[i]:,}"), *(Cell(_or("–", values[name].get(steps[i]), lambda x: f"{x:.4f}")) for name in names)]
        for i in shown
    ]
    return Table("", ["step", *(name.removeprefix("val/") for name in names)], rows)


def _cost(stages: list[StageRecord], price_per_hour: float | None) -> Table:
    rows, totals = [], [0.0, 0.0]
    for stage in stages:
        seconds, devices = stage.number("wall_seconds") or 0.0, stage.number("world_size") or 1
        hours = seconds / 3600 * devices
        totals = [totals[0] + seconds, totals[1] + hours]
        rows.append([Cell(stage.name), Cell(duration(seconds)), Cell(f"{devices:,}"), *_priced(hours, price_per_hour)])
    if len(rows) > 1:
        rows.append([Cell("all"), Cell(duration(totals[0])), Cell(""), *_priced(totals[1], price_per_hour)])
    head = ["stage", "wall time", "devices", "device hours"]
    note = "Wall time is that of all commands that trained the stage: start-up, validations and evaluations included."
    if price_per_hour is not None:
        head, note = [*head, "price"], f"{note} Price: {price_per_hour:g} for a device and hour."
    return Table("", head, rows, note)


def _priced(hours: float, price_per_hour: float | None) -> list[Cell]:
    price = [] if price_per_hour is None else [Cell(f"{hours * price_per_hour:,.2f}")]
    return [Cell(f"{hours:,.{2 if hours >= 1 else 4}f}"), *price]


def _environment(stages: list[StageRecord], invocations: list[dict[str, Any]]) -> list[Fact]:
    facts = [("machine", text) for text in _distinct(_plan_line(stage, "hardware") for stage in stages)]
    facts += [("memory", text) for text in _distinct(_plan_line(stage, "memory") for stage in stages)][-1:]
    facts += [("git commit", text) for text in _distinct(call.get("git_commit") for call in invocations)]
    versions = as_object(invocations[-1].get("versions")) if invocations else {}
    facts.append(("versions", ", ".join(f"{package} {version}" for package, version in versions.items())))
    facts.append(("started", next((str(call["time"]) for call in invocations if call.get("time")), "")))
    return [Fact(name, text) for name, text in facts if text]


def _commands(invocations: list[dict[str, Any]]) -> list[str]:
    """Each command once, at the commit that it was given at."""
    lines: list[str] = []
    at = ""
    for call in invocations:
        line = shlex.join(["python", *map(str, as_list(call.get("command")))])
        if line == "python" or line in lines:
            continue
        commit = str(call.get("git_commit") or "").removesuffix("+changes")
        if commit and commit != at:
            lines.append(f"git checkout {commit}")
            at = commit
        lines.append(line)
    return lines


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(value for value in values if value))
