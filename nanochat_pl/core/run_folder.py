"""The folder of one stage of one run: its files, its lock, and its records."""

import csv
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from nanochat_pl.core.errors import DivergedError, Interrupted, UserError
from nanochat_pl.core.paths import free_name, runs_root, write_text

ASKING_SECONDS = 1.0
"""Longer than `is_held` has a folder's lock."""


class RunFolder:
    """`runs/NAME/STAGE/`: every path and every record of a run goes through here."""

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
            with lock.acquire(timeout=ASKING_SECONDS):
                for leftover in self.path.rglob(".*.tmp"):  # of a process that was killed while it wrote
                    leftover.unlink()
                yield
        except Timeout:
            raise UserError(
                f"Another process is training in {self.path}. Wait for it, stop it, or give this run another folder "
                "with run.name=NAME."
            ) from None

    @contextmanager
    def idle(self) -> Iterator[bool | None]:
        """True where no process trains here, and none begins while inside; None where that cannot be told.

        Unlike `locked` it removes nothing, and makes no lock where no training has ever been.
        """
        from filelock import FileLock, Timeout

        with ExitStack() as held:
            is_idle: bool | None = True
            if (path := self.path / ".lock").exists():
                try:
                    held.enter_context(FileLock(path).acquire(timeout=0))
                except Timeout:
                    is_idle = False
                except OSError:
                    is_idle = None
            yield is_idle

    def is_held(self) -> bool:
        """Whether a process trains here; True also where that cannot be told."""
        with self.idle() as is_idle:
            return not is_idle

    def move_aside(self) -> None:
        """Rename what is here to `STAGE.before-TIME`, beside this folder."""
        items = [item for item in self.path.iterdir() if not item.name.endswith(".lock")]
        if not items:
            return
        target = free_name(Path(f"{self.path}.before-{time.strftime('%Y%m%d-%H%M%S')}"))
        target.mkdir()
        for item in items:
            os.replace(item, target / item.name)

    @contextmanager
    def recording(self, **facts: Any) -> Iterator[None]:
        """Keeps `status` in summary.json while inside: running, then finished, interrupted, diverged or failed."""
        self.write_summary(status="running", **facts)
        ending = {"status": "finished"}
        try:
            yield
        except BaseException as error:
            ending = ending_of(error)
            raise
        finally:
            self.write_summary(status=ending["status"])
            self.record_event(ending.pop("status"), **ending)

    def read_summary(self) -> dict[str, Any]:
        """The summary, or an empty dict where there is none (or an unreadable one)."""
        return read_object(self.summary)

    def write_summary(self, **fields: Any) -> None:
        """Merge `fields` into summary.json."""
        with self._writing():
            self._merge_into_summary(fields)

    def read_evaluations(self) -> dict[str, dict[str, Any]]:
        """suite -> step, as text -> its result; what is no such record is left out."""
        suites = {suite: as_object(results) for suite, results in read_object(self.evaluations).items()}
        return {
            suite: {step: as_object(result) for step, result in results.items() if step.isdecimal()}
            for suite, results in suites.items()
        }

    def record_evaluation(self, suite: str, step: int, result: dict[str, Any]) -> bool:
        """Keep the result of a suite at a step, unless there is one on more questions; the summary has the last step's.

        Args:
            result: with `metric`, `value` and `standard_error`, and `count` in each of its `tasks`.

        Returns:
            Whether it is kept.
        """
        with self._writing():
            evaluations = self.read_evaluations()
            results = evaluations.setdefault(suite, {})
            if questions_of(results.get(str(step), {})) > questions_of(result):
                return False
            results[str(step)] = {"time": _now()} | result
            self._write_evaluations(evaluations)
        return True

    def drop_evaluations(self, after: int) -> None:
        """Forget the results of later steps, which are trained anew."""
        with self._writing():
            evaluations = self.read_evaluations()
            kept = {
                suite: {step: result for step, result in results.items() if int(step) <= after}
                for suite, results in evaluations.items()
            }
            if kept != evaluations:
                self._write_evaluations(kept)

    def _write_evaluations(self, evaluations: dict[str, dict[str, Any]]) -> None:
        write_text(self.evaluations, json.dumps(evaluations, indent=2) + "\n")
        rows = {}
        for suite, results in evaluations.items():
            if results:
                step = max(results, key=int)
                figures = {name: results[step].get(name) for name in ("metric", "value", "standard_error")}
                rows[suite] = {"step": int(step)} | figures
        self._merge_into_summary({"evaluations": rows})

    def _merge_into_summary(self, fields: dict[str, Any]) -> None:
        write_text(self.summary, json.dumps(self.read_summary() | fields, indent=2) + "\n")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """No other process changes the records meanwhile: a training and an evaluation write to the same ones."""
        from filelock import FileLock

        self.path.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path / ".records.lock"):
            yield

    def record_samples(self, step: int, texts: Sequence[str]) -> None:
        """Append what the model wrote to samples.txt."""
        with self.samples.open("a", encoding="utf-8") as file:
            file.writelines(_sample(step, text) for text in texts)

    def read_samples(self) -> list[tuple[int, str]]:
        """(step, what the model wrote), as they were written."""
        try:
            text = self.samples.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        parts = re.split(r"^\[step (\d+)\] ", text, flags=re.MULTILINE)
        samples = (part.removesuffix("\n").replace(_NEXT_LINE, "\n") for part in parts[2::2])
        return list(zip(map(int, parts[1::2]), samples))

    def drop_samples(self, after: int) -> None:
        """Forget the samples of later steps, which are trained anew."""
        samples = self.read_samples()
        kept = [(step, text) for step, text in samples if step <= after]
        if kept != samples:
            write_text(self.samples, "".join(_sample(step, text) for step, text in kept))

    def record_event(self, kind: str, /, **fields: Any) -> None:
        """Append one line to events.jsonl."""
        _append_line(self.events, {"time": _now(), "event": kind} | fields)

    def record_invocation(self, **fields: Any) -> None:
        """Append one line to invocations.jsonl."""
        _append_line(self.invocations, {"time": _now()} | fields)

    def read_metrics(self) -> dict[str, list[tuple[int, float]]]:
        """metric name -> its (step, value) pairs in order of steps; rows that cannot be read are left out."""
        series: dict[str, list[tuple[int, float]]] = {}
        if self.metrics.exists():
            with self.metrics.open(newline="", encoding="utf-8", errors="replace") as file:
                for step, values in rows_of_metrics(file):
                    for name, value in values.items():
                        series.setdefault(name, []).append((step, value))
        return series


