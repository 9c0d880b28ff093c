"""The folder of one stage of one run: its files, its lock, and its records."""

import csv
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanochat_pl.core.errors import DivergedError, Interrupted, UserError
from nanochat_pl.core.paths import runs_root, write_text


class RunFolder:
    """`runs/NAME/STAGE/`: every path and every record of a run goes through here.

    Attributes:
        path: the folder itself.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.resolved = self.path / "resolved.json"
        self.plan = self.path / "plan.txt"
        self.log = self.path / "train.log"
        self.metrics = self.path / "metrics.csv"
        self.events = self.path / "events.jsonl"
        self.invocations = self.path / "invocations.jsonl"
        self.loss_picture = self.path / "loss.png"
        self.samples = self.path / "samples.txt"
        self.summary = self.path / "summary.json"
        self.evaluations = self.path / "evaluations.json"
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"

    @classmethod
    def of(cls, name: str, stage: str) -> "RunFolder":
        return cls(runs_root() / name / stage)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder for this process.

        Raises:
            UserError: another process trains here.
        """
        from filelock import FileLock, Timeout

        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            with lock.acquire(timeout=0):
                for leftover in self.path.rglob(".*.tmp"):  # of a process that was killed while it wrote
                    leftover.unlink()
                yield
        except Timeout:
            raise UserError(
                f"Another process is training in {self.path}. Wait for it, stop it, or give this run another folder "
                "with run.name=NAME."
            ) from None

    def move_aside(self) -> None:
        """Rename what is here to `STAGE.before-TIME`, beside this folder."""
        items = [item for item in self.path.iterdir() if item.name != ".lock"]
        if not items:
            return
        target = Path(f"{self.path}.before-{time.strftime('%Y%m%d-%H%M%S')}")
        while target.exists():
            target = Path(f"{target}x")
        target.mkdir()
        for item in items:
            os.replace(item, target / item.name)

    @contextmanager
    def recording(self, **facts: Any) -> Iterator[None]:
        """Keeps `status` in summary.json while inside: running, then finished, interrupted, diverged or failed.

        Args:
            facts: of this invocation, written at once.
        """
        self.write_summary(status="running", **facts)
        status = "failed"
        try:
            yield
            status = "finished"
        except (Interrupted, KeyboardInterrupt):
            status = "interrupted"
            raise
        except DivergedError:
            status = "diverged"
            raise
        finally:
            self.write_summary(status=status)
            self.record_event(status)

    def read_summary(self) -> dict[str, Any]:
        """The summary, or an empty dict where there is none (or an unreadable one)."""
        return _read_object(self.summary)

    def write_summary(self, **fields: Any) -> None:
        """Merge `fields` into summary.json."""
        write_text(self.summary, json.dumps(self.read_summary() | fields, indent=2) + "\n")

    def read_evaluations(self) -> dict[str, dict[str, Any]]:
        """suite -> step, as text -> its result; empty where there are none."""
        return _read_object(self.evaluations)

    def record_evaluation(self, suite: str, step: int, result: dict[str, Any], row: dict[str, Any]) -> None:
        """Keep the result of a suite at a step, and `row` in the summary as the newest one of this suite."""
        evaluations = self.read_evaluations()
        evaluations.setdefault(suite, {})[str(step)] = {"time": _now()} | result
        write_text(self.evaluations, json.dumps(evaluations, indent=2) + "\n")
        self.write_summary(evaluations=self.read_summary().get("evaluations", {}) | {suite: {"step": step} | row})

    def drop_evaluations(self, after: int) -> None:
        """Forget the results of later steps, which are trained anew."""
        evaluations = self.read_evaluations()
        kept = {
            suite: {step: result for step, result in results.items() if int(step) <= after}
            for suite, results in evaluations.items()
        }
        if kept != evaluations:
            write_text(self.evaluations, json.dumps(kept, indent=2) + "\n")

    def record_event(self, kind: str, **fields: Any) -> None:
        """Append one line to events.jsonl."""
        _append_line(self.events, {"time": _now(), "event": kind} | fields)

    def record_invocation(self, **fields: Any) -> None:
        """Append one line to invocations.jsonl."""
        _append_line(self.invocations, {"time": _now()} | fields)

    def read_metrics(self) -> dict[str, list[tuple[int, float]]]:
        """metric name -> its (step, value) pairs in order of steps."""
        series: dict[str, list[tuple[int, float]]] = {}
        if self.metrics.exists():
            with self.metrics.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    for name, value in row.items():
                        if name != "step" and value:
                            series.setdefault(name, []).append((int(row["step"]), float(value)))
        return series


def _read_object(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _append_line(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
