"""What a hub, a network and a disk do to a long run, and what is left of the documents then."""

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat_pl.core.errors import MachineError, UserError
from nanochat_pl.data.hub import connection, shards
from nanochat_pl.data.hub.cache import ShardCache
from nanochat_pl.data.hub.files import HubIndex, hub_folder
from nanochat_pl.data.hub.index import hub_index
from nanochat_pl.data.hub.manifest import Manifest
from nanochat_pl.data.hub.source import HubSource
from nanochat_pl.data.hub.specs import HubDataSpec
from nanochat_pl.data.sources import DocumentSource, read_documents
from nanochat_pl.tokenizers.byte import ByteTokenizer
from tests.data.hub.conftest import REPO, SHARDS, documents_of, write_shard
from tests.hub_server import HubServer

MODES = ["stream", "cache"]


@pytest.fixture
def build(hub: HubServer) -> Iterator[Callable[..., tuple[DocumentSource, DocumentSource]]]:
    """Sources of org/web, closed at the end."""
    built: list[DocumentSource] = []

    def build_sources(**options: object) -> tuple[DocumentSource, DocumentSource]:
        spec = HubDataSpec(**{"repo": REPO, "id_column": "id", "val_fraction": 0.1} | options)  # type: ignore[arg-type]
        built.extend(spec.build_sources())
        return built[-2], built[-1]

    yield build_sources
    for source in built:
        source.close()


def later(seconds: float, action: Callable[[], object]) -> None:
    threading.Timer(seconds, action).start()


def open_cache(index: HubIndex, shards: float = 100, closed: connection.Connection | None = None) -> ShardCache:
    bound = int(shards * max(file.size for file in index.files))
    return ShardCache(
        index, Manifest(hub_folder(REPO)), bound_bytes=bound, connection=closed or connection.Connection()
    )


def bytes_on_disk() -> int:
    return sum(path.stat().st_size for path in hub_folder(REPO).rglob("*.parquet*") if path.name[0] != ".")


# A hub that is away