def rows_of_metrics(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, metrics) of the rows of metrics.csv that can be read: one may be cut short by a kill, or being written."""
    for row in csv.DictReader(lines):
        try:
            yield int(row.pop("step")), {name: float(value) for name, value in row.items() if value}
        except (KeyError, TypeError, ValueError):
            continue


def ending_of(error: BaseException) -> dict[str, str]:
    """How a training ended that this error ended: `status` (interrupted, diverged or failed) and `error`, in words."""
    words = str(error) if hasattr(error, "exit_code") else f"{type(error).__name__}: {error}"
    if isinstance(error, Interrupted | KeyboardInterrupt):
        return {"status": "interrupted", "error": words}
    return {"status": "diverged" if isinstance(error, DivergedError) else "failed", "error": words}


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, empty where there is none."""
    try:
        return parse_object(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def parse_object(text: str) -> dict[str, Any]:
    """The JSON object that a text is, else an empty one."""
    try:
        return as_object(json.loads(text))
    except ValueError:
        return {}


def as_object(value: Any) -> dict[str, Any]:
    """The value where it is a dict, else an empty one."""
    return value if isinstance(value, dict) else {}


def questions_of(result: dict[str, Any]) -> int:
    """How many questions of all tasks are behind a result."""
    return sum(as_object(task).get("count", 0) for task in result.get("tasks") or ())


_NEXT_LINE = "\n    "
"""Within a sample: nothing that a model says begins a line, and so looks like another sample."""


def _sample(step: int, text: str) -> str:
    return f"[step {step}] {_NEXT_LINE.join(text.splitlines())}\n"


def _append_line(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
        # A full disk, or a kill, may have cut the last line short.
        begins = "" if file.read(1) in (b"", b"\n") else "\n"
        file.write(f"{begins}{json.dumps(record)}\n".encode())
        file.flush()
        os.fsync(file.fileno())


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
