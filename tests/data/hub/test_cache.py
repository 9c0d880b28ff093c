"""Shards on the disk: checked before use, within a bound, shared by processes, on disks that fill up and break."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nanochat_pl.core.errors import MachineError, UserError
from nanochat_pl.data.hub.cache import ShardCache
from nanochat_pl.data.hub.connection import Connection
from nanochat_pl.data.hub.files import HubIndex, hub_folder
from nanochat_pl.data.hub.index import hub_index
from nanochat_pl.data.hub.manifest import Manifest
from nanochat_pl.data.parquet import BadShard
from tests.data.hub.conftest import REPO, SHARDS, write_shard
from tests.hub_client import hub_environment
from tests.hub_server import HubServer

OpenCache = Callable[..., ShardCache]


@pytest.fixture
def index(hub: HubServer) -> HubIndex:
    return hub_index(REPO)


@pytest.fixture
def open_cache(index: HubIndex) -> Iterator[OpenCache]:
    """Caches that hold so many shards."""
    with contextlib.ExitStack() as stack:

        def build(shards: float = 100, **options: Any) -> ShardCache:
            bound = int(shards * max(file.size for file in index.files))
            manifest = Manifest(hub_folder(REPO))
            cache = ShardCache(index, manifest, **{"bound_bytes": bound, "connection": Connection()} | options)
            stack.callback(cache.close)
            return cache

        yield build


def kept_shards() -> list[int]:
    return sorted(int(path.stem[-1]) for path in hub_folder(REPO).rglob("part-?.parquet"))


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def gets(hub: HubServer, shard: int) -> int:
    return sum(r.method == "GET" and r.path.endswith(f"part-{shard}.parquet") for r in hub.requests)


def test_a_kept_shard_is_the_hubs_file_and_stands_in_the_manifest(
    hub: HubServer, index: HubIndex, web: Path, open_cache: OpenCache
) -> None:
    file = index.files[2]
    path = open_cache().path(file)
    assert path.read_bytes() == (web / file.name).read_bytes()
    kept = json.loads((hub_folder(REPO) / "manifest.json").read_text())["kept"]
    name = path.relative_to(hub_folder(REPO)).as_posix()
    assert kept[name] == {"size": file.size, "sha256": file.sha256, "mtime_ns": path.stat().st_mtime_ns}
    asked = len(hub.requests)
    assert open_cache().path(file) == path and len(hub.requests) == asked
    assert not list(hub_folder(REPO).rglob("*.part"))


def test_what_comes_is_fetched_before_it_is_needed(hub: HubServer, index: HubIndex, open_cache: OpenCache) -> None:
    cache = open_cache()
    cache.coming([index.files[i] for i in (3, 1, 4)])
    wait_for(lambda: kept_shards() == [1, 4])
    hub.down()
    assert cache.path(index.files[1]).exists() and cache.path(index.files[4]).exists()


def test_the_bound_holds_and_the_oldest_goes_first(hub: HubServer, index: HubIndex, open_cache: OpenCache) -> None:
    cache, bound = open_cache(3.5), 3.5 * max(file.size for file in index.files)
    order = [0, 1, 2, 3, 4, 5, 2, 0]
    most = 0
    for place, shard in enumerate(order):
        cache.coming([index.files[i] for i in order[place : place + 4]])
        assert cache.path(index.files[shard]).exists()
        wait_for(lambda place=place: set(order[place : place + 2]) <= set(kept_shards()))
        most = max(most, sum(path.stat().st_size for path in hub_folder(REPO).rglob("*.parquet*")))
        assert shard in kept_shards(), "what is used stays"
    assert 2 * index.files[0].size < most <= bound
    names = json.loads((hub_folder(REPO) / "manifest.json").read_text())["kept"]
    assert sorted(int(name[-9]) for name in names) == kept_shards()


def test_old_revisions_go_before_what_is_in_use(
    hub: HubServer, index: HubIndex, web: Path, open_cache: OpenCache
) -> None:
    older = open_cache()
    for shard in (0, 1):
        older.path(index.files[shard])
    older.close()
    write_shard(web / "data" / "part-0.parquet", ["new"] * 60)
    newer = hub_index(REPO, revision="main")
    bound = index.files[1].size + sum(file.size for file in newer.files[:2]) // 2
    cache = ShardCache(newer, Manifest(hub_folder(REPO)), bound_bytes=bound, connection=Connection())
    assert cache.path(newer.files[0]).stat().st_size == newer.files[0].size
    assert cache.path(newer.files[2]).exists()
    kept = {path.parent.parent.name for path in hub_folder(REPO).rglob("part-?.parquet")}
    assert kept == {newer.revision[:12]}


def test_more_in_use_than_fits_is_allowed_and_told(
    hub: HubServer, index: HubIndex, open_cache: OpenCache, caplog: pytest.LogCaptureFixture
) -> None:
    other, cache = open_cache(1), open_cache(1)
    assert other.path(index.files[0]).exists()
    assert cache.path(index.files[1]).exists()
    assert kept_shards() == [0, 1], "a shard that another process reads is never let go"
    assert any("data.cache_gigabytes" in record.getMessage() for record in caplog.records)


def test_a_process_that_is_gone_holds_nothing(
    hub: HubServer, index: HubIndex, open_cache: OpenCache, tmp_path: Path
) -> None:
    run_reader(hub, tmp_path, [0], mode="kill").wait(60)
    assert kept_shards() == [0]
    cache = open_cache(1)
    assert cache.path(index.files[1]).exists()
    assert kept_shards() == [1]
    assert len(list((hub_folder(REPO) / "claims").glob("*.lock"))) == 1


def test_a_damaged_kept_shard_is_fetched_again(
    hub: HubServer, index: HubIndex, web: Path, open_cache: OpenCache, caplog: pytest.LogCaptureFixture
) -> None:
    file = index.files[0]
    path = open_cache().path(file)
    for spoil in (lambda raw: raw[:1000], lambda raw: raw[:500] + b"????" + raw[504:], lambda raw: b"<html>"):
        path.write_bytes(spoil(path.read_bytes()))
        caplog.clear()
        assert open_cache().path(file).read_bytes() == (web / file.name).read_bytes()
        assert any("damaged" in record.getMessage() for record in caplog.records)


def test_a_shard_damaged_while_it_is_used_is_fetched_again(
    hub: HubServer, index: HubIndex, web: Path, open_cache: OpenCache
) -> None:
    cache, file = open_cache(), index.files[0]
    path, seen = cache.path(file), []

    def read(path: Path) -> bytes:
        seen.append(path.read_bytes())
        if len(seen) == 1:
            path.write_bytes(b"x" * file.size)
            raise BadShard("cannot be decoded")
        return seen[-1]

    assert cache.read(file, read) == (web / file.name).read_bytes()
    with pytest.raises(BadShard, match="of the file itself"):
        cache.read(file, lambda path: (_ for _ in ()).throw(BadShard("of the file itself")))
    path.unlink()
    assert cache.read(file, Path.read_bytes) == (web / file.name).read_bytes()


def test_a_file_copied_in_by_hand_is_adopted(hub: HubServer, index: HubIndex, web: Path, open_cache: OpenCache) -> None:
    path = index.folder / index.files[0].name
    path.parent.mkdir(parents=True)
    shutil.copy(web / index.files[0].name, path)
    hub.down()
    assert open_cache().path(index.files[0]) == path
    assert len(json.loads((hub_folder(REPO) / "manifest.json").read_text())["kept"]) == 1


def test_a_download_goes_on_where_it_was_cut(hub: HubServer, index: HubIndex, web: Path, open_cache: OpenCache) -> None:
    file = index.files[0]
    raw = (web / file.name).read_bytes()
    part = index.folder / f"{file.name}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(raw[: file.size // 3])
    before = len(hub.requests)
    assert open_cache().path(file).read_bytes() == raw
    assert sum(request.bytes for request in hub.requests[before:]) == file.size - file.size // 3


@pytest.mark.parametrize("start", [b"rubbish that never belonged to it", b"\0" * 10_000_000])
def test_a_wrong_beginning_is_thrown_away(
    hub: HubServer, index: HubIndex, web: Path, open_cache: OpenCache, start: bytes
) -> None:
    file = index.files[0]
    part = index.folder / f"{file.name}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(start)
    assert open_cache().path(file).read_bytes() == (web / file.name).read_bytes()


def test_bad_shards_say_what_is_wrong_and_leave_nothing(hub: HubServer, index: HubIndex, open_cache: OpenCache) -> None:
    for shard, (fault, reason) in enumerate(
        [("truncate", "bytes instead of"), ("html", "HTML page"), ("wrong", "its sha256 is")]
    ):
        hub.fail(f"part-{shard}.parquet", fault)  # type: ignore[arg-type]
        before = gets(hub, shard)
        cache = open_cache()
        for _ in range(2):
            with pytest.raises(BadShard, match=reason):
                cache.path(index.files[shard])
        assert gets(hub, shard) - before == 2, "fetched once more, and not again by the same process"
        with pytest.raises(BadShard, match=reason):
            open_cache(attempts=1).path(index.files[shard])
        assert gets(hub, shard) - before == 3
    assert kept_shards() == [] and not list(hub_folder(REPO).rglob("*.part"))


def test_without_a_hash_everything_is_decoded_before_use(
    hub: HubServer, index: HubIndex, open_cache: OpenCache
) -> None:
    hub.fail("part-1.parquet", "wrong")
    file = index.files[1]._replace(sha256=None)
    with pytest.raises(BadShard, match="damaged"):
        open_cache().path(file)
    hub.heal()
    path = open_cache().path(file)
    kept = json.loads((hub_folder(REPO) / "manifest.json").read_text())["kept"]
    assert next(iter(kept.values()))["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_access_that_was_taken_away_ends_the_run(hub: HubServer, index: HubIndex, open_cache: OpenCache) -> None:
    hub.gated.add(REPO)
    with pytest.raises(UserError, match="gated"):
        open_cache().path(index.files[0])
    hub.gated.clear()
    with pytest.raises(MachineError, match="no answer about org/web"):
        open_cache().path(index.files[0]._replace(name="data/gone.parquet"))


UNSHARE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
"""Runs a command that may mount a disk of its own."""

READER = """
import sys, os
from nanochat_pl.data.hub.connection import Connection
from nanochat_pl.data.hub.files import hub_folder
from nanochat_pl.data.hub.index import hub_index
from nanochat_pl.data.hub.manifest import Manifest
from nanochat_pl.data.hub.cache import ShardCache
mode, bound, *order = sys.argv[1], *map(int, sys.argv[2:])
index = hub_index("org/web")
cache = ShardCache(index, Manifest(hub_folder("org/web")), bound_bytes=bound, connection=Connection())
for place, shard in enumerate(order):
    cache.coming([index.files[i] for i in order[place:place + 4]])
    raw = cache.read(index.files[shard], lambda path: path.read_bytes())
    assert len(raw) == index.files[shard].size
    import hashlib
    assert hashlib.sha256(raw).hexdigest() == index.files[shard].sha256
    print(shard, flush=True)