def test_an_outage_in_the_first_file_is_one_of_a_hub_that_was_reached(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = hub_index(REPO)
    monkeypatch.setattr(connection, "FIRST_SECONDS", 0.5)
    cache = open_cache(index)
    hub.fail("part-0.parquet", "drop")  # half of it comes, and then no more
    later(1.5, hub.heal)
    assert cache.path(index.files[0]).stat().st_size == index.files[0].size


@pytest.mark.parametrize(("fault", "times"), [("500", 3), ("429", 2)])
def test_a_hub_that_refuses_for_a_while_was_reached(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, fault: str, times: int
) -> None:
    index = hub_index(REPO)
    monkeypatch.setattr(connection, "FIRST_SECONDS", 0.3)
    hub.fail("part-0.parquet", fault, times=times, retry_after=1)  # type: ignore[arg-type]
    assert open_cache(index).path(index.files[0]).exists()


def test_whoever_resolved_the_data_set_has_reached_the_hub(
    hub: HubServer, build: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "FIRST_SECONDS", 0.3)
    train, _ = build(mode="stream")
    hub.down()
    later(2.0, hub.up)
    assert train.num_chunks(0) == 5


def test_patience_counts_from_the_last_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LOST_SECONDS", 1.0)
    line = connection.Connection()
    line.run(lambda: None, "something that is there")
    there = 0

    def growing() -> int:
        nonlocal there
        there += 1
        if there < 6:
            raise ConnectionError("lost")
        return there

    assert line.run(growing, "a file", lambda: there) == 6, "2 s or more, but never 1 s without progress"
    with pytest.raises(MachineError, match="cannot be reached for another"):
        line.run(lambda: (_ for _ in ()).throw(ConnectionError("lost")), "another")


# Files that are bad, for a while or for good


@pytest.mark.parametrize("mode", MODES)
def test_an_error_page_that_passes_costs_no_shard(
    hub: HubServer, build: Callable, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    train, _ = build(mode=mode)
    monkeypatch.setattr(shards, "REFETCH_SECONDS", 1.5)
    hub.fail("part-0.parquet", "html")
    later(0.7, hub.heal)
    assert train.num_chunks(0) == 5


@pytest.mark.parametrize("mode", MODES)
def test_processes_agree_on_what_is_left_out(hub: HubServer, build: Callable, mode: str) -> None:
    one, other = build(mode=mode)[0], build(mode=mode)[0]
    hub.fail("part-2.parquet", "html")
    assert one.num_chunks(2) == 0
    hub.heal()
    assert other.num_chunks(2) == 0 and "HTML" in str(other.what_is_missing(2))


def test_what_another_process_got_is_good(hub: HubServer) -> None:
    index = hub_index(REPO)
    one, other = open_cache(index), open_cache(index)
    hub.fail("part-0.parquet", "html")
    with pytest.raises(shards.BadShard):
        one.path(index.files[0])
    hub.heal()
    assert other.path(index.files[0]) == one.path(index.files[0])


def test_a_resume_that_misses_a_shard_names_it_and_the_way_back(hub: HubServer, build: Callable) -> None:
    def data() -> object:
        spec = HubDataSpec(repo=REPO, id_column="id", val_fraction=0.1, streams=4, buffer_documents=8)
        sizes = {"sequence_len": 32, "rows_per_step": 8, "micro_batch_rows": 8, "seed": 1}
        return spec.build(ByteTokenizer(), sources=build(mode="stream"), **sizes)  # type: ignore[arg-type]

    before = data()
    batches = iter(before.train_dataloader())  # type: ignore[attr-defined]
    for _ in range(20):
        before.commit(next(batches).cursor)  # type: ignore[attr-defined]
    state = before.state_dict()  # type: ignore[attr-defined]
    hub.fail("*.parquet", "html")
    after = data()
    after.load_state_dict(state)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"part-\d\.parquet: it is left out \(.*manifest\.json.*run\.fresh"):
        next(iter(after.train_dataloader()))  # type: ignore[attr-defined]


def test_a_kept_file_that_is_damaged_is_no_word_about_the_hubs(hub: HubServer, build: Callable, web: Path) -> None:
    train, _ = build()
    assert len(list(read_documents(train))) > 300
    for path in hub_folder(REPO).rglob("part-*.parquet"):
        column = pq.ParquetFile(path).metadata.row_group(0).column(0)
        start = min(filter(None, (column.dictionary_page_offset, column.data_page_offset)))
        raw, time_ns = bytearray(path.read_bytes()), path.stat().st_mtime_ns
        raw[start : start + 60] = bytes(255 - byte for byte in raw[start : start + 60])
        path.write_bytes(raw)
        os.utime(path, ns=(time_ns, time_ns))
    everything = Counter(documents_of(*sorted((web / "data").iterdir())))
    train, val = build(val_tokens=10**9)
    held_out = list(read_documents(val))
    assert len(held_out) > 5 and train.counters()["left_out_shards"] == 0
    assert Counter(held_out) + Counter(read_documents(train)) == everything


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.struct([("a", pa.string())])])
def test_lists_and_structures_of_strings_are_no_texts(hub: HubServer, web: Path, kind: pa.DataType) -> None:
    folder = web.parent / "nested"
    folder.mkdir()
    value: object = ["a", "b"] if pa.types.is_list(kind) else {"a": "b"}
    pq.write_table(pa.table({"text": pa.array([value], kind), "body": ["a"]}), folder / "train.parquet")
    with pytest.raises(UserError, match=r"not text \(columns of strings: body\)"):
        HubDataSpec(repo="org/nested").build_sources()
    write_shard(web / "data" / "part-0.parquet", ["one"])
    pq.write_table(pa.table({"text": pa.array([value] * 3, kind), "id": ["x"] * 3}), web / "data" / "part-1.parquet")
    source, _ = HubDataSpec(repo=REPO).build_sources()
    assert source.num_chunks(1) == 0 and "not strings" in str(source.what_is_missing(1))
    source.close()


def test_encoded_strings_are_texts(web: Path) -> None:
    texts = ["one text", "another", "one text"] * 4
    column = pa.array(texts).dictionary_encode()
    pq.write_table(pa.table({"text": column, "id": texts}), web / "data" / "part-0.parquet")
    (web / "data" / "part-1.parquet").unlink()
    source, val = HubDataSpec(path=str(web), config="tiny", val_fraction=0.5).build_sources()
    assert sorted([*read_documents(source), *read_documents(val)]) == sorted(texts)


def test_row_groups_that_are_all_damaged_end_the_run(hub: HubServer, web: Path, build: Callable) -> None:
    for path in (web / "data").iterdir():
        raw = bytearray(path.read_bytes())
        for group in range(5):
            column = pq.ParquetFile(path).metadata.row_group(group).column(0)
            start = min(filter(None, (column.dictionary_page_offset, column.data_page_offset)))
            raw[start : start + 60] = bytes(255 - byte for byte in raw[start : start + 60])
        path.write_bytes(raw)
    train, _ = build(mode="stream", on_bad_shard="skip")
    spec = HubDataSpec(repo=REPO, streams=2)
    sizes = {"sequence_len": 32, "rows_per_step": 8, "micro_batch_rows": 8, "seed": 1}
    data = spec.build(ByteTokenizer(), sources=(train, train), **sizes)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="hold no document"):
        next(iter(data.train_dataloader()))
    assert train.counters() == {"left_out_shards": SHARDS, "null_documents": 0}


