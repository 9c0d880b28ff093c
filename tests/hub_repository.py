"""A folder as a repository on the hub: its commits, and its files with the names that git and LFS give them."""

import hashlib
import threading
from pathlib import Path
from typing import Any

DATE = "2025-01-01T00:00:00.000Z"
LFS_SUFFIXES = (".parquet", ".arrow", ".bin", ".gz", ".zst", ".zip")

Info = dict[str, Any]


class Blob:
    """A file's content. `sha256` is None for a file outside of LFS; `oid` is git's name of what git stores."""

    def __init__(self, path: str, content: bytes):
        self.content = content
        self.sha256 = hashlib.sha256(content).hexdigest() if path.endswith(LFS_SUFFIXES) else None
        stored = content
        if self.sha256:
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(content)}\n"
            stored = pointer.encode()
        self.stored_bytes = len(stored)
        self.oid = hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    def entry(self, path: str) -> Info:
        """The file as an entry of a tree."""
        entry: Info = {"type": "file", "path": path, "oid": self.oid, "size": len(self.content)}
        if self.sha256:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": self.stored_bytes}
        return entry

    def sibling(self, path: str) -> Info:
        """The file as the repository's information lists it."""
        sibling: Info = {"rfilename": path, "size": len(self.content), "blobId": self.oid}
        if self.sha256:
            sibling["lfs"] = {"sha256": self.sha256, "size": len(self.content), "pointerSize": self.stored_bytes}
        return sibling


class Commit(dict[str, Blob]):
    """The files of one commit, by path. `sha` is a hash of them, so it is the same in every run."""

    def __init__(self, repo: str, folder: Path, paths: list[Path]):
        names = {path.relative_to(folder).as_posix(): path for path in paths}
        super().__init__((name, Blob(name, names[name].read_bytes())) for name in sorted(names))
        listing = "\n".join(f"{name} {blob.oid}" for name, blob in self.items())
        self.sha = hashlib.sha1(f"commit {repo}\n{listing}".encode()).hexdigest()

    def tree(self, folder: str, recursive: bool, expand: bool) -> list[Info]:
        """The entries of a folder, or everything below it, sorted by path; `expand` adds the last commit of each."""
        prefix = f"{folder}/" if folder else ""
        found: dict[str, Info] = {}
        for name, blob in self.items():
            if not name.startswith(prefix):
                continue
            steps = name[len(prefix) :].split("/")
            for depth in range(1, len(steps) if recursive else min(len(steps), 2)):
                path = prefix + "/".join(steps[:depth])
                oid = hashlib.sha1(f"tree {self.sha} {path}".encode()).hexdigest()
                found[path] = {"type": "directory", "path": path, "oid": oid, "size": 0}
            if recursive or len(steps) == 1:
                found[name] = blob.entry(name)
        if expand:
            for entry in found.values():
                entry["lastCommit"] = {"id": self.sha, "title": "data", "date": DATE}
        return [found[path] for path in sorted(found)]


class Repository:
    """A folder whose files may change: "main" is what it holds now, and every commit that was seen stays readable."""

    def __init__(self, repo: str, folder: Path):
        self._repo, self._folder = repo, folder
        self._lock = threading.Lock()
        self._state: object = None
        self._commits: dict[str, Commit] = {}
        self._main: Commit | None = None

    def commit(self, revision: str = "main") -> Commit | None:
        """The commit of that name; None where there is none."""
        with self._lock:
            if revision in self._commits:
                return self._commits[revision]
            main = self._newest()
            return main if revision in ("main", "refs/heads/main", main.sha) else None

    def _newest(self) -> Commit:
        stats = [(path, path.stat()) for path in sorted(self._folder.rglob("*")) if path.is_file()]
        state = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
        if self._main is None or state != self._state:
            self._main, self._state = Commit(self._repo, self._folder, [path for path, _ in stats]), state
            self._commits[self._main.sha] = self._main
        return self._main