os.kill(os.getpid(), 9) if mode == "kill" else None
"""


def run_reader(
    hub: HubServer, folder: Path, order: list[int], bound: int = 10**9, mode: str = "", before: str = ""
) -> "subprocess.Popen[str]":
    """A process that reads shards in an order."""
    command = [sys.executable, "-c", READER, mode, str(bound), *map(str, order)]
    if before:
        command = [*UNSHARE, "sh", "-c", f'{before} && exec "$@"', "sh", *command]
    environment = {"NANOCHAT_PL_CACHE": os.environ["NANOCHAT_PL_CACHE"], "PATH": os.environ["PATH"]}
    return subprocess.Popen(
        command,
        env=environment | {"PYTHONPATH": str(Path(__file__).parents[3])} | hub_environment(hub, folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_share_the_downloads(hub: HubServer, index: HubIndex, tmp_path: Path) -> None:
    readers = [run_reader(hub, tmp_path, list(order)) for order in ([0, 1, 2, 3, 4, 5], [3, 4, 5, 0, 1, 2])]
    for reader in readers:
        output, errors = reader.communicate(timeout=60)
        assert reader.returncode == 0, errors
        assert len(output.split()) == SHARDS
    assert kept_shards() == list(range(SHARDS))
    start = 1 + max(i for i, request in enumerate(hub.requests) if "api/" in request.path)
    fetched = [r.path for r in hub.requests[start:] if r.method == "GET" and r.bytes > 1000 and "part-" in r.path]
    assert len(set(fetched)) == SHARDS and sum(r.bytes for r in hub.requests) < 1.5 * sum(
        file.size for file in index.files
    )


def test_two_processes_within_a_tight_bound(hub: HubServer, index: HubIndex, tmp_path: Path) -> None:
    bound = int(2.5 * max(file.size for file in index.files))
    orders = ([0, 1, 2, 3, 4, 5] * 2, [5, 4, 3, 2, 1, 0] * 2)
    readers = [run_reader(hub, tmp_path, list(order), bound) for order in orders]
    for order, reader in zip(orders, readers):
        output, errors = reader.communicate(timeout=60)
        assert reader.returncode == 0, errors
        assert [int(word) for word in output.split()] == order
    assert 1 <= len(kept_shards()) <= 4


def test_a_full_disk_shrinks_the_bound_then_stops(hub: HubServer, index: HubIndex, tmp_path: Path) -> None:
    size = max(file.size for file in index.files)
    folder = hub_folder(REPO).parents[1]

    def disk(kilobytes: int) -> str:
        """A small disk in the place of the data folder, with the list of files on it."""
        mount = f"mount -t tmpfs -o size={kilobytes}k none {folder}"
        return f"cp -r {folder} {tmp_path}/copy && {mount} && cp -r {tmp_path}/copy/* {folder}"

    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    reader = run_reader(hub, tmp_path, [0, 1, 2, 3, 4, 5], before=disk(int(3.5 * size / 1024) + 60))
    output, errors = reader.communicate(timeout=60)
    assert reader.returncode == 0, errors
    assert len(output.split()) == SHARDS
    assert "nearly full" in errors and errors.count("nearly full") == 1
    shutil.rmtree(tmp_path / "copy")
    reader = run_reader(hub, tmp_path, [0, 1], before=disk(int(0.8 * size / 1024) + 60))
    output, errors = reader.communicate(timeout=60)
    assert reader.returncode == 1 and len(output.split()) < 2, "room for one, which may be the one that comes next"
    assert "DiskFull: The disk of" in errors and "is full" in errors and "data.mode=stream" in errors


def test_a_disk_that_refuses_without_being_full(
    hub: HubServer,
    index: HubIndex,
    open_cache: OpenCache,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A quota: what `disk_usage` says is free cannot be written."""
    quota = 2.5 * index.files[0].size
    fsync = os.fsync

    def within_quota(descriptor: int) -> None:
        taken = sum(path.stat().st_size for path in hub_folder(REPO).rglob("*.parquet*"))
        if taken > quota and os.readlink(f"/proc/self/fd/{descriptor}").endswith(".part"):
            os.ftruncate(descriptor, 1000)  # what the disk took
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", within_quota)
    cache = open_cache()
    for shard in (0, 1, 2, 3):
        cache.coming([index.files[shard]])
        assert cache.path(index.files[shard]).exists()
    assert kept_shards() == [2, 3]
    assert sum("nearly full" in record.getMessage() for record in caplog.records) == 1
    quota = 1000.0
    with pytest.raises(MachineError, match="is full"):
        cache.path(index.files[5])


def test_one_warning_a_minute_while_the_hub_is_away(
    hub: HubServer, index: HubIndex, open_cache: OpenCache, caplog: pytest.LogCaptureFixture
) -> None:
    cache = open_cache()
    cache.path(index.files[0])
    for shard in (1, 2, 3):
        hub.fail("part-?.parquet", "500", times=1)
        cache.path(index.files[shard])
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1 and "No answer from the hub" in warnings[0].getMessage()
