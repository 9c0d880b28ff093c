"""Which files a hub data set has: found once, kept as a readable file, and pinned by it from then on."""

import dataclasses
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from filelock import FileLock

from nanochat_pl.core.errors import UserError, nearest
from nanochat_pl.core.paths import data_root, write_text
from nanochat_pl.data.hub.connection import Connection
from nanochat_pl.data.hub.files import HubFile, HubIndex, hub_folder

log = logging.getLogger("nanochat_pl.data")

_VERSION = 1


def hub_index(
    repo: str,
    config: str | None = None,
    split: str = "train",
    revision: str | None = None,
    connection: Connection | None = None,
) -> HubIndex:
    """The index of a data set on the hub: the kept one, else found there and kept.

    Args:
        config: None: the only or default one.
        revision: a commit, branch or tag; None: the newest when it is first asked for. Either is pinned by what is
            kept; remove that file to look for a newer one.
        connection: shared with those who read the files; None: one of its own.

    Raises:
        UserError: there is no such data set, configuration, split or revision, or no access to it.
        MachineError: the hub cannot be reached and nothing is kept.
    """
    name = ".".join(filter(None, [config, split])) + (f"@{revision.replace('/', '--')}" if revision else "")
    path = hub_folder(repo) / f"{name}.json"
    kept = _load(path)
    if kept is not None:
        return kept
    from nanochat_pl.data.hub.resolve import resolve_hub

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        kept = _load(path)
        if kept is None:
            kept = resolve_hub(repo, config, split, revision, connection or Connection())
            _save(kept, path)
            log.info("%s, %s, %s is pinned to revision %s by %s.", repo, kept.config, split, kept.revision, path)
    return kept


def folder_index(path: Path, config: str | None = None, split: str = "train") -> HubIndex:
    """The index of a local folder, laid out as on the hub or holding just parquet files.

    It is kept for as long as the folder's files stay the same, so that later starts needn't import `datasets`.

    Raises:
        UserError: there is no such folder, configuration or split, or no parquet file in it.
    """
    folder = path.expanduser()
    if not folder.is_dir():
        raise UserError(_no_folder(folder))
    folder = folder.resolve()
    key = hashlib.sha256(f"{folder} {config} {split} {_listing(folder)}".encode()).hexdigest()
    kept_at = data_root() / "hub" / "folders" / f"{folder.name}-{key[:16]}.json"
    kept = _load(kept_at)
    if kept is None:
        from nanochat_pl.data.hub.resolve import resolve_folder

        kept = resolve_folder(folder, config, split)
        _save(kept, kept_at)
    return kept


def _load(path: Path) -> HubIndex | None:
    try:
        plain: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if plain.pop("version", None) != _VERSION:
        return None
    plain["files"] = tuple(HubFile(**file) for file in plain["files"])
    return HubIndex(**plain)


def _save(index: HubIndex, path: Path) -> None:
    plain = {"version": _VERSION} | dataclasses.asdict(index) | {"files": [file._asdict() for file in index.files]}
    write_text(path, json.dumps(plain, indent=1) + "\n")


def _listing(folder: Path) -> str:
    found = sorted(path for path in folder.rglob("*") if path.suffix in (".parquet", ".md", ".yaml"))
    return json.dumps([(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in found])


def _no_folder(folder: Path) -> str:
    if folder.exists():
        return (
            f"data.path: {folder} is not a folder. Give a folder of parquet files (one file: data=text data.files=...)."
        )
    if not folder.parent.is_dir():
        return f"data.path: {folder} does not exist: there is no folder {folder.parent} (looked from {Path.cwd()})."
    hint = nearest(folder.name, [path.name for path in folder.parent.iterdir()])
    return f"data.path: {folder} does not exist (looked from {Path.cwd()}){hint}"
