"""What happens to shards that cannot be used: they are left out and counted, and stay left out, or the run stops."""

import logging
import threading
from typing import Literal

from nanochat_pl.core.errors import MachineError
from nanochat_pl.data.hub.manifest import LeftOut, Manifest
from nanochat_pl.data.parquet import BadShard

log = logging.getLogger("nanochat_pl.data")

OnBadShard = Literal["refetch", "skip", "stop"]

_IN_A_ROW = 4


class BadShards:
    """The shards and row groups that are left out; safe to use from several threads.

    Args:
        policy: "stop": raise; "refetch" and "skip" leave out (refetching is up to those who fetch).
        origin: says which data set, in messages.
        text_column: what is bad for one column may be good for another.
        manifest: where it is remembered; None: not at all.
        folder: of the files, below the manifest's.
    """

    def __init__(self, policy: OnBadShard, origin: str, text_column: str, manifest: Manifest | None, folder: str = ""):
        self._policy, self._origin, self._text_column = policy, origin, text_column
        self._manifest, self._folder = manifest, folder
        self._lock = threading.Lock()
        self._in_a_row: list[str] = []
        self._left_out: dict[str, set[int] | None] = {}
        if manifest is not None and policy != "stop":
            self._recall(manifest)

    @property
    def count(self) -> int:
        """Files of which something is left out."""
        return len(self._left_out)

    def refresh(self, name: str) -> None:
        """Leave the file out where another process has found it bad since: all deal the same documents."""
        if self._manifest is None or self._policy == "stop":
            return
        entry = self._manifest.read().left_out.get(self._folder + name)
        if entry is not None and entry.text_column == self._text_column and entry.row_groups is None:
            with self._lock:
                if self._left_out.get(name, set()) is not None:
                    log.warning("%s is LEFT OUT, as another process does: %s.", name, entry.reason)
                self._left_out[name] = None

    def note(self, name: str) -> str | None:
        """Why something of the file is left out, and how to try it again; None where nothing is."""
        with self._lock:
            if name not in self._left_out:
                return None
        if self._manifest is None:
            return "it cannot be read"
        entry = self._manifest.read().left_out.get(self._folder + name)
        reason = f" ({entry.reason})" if entry is not None else ""
        return f"it is left out{reason}; to try it again, remove it from {self._manifest.path}"

    def is_left_out(self, name: str, row_group: int | None = None) -> bool:
        """Whether this row group, or the whole file, is left out."""
        with self._lock:
            groups = self._left_out.get(name, set())
            return groups is None or row_group in groups

    def is_good(self, name: str) -> None:
        """A file could be opened."""
        with self._lock:
            self._in_a_row.clear()

    def leave_out(self, name: str, error: BadShard, row_group: int | None = None) -> None:
        """Leave out a file, or one row group of it, from now on.

        Raises:
            MachineError: the policy is "stop"; no file was good lately.
        """
        if self._policy == "stop":
            raise MachineError(
                f"{name} of {self._origin} cannot be used: {error}. data.on_bad_shard=skip leaves such shards out."
            ) from error
        with self._lock:
            groups = self._left_out.setdefault(name, set())
            if row_group is None:
                self._left_out[name] = None
                self._in_a_row.append(name)
            elif groups is not None:
                groups.add(row_group)
            self._remember(name, str(error))
            count = len(self._left_out)
            if len(self._in_a_row) >= _IN_A_ROW:
                self._forget(self._in_a_row)
                raise MachineError(
                    f"{len(self._in_a_row)} shards of {self._origin} in a row cannot be used, the last one, {name}: "
                    f"{error}. That is rather the network, a proxy or the choice of data.text_column than the shards."
                ) from error
        what = name if row_group is None else f"Row group {row_group} of {name}"
        log.warning("%s is LEFT OUT: %s. (%s: %d bad so far.)", what, error, self._origin, count)

    def _recall(self, manifest: Manifest) -> None:
        for path, entry in manifest.read().left_out.items():
            if entry.text_column == self._text_column and path.startswith(self._folder):
                name = path.removeprefix(self._folder)
                self._left_out[name] = None if entry.row_groups is None else set(entry.row_groups)
        if self._left_out:
            log.warning(
                "%s: %d bad shards stay left out, as before: %s. (To try them again, remove them from %s.)",
                self._origin,
                len(self._left_out),
                ", ".join(sorted(self._left_out)),
                manifest.path,
            )

    def _remember(self, name: str, reason: str) -> None:
        if self._manifest is not None:
            groups = self._left_out[name]
            with self._manifest.locked() as contents:
                listed = None if groups is None else sorted(groups)
                contents.left_out[self._folder + name] = LeftOut(reason, self._text_column, listed)

    def _forget(self, names: list[str]) -> None:
        if self._manifest is not None:
            with self._manifest.locked() as contents:
                for name in names:
                    contents.left_out.pop(self._folder + name, None)
