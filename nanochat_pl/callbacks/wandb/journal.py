"""wandb.jsonl: the id of a run at W&B, and what W&B was given, so that a resumed run gives nothing twice."""

import json
import os
import secrets
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanochat_pl.core.run_folder import RunFolder, parse_object

SENT = ".wandb.synced"
"""Ending of the empty file by which `wandb sync` knows what was sent."""


class Journal:
    """What is given to W&B is written here first, in the order of its numbers.

    W&B keeps what it is given in its own memory for a while: after a kill, what it really has is asked of its files
    (or, online, of its server), and what is missing there is given again, by the same numbers.

    Attributes:
        run_id: of the run at W&B, the same in all invocations.
        rows: number of the next row.
        alerts: number of the next alert.
    """

    def __init__(self, run: RunFolder):
        self._path, self._folder = run.path / "wandb.jsonl", run.path / "wandb"
        self.run_id, self.rows, self.alerts = "", 0, 0
        self._given: dict[int, tuple[int, list[str]]] = {}
        self._model_step: int | None = None
        self._begun: list[dict[str, Any]] = []
        self._killed: dict[str, Any] | None = None
        for entry in self._read():
            self._replay(entry)
        if not self.run_id:
            self.run_id = secrets.token_hex(4)
            self._append([{"run": self.run_id}])
        self._index()

    def _replay(self, entry: dict[str, Any]) -> None:
        if "run" in entry:
            self.run_id = entry["run"]
        elif "began" in entry:
            self._keep_only(entry["rows"], entry["alerts"], entry["model_before"])
            self._begun.append(entry)
            self._killed = entry
        elif "row" in entry:
            self._given[entry["row"]] = (entry["step"], entry["names"])
            self.rows = max(self.rows, entry["row"] + 1)
        elif "alert" in entry:
            self.alerts = entry["alert"] + 1
        elif "model" in entry:
            self._model_step = entry["model"]
        elif "ended" in entry:
            self._killed = None

    def begin(self, folder: str, at_server: int | None) -> None:
        """From now on, what is given goes through this folder of W&B's.

        Args:
            at_server: how many rows the server has, which is given the rest now; what is kept here for it of earlier
                invocations is then marked as sent. None: it is not asked, and the last invocation's files tell.
        """
        unsent: list[Path] = []
        if at_server is not None:
            alerts, model = self.alerts, self._model_step
            for begun in reversed(self._begun):
                files = [file for file in self._files(begun) if not file.with_suffix(SENT).exists()]
                if files and begun["began"].startswith("offline"):
                    alerts, model = begun["alerts"], begun["model_before"]
                unsent += files
            self._keep_only(at_server, alerts, model)
        elif self._killed:
            self._keep_only(*self._found(self._killed), self._model_step)
        self._append(
            [{"began": folder, "rows": self.rows, "alerts": self.alerts, "model_before": self._model_step}],
        )
        for file in unsent:
            file.with_suffix(SENT).touch()

    def end(self) -> None:
        """W&B has all that it was given, on the disk at least."""
        self._append([{"ended": self.rows}])

    def missing(self, step: int, values: dict[str, Any]) -> dict[str, Any]:
        """Of a step's values those that were not given yet."""
        return {name: value for name, value in values.items() if name not in self._names.get(step, ())}

    def give(self, rows: list[tuple[int, list[str]]], alerts: int = 0) -> int:
        """Note rows, as (step, names of the values), and so many alerts; returns the number of the first row.

        Raises:
            OSError: the disk is full, and none is noted.
        """
        first = self.rows
        entries: list[dict[str, Any]] = []
        entries += [{"row": number, "step": step, "names": names} for number, (step, names) in enumerate(rows, first)]
        entries += [{"alert": self.alerts + n} for n in range(alerts)]
        self._append(entries)
        for entry in entries:
            self._replay(entry)
        for step, names in rows:
            self._names.setdefault(step, set()).update(names)
        return first

    def take_back(self, number: int) -> None:
        """W&B refused this row."""
        step, names = self._given[number]
        self._names[step] -= set(names)
        self._given[number] = (step, [])
        self._append([{"row": number, "step": step, "names": []}])

    def has_model(self, step: int) -> bool:
        """Whether the model of this step was given."""
        return self._model_step == step

    def give_model(self, step: int) -> None:
        """Note it."""
        self._model_step = step
        self._append([{"model": step}])

    def _index(self) -> None:
        self._names: dict[int, set[str]] = {}
        for step, names in self._given.values():
            self._names.setdefault(step, set()).update(names)

    def _keep_only(self, rows: int, alerts: int, model_step: int | None) -> None:
        """Take back what W&B does not have."""
        self._given = {number: row for number, row in self._given.items() if number < rows}
        self.rows, self.alerts, self._model_step = rows, alerts, model_step
        self._index()

    def _files(self, begun: dict[str, Any]) -> list[Path]:
        return list((self._folder / begun["began"]).glob("*.wandb"))

    def _found(self, began: dict[str, Any]) -> tuple[int, int]:
        """How many rows and alerts the files of an invocation that was killed hold, and those before it."""
        files = self._files(began)
        if not files:
            return self.rows, self.alerts  # taken away, which `wandb clean` does with what was sent
        rows, alerts = began["rows"], began["alerts"]
        for record in records(files[0]):
            if record.WhichOneof("record_type") == "history":
                rows = max(rows, record.history.step.num + 1)
            elif record.WhichOneof("record_type") == "alert":
                alerts += 1
        return rows, alerts

    def _read(self) -> list[dict[str, Any]]:
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        return [entry for entry in map(parse_object, text.splitlines()) if entry]

    def _append(self, entries: list[dict[str, Any]]) -> None:
        if entries:
            with self._path.open("a", encoding="utf-8") as file:
                # Each line begins anew: the one before may have been cut short by a kill.
                file.writelines(f"\n{json.dumps(entry)}" for entry in entries)
                file.flush()
                os.fsync(file.fileno())


MAGIC = b":W&B"
BLOCK_BYTES = 32768
_FIRST_BYTES = 7
_WHOLE, _LAST = 1, 4


def records(path: Path) -> Iterator[Any]:
    """The records in a file of W&B's (`run-ID.wandb`), as far as they are complete.

    The format is LevelDB's log: blocks of 32 KiB with pieces of records, each behind a checksum, its length and its
    place in the record; a header of 7 bytes stands at the beginning.
    """
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    data, at, content = path.read_bytes(), _FIRST_BYTES, b""
    if not data.startswith(MAGIC):
        return
    while at + 7 <= len(data):
        if (room := BLOCK_BYTES - at % BLOCK_BYTES) < 7:
            at += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        piece = data[at + 7 : at + 7 + length]
        if kind == 0 or len(piece) < length:
            return
        at += 7 + length
        content += piece
        if kind in (_WHOLE, _LAST):
            yield Record.FromString(content)
            content = b""
