"""What a folder of the cache holds: shards that were checked, and those that are left out."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from nanochat_pl.core.paths import write_text


class KeptShard(NamedTuple):
    """A file as it was when it was checked; the time tells whether it was touched since."""

    size: int
    sha256: str
    mtime_ns: int


class LeftOut(NamedTuple):
    """Why a file, or some of its row groups, is not read; kept, so that a resumed run reads the same documents."""

    reason: str
    text_column: str
    row_groups: list[int] | None


class Contents(NamedTuple):
    """By name below the folder."""

    kept: dict[str, KeptShard]
    left_out: dict[str, LeftOut]


class Manifest:
    """The file manifest.json of a folder, shared by all processes that read the data set."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder / "manifest.json"

    def read(self) -> Contents:
        """What it says now; nothing where there is none."""
        try:
            plain: dict[str, dict[str, Any]] = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            plain = {}
        return Contents(
            {name: KeptShard(**entry) for name, entry in plain.get("kept", {}).items()},
            {name: LeftOut(**entry) for name, entry in plain.get("left_out", {}).items()},
        )

    @contextlib.contextmanager
    def locked(self) -> Iterator[Contents]:
        """Its contents, to be changed while no other thread or process changes them; written back at the end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / "manifest.lock"):
            contents = self.read()
            before = _plain(contents)
            yield contents
            after = _plain(contents)
            if after != before:
                write_text(self.path, json.dumps(after, indent=1) + "\n")


def _plain(contents: Contents) -> dict[str, dict[str, Any]]:
    return {
        "kept": {name: entry._asdict() for name, entry in sorted(contents.kept.items())},
        "left_out": {name: entry._asdict() for name, entry in sorted(contents.left_out.items())},
    }
