"""Room on the disk for shards: a bound, the oldest used out first, never those that anybody is using or waiting for."""

import contextlib
import json
import logging
import os
import shutil
import uuid
from pathlib import Path

from filelock import FileLock, Timeout

from nanochat_pl.core.errors import MachineError
from nanochat_pl.core.paths import write_text
from nanochat_pl.data.hub.manifest import Contents, Manifest

log = logging.getLogger("nanochat_pl.data")

_FREE_BYTES = 1 << 30
_FREE_SHARE = 0.02
"""What is left free on the disk, for checkpoints: the smaller of the two."""


class NoRoom(Exception):
    """A shard that is not needed yet does not fit."""


class DiskFull(MachineError):
    """A shard that is needed does not fit on the disk."""


class Claims:
    """What one process uses and fetches, in a file that all others see while this process lives.

    A lock that the operating system drops with the process tells the living from the dead.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._path = folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.json"
        folder.mkdir(parents=True, exist_ok=True)
        # On another thread's behalf as well: the lock is the process's own.
        self._lock = FileLock(self._path.with_suffix(".lock"), thread_local=False)
        self._lock.acquire()
        self.used: set[str] = set()
        self.fetching: dict[str, int] = {}

    def publish(self) -> None:
        """Let the others see it."""
        if self._lock.is_locked:
            write_text(self._path, json.dumps({"used": sorted(self.used), "fetching": self.fetching}))

    def of_all(self) -> tuple[set[str], dict[str, int]]:
        """(names in use, sizes of those being fetched) of all living processes, this one included."""
        used, fetching = set(self.used), dict(self.fetching)
        for path in self._folder.glob("*.lock"):
            if path == self._path.with_suffix(".lock"):
                continue
            try:
                with FileLock(path, timeout=0):
                    path.with_suffix(".json").unlink(missing_ok=True)
                    path.unlink(missing_ok=True)
            except Timeout:
                try:
                    claim = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
                except (OSError, ValueError):  # just made, and nothing claimed yet
                    continue
                used |= set(claim["used"])
                fetching |= claim["fetching"]
        return used, fetching

    def close(self) -> None:
        """Nothing is in use any more."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        self._lock.release()


class ShardSpace:
    """Keeps the shards below a folder within a bound, together with all other processes.

    Names are paths below the manifest's folder. What is being fetched counts in full.

    Args:
        bound_bytes: what the shards may take; it shrinks where the disk has less.
    """

    def __init__(self, manifest: Manifest, bound_bytes: int):
        self.bound_bytes = bound_bytes
        self._manifest = manifest
        self._disk_is_full = False
        self._warned = False
        self._claims = Claims(manifest.folder / "claims")

    def use(self, names: set[str]) -> None:
        """These, and only these, are in use from now on."""
        if names == self._claims.used:
            return
        with self._manifest.locked():
            self._claims.used = names
            self._claims.publish()

    def reserve(self, name: str, size: int, needed: bool) -> None:
        """Make room for a file, until `release`.

        Args:
            needed: a reader waits for it: where all that is kept is in use, it may break the bound (not the disk's).

        Raises:
            NoRoom: it does not fit, and is not needed.
            DiskFull: it does not fit on the disk, and is needed.
        """
        with self._manifest.locked() as contents:
            self._check_disk(contents)
            missing = self._make_room(contents, name, size)
            if missing > 0 and not needed:
                raise NoRoom(name)
            if missing > 0 and self._disk_is_full:
                raise DiskFull(
                    f"The disk of {self._manifest.folder} is full: a shard of {size / 1e9:.2f} GB does not fit beside "
                    "those in use. Free some space, point DATA_ROOT or NANOCHAT_PL_CACHE to another disk, or read "
                    "without keeping anything: data.mode=stream. The same command goes on from the last checkpoint."
                )
            if missing > 0 and not self._warned:
                self._warned = True
                log.warning(
                    "The shards in use take %.1f GB more than data.cache_gigabytes allows; raise it.", missing / 1e9
                )
            self._claims.fetching[name] = size
            self._claims.publish()

    def release(self, name: str) -> None:
        """The file is there, or given up."""
        with self._manifest.locked():
            self._claims.fetching.pop(name, None)
            self._claims.publish()

    def shrink(self) -> None:
        """The disk refused to take more: what is on it now is all that fits."""
        with self._manifest.locked() as contents:
            self._shrink_to(self._on_disk(contents))

    def close(self) -> None:
        """Nothing is in use any more."""
        self._claims.close()

    def _check_disk(self, contents: Contents) -> None:
        disk = shutil.disk_usage(self._manifest.folder)
        room = self._on_disk(contents) + disk.free - min(_FREE_BYTES, int(_FREE_SHARE * disk.total))
        if room < self.bound_bytes:
            self._shrink_to(room)

    def _shrink_to(self, num_bytes: int) -> None:
        if not self._disk_is_full:
            log.warning(
                "The disk of %s is nearly full: it has room for %.1f GB of shards, not %.1f GB.",
                self._manifest.folder,
                max(0, num_bytes) / 1e9,
                self.bound_bytes / 1e9,
            )
        self._disk_is_full, self.bound_bytes = True, num_bytes

    def _on_disk(self, contents: Contents) -> int:
        return sum(entry.size for entry in contents.kept.values()) + sum(self._parts().values())

    def _make_room(self, contents: Contents, name: str, size: int) -> int:
        """Let go of what nobody uses, oldest first, until `size` fits; returns the bytes still missing."""
        used, fetching = self._claims.of_all()
        fetching.pop(name, None)
        counted = {name, *fetching}
        kept_bytes = sum(kept.size for other, kept in contents.kept.items() if other not in counted)
        # Begun by processes that are gone.
        stale = {part: there for part, there in self._parts().items() if self._file_of(part) not in counted}
        taken = sum(fetching.values()) + kept_bytes + sum(stale.values())
        for part, there in stale.items():
            if taken + size <= self.bound_bytes:
                break
            taken -= there
            part.unlink(missing_ok=True)
        idle = [other for other in contents.kept if other not in used and other not in counted]
        for other in sorted(idle, key=self._last_used):
            if taken + size <= self.bound_bytes:
                break
            taken -= contents.kept.pop(other).size
            (self._manifest.folder / other).unlink(missing_ok=True)
        return taken + size - self.bound_bytes

    def _last_used(self, name: str) -> int:
        path = self._manifest.folder / name
        try:
            return path.stat().st_atime_ns
        except FileNotFoundError:
            return 0

    def _parts(self) -> dict[Path, int]:
        """The files that are, or were, being fetched, and what there is of them; those of others come and go."""
        sizes = {}
        for path in self._manifest.folder.rglob("*.part"):
            with contextlib.suppress(FileNotFoundError):
                sizes[path] = path.stat().st_size
        return sizes

    def _file_of(self, part: Path) -> str:
        return part.relative_to(self._manifest.folder).as_posix().removesuffix(".part")
