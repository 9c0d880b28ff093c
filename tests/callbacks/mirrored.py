"""What W&B's files in a run folder hold, for tests."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat_pl.callbacks.wandb.journal import records


@dataclass
class Mirrored:
    """Of all invocations of a run together.

    Attributes:
        runs: the record that each invocation begins with.
        steps: W&B's own step of each row.
        values: (optimizer step, name) -> what was logged there, every time that it was.
        tables: name -> the last of that name.
        alerts, artifacts: their records.
        systems: names of the machine's figures.
        exits: exit codes.
    """

    runs: list[Any] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    steps: list[int] = field(default_factory=list)
    values: dict[tuple[int, str], list[Any]] = field(default_factory=dict)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    alerts: list[Any] = field(default_factory=list)
    artifacts: list[Any] = field(default_factory=list)
    systems: set[str] = field(default_factory=set)
    summary: dict[str, Any] = field(default_factory=dict)
    exits: list[int] = field(default_factory=list)

    def figures(self) -> dict[tuple[int, str], float]:
        """(step, metric) -> its value, each of which must be there once."""
        assert {key for key, values in self.values.items() if len(values) > 1} == set(), "given twice"
        assert self.steps == list(range(len(self.steps))), "W&B's own steps have gaps or go back"
        return {key: values[0] for key, values in self.values.items() if not isinstance(values[0], dict)}


def read_mirrored(run: Path, ended: bool = True) -> Mirrored:
    """Read every invocation's file, in their order.

    Args:
        ended: the last has come to its end, which W&B's own process may yet have to write down.
    """
    files: list[Path] = []
    for _ in range(100 if ended else 1):
        found = run.glob("wandb/*run-*/*.wandb")
        files = sorted(found, key=lambda file: file.parent.name.removeprefix("offline-"))
        if files and any(record.WhichOneof("record_type") == "exit" for record in records(files[-1])):
            break
        time.sleep(0.1)
    mirrored = Mirrored()
    for file in files:
        for record in records(file):
            _add(mirrored, record, file.parent)
    return mirrored


def _add(mirrored: Mirrored, record: Any, folder: Path) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        mirrored.runs.append(record.run)
        mirrored.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    elif kind == "history":
        row: dict[str, Any] = {}
        for item in record.history.item:
            name, *inner = item.nested_key or [item.key]
            if inner:
                row.setdefault(name, {})[inner[0]] = json.loads(item.value_json)
            else:
                row[name] = json.loads(item.value_json)
        mirrored.steps.append(record.history.step.num)
        step = row.pop("train/step")
        for name, value in row.items():
            if not name.startswith("_"):
                mirrored.values.setdefault((step, name), []).append(value)
            if isinstance(value, dict):
                mirrored.tables[name] = json.loads((folder / "files" / value["path"]).read_text())
    elif kind == "alert":
        mirrored.alerts.append(record.alert)
    elif kind == "artifact":
        mirrored.artifacts.append(record.artifact)
    elif kind == "stats":
        mirrored.systems |= {item.key for item in record.stats.item}
    elif kind == "summary":
        mirrored.summary |= {
            item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.summary.update
        }
    elif kind == "exit":
        mirrored.exits.append(record.exit.exit_code)


def logged(run: Path) -> dict[tuple[int, str], float]:
    """The same of metrics.csv."""
    import csv

    with (run / "metrics.csv").open(newline="") as file:
        rows = [(int(row.pop("step")), row) for row in csv.DictReader(file)]
    return {(step, name): float(value) for step, row in rows for name, value in row.items() if value}