# Room on the disk


def test_reading_one_file_after_the_other_keeps_to_the_bound(hub: HubServer, build: Callable, web: Path) -> None:
    size = max(path.stat().st_size for path in (web / "data").iterdir())
    train, _ = build(cache_gigabytes=2.5 * size / 1e9)
    most = documents = 0
    for _ in read_documents(train):
        documents += 1
        most = max(most, bytes_on_disk())
    assert documents > 300 and size < most <= 2.5 * size


def test_what_dead_processes_began_makes_room_first(hub: HubServer, monkeypatch: pytest.MonkeyPatch, web: Path) -> None:
    index = hub_index(REPO)
    size = index.files[0].size
    stale = index.folder / "data" / "part-5.parquet.part"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(bytes(2 * size))
    cache = open_cache(index, 2.5)
    cache.path(index.files[0])
    assert not stale.exists() and bytes_on_disk() <= 2.5 * size
    # A disk that is full because of them: room is made, and nobody asks again and again.
    stale.write_bytes(bytes(2 * size))
    fsync, quota = os.fsync, 3.5 * size

    def within_quota(descriptor: int) -> None:
        if bytes_on_disk() > quota and os.readlink(f"/proc/self/fd/{descriptor}").endswith(".part"):
            os.ftruncate(descriptor, 1000)
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", within_quota)
    roomy = open_cache(index)
    before = len(hub.requests)
    assert roomy.path(index.files[1]).exists() and not stale.exists()
    assert len(hub.requests) - before < 5
    for opened in (cache, roomy):
        opened.close()


def test_a_file_that_is_being_read_stays_claimed(hub: HubServer) -> None:
    index = hub_index(REPO)
    cache = open_cache(index)

    def claimed() -> set[str]:
        claims = [json.loads(path.read_text()) for path in (hub_folder(REPO) / "claims").glob("*.json")]
        return {name[-14:] for claim in claims for name in claim["used"]}

    def while_reading(path: Path) -> set[str]:
        # Other streams are ahead, and read on.
        cache.path(index.files[1])
        cache.coming([index.files[2]])
        return claimed()

    assert cache.read(index.files[0], while_reading) == {f"part-{i}.parquet" for i in (0, 1, 2)}
    cache.path(index.files[3])
    cache.coming([index.files[4]])
    assert claimed() == {f"part-{i}.parquet" for i in (3, 4)}
    cache.close()


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_files_that_others_let_go_meanwhile(hub: HubServer) -> None:
    index = hub_index(REPO)
    cache, file = open_cache(index), index.files[0]
    path = cache.path(file)
    raw, part = path.read_bytes(), path.with_name("part-4.parquet.part")
    done = threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            path.unlink(missing_ok=True)
            part.write_bytes(b"begun")
            part.unlink(missing_ok=True)
            path.write_bytes(raw)
            done.wait(0.01)

    other = threading.Thread(target=come_and_go)
    other.start()
    until, seen = time.monotonic() + 1.5, 0
    try:
        while time.monotonic() < until:
            kept = cache.kept(file)
            assert kept in (None, path)
            cache._space.reserve("another", 1000, needed=False)
            cache._space.release("another")
            seen += kept is not None
    finally:
        done.set()
        other.join()
    assert seen
    cache.close()


# The end


@pytest.mark.parametrize("mode", MODES)
def test_closing_ends_whoever_waits(hub: HubServer, build: Callable, mode: str) -> None:
    train, val = build(mode=mode)
    hub.down()
    errors: list[BaseException] = []

    def read(source: DocumentSource) -> None:
        try:
            list(read_documents(source))
        except MachineError as error:
            errors.append(error)

    readers = [threading.Thread(target=read, args=(source,), daemon=True) for source in (train, val)]
    for reader in readers:
        reader.start()
    time.sleep(1.0)
    val.close()
    for reader in readers:
        reader.join(15)
    assert [str(error) for error in errors] == ["The data were closed while they were being read."] * 2


def test_a_closed_cache_claims_nothing(hub: HubServer, build: Callable) -> None:
    train, _ = build()
    assert train.num_chunks(0) and isinstance(train, HubSource)
    assert list((hub_folder(REPO) / "claims").glob("*.json"))
    train.close()
    assert not list((hub_folder(REPO) / "claims").glob("*.json"))
