"""Documents of a hub data set: each exactly once an epoch, in every mode, whatever happens to the files on the way."""

import json
import logging
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat_pl.core.errors import MachineError, UserError
from nanochat_pl.data.hub.files import hub_folder
from nanochat_pl.data.hub.source import HubSource
from nanochat_pl.data.hub.specs import HubDataSpec
from nanochat_pl.data.sources import DocumentSource, read_documents
from nanochat_pl.data.stream import COMING_SHARDS, Dealer
from tests.data.hub.conftest import REPO, SHARDS, documents_of, write_shard
from tests.hub_client import hub_environment
from tests.hub_server import HubServer

MODES = ["stream", "cache"]
STREAMS = 8


def spec(mode: str, **options: object) -> HubDataSpec:
    return HubDataSpec(**{"repo": REPO, "mode": mode, "id_column": "id", "val_fraction": 0.1} | options)  # type: ignore[arg-type]


opened: list[HubSource] = []


@pytest.fixture(autouse=True)
def nothing_goes_on_in_the_background() -> Iterator[None]:
    yield
    while opened:
        opened.pop().close()


def train_source(mode: str, **options: object) -> HubSource:
    """All documents but the held-out ones."""
    source = spec(mode, **options).build_sources()[0]
    assert isinstance(source, HubSource)
    opened.append(source)
    return source


def epoch(source: DocumentSource, threads: int = 3, epoch: int = 0) -> list[str]:
    """What the virtual streams read of one epoch, several at a time, as training does."""
    dealer = Dealer(source, STREAMS, seed=7)

    def read(stream: int) -> list[str]:
        documents: list[str] = []
        for slot in range(epoch * source.num_shards, (epoch + 1) * source.num_shards):
            source.coming([dealer.shard(slot + i)[1] for i in range(COMING_SHARDS)])
            for chunk in dealer.chunks(stream, slot):
                documents += dealer.documents(slot, chunk)
        return documents

    with ThreadPoolExecutor(threads) as pool:
        return [document for documents in pool.map(read, range(STREAMS)) for document in documents]


def left_out(source: DocumentSource) -> list[str]:
    """The files of which something is missing."""
    notes = [source.what_is_missing(shard) for shard in range(source.num_shards)]
    return [note.split(":")[0] for note in notes if note]


def everything(web: Path, *without: int) -> list[str]:
    return documents_of(*(web / "data" / f"part-{i}.parquet" for i in range(SHARDS) if i not in without))


def held_out(mode: str, **options: object) -> list[str]:
    return list(read_documents(spec(mode, val_tokens=10**9, **options).build_sources()[1]))


@pytest.mark.parametrize("mode", MODES)
def test_every_document_once_an_epoch_on_one_side(hub: HubServer, web: Path, mode: str) -> None:
    source = train_source(mode)
    val = held_out(mode)
    assert 0 < len(val) < 80
    for number in range(2):
        assert Counter(epoch(source, epoch=number) + val) == Counter(everything(web))
    sent = sum(request.bytes for request in hub.requests if request.path.endswith(".parquet"))
    size = sum(path.stat().st_size for path in (web / "data").iterdir())
    assert sent < (8 if mode == "stream" else 4) * size
    kept = list(hub_folder(REPO).rglob("part-*.parquet"))
    assert len(kept) == (0 if mode == "stream" else SHARDS)


def test_the_modes_read_the_same(hub: HubServer, web: Path) -> None:
    sources = [train_source(mode) for mode in MODES]
    assert sources[0].fingerprint == sources[1].fingerprint
    orders = [[source.read_chunk(2, chunk) for chunk in range(source.num_chunks(2))] for source in sources]
    local = HubDataSpec(path=str(web), id_column="id", val_fraction=0.1).build_sources()[0]
    orders.append([local.read_chunk(2, chunk) for chunk in range(local.num_chunks(2))])
    assert orders[0] == orders[1] == orders[2] and sum(map(len, orders[0])) > 30


def test_the_fingerprint_says_what_the_documents_depend_on(hub: HubServer, web: Path) -> None:
    prints = {
        train_source("stream").fingerprint,
        train_source("stream", val_fraction=0.2).fingerprint,
        train_source("stream", id_column=None).fingerprint,
        train_source("stream", text_column="id").fingerprint,
        train_source("stream", config="tiny").fingerprint,
        train_source("stream", val_files="part-0*").fingerprint,
    }
    write_shard(web / "data" / "part-0.parquet", ["changed"])
    prints.add(train_source("stream", revision="main").fingerprint)
    assert len(prints) == 7


def test_whole_files_can_be_held_out(hub: HubServer, web: Path) -> None:
    options = {"val_files": ["*-5.parquet", "data/part-1.parquet"]}
    assert Counter(epoch(train_source("cache", **options))) == Counter(everything(web, 1, 5))
    assert Counter(held_out("cache", **options)) == Counter(everything(web, 0, 2, 3, 4))
    everything_held_out = spec("cache", val_tokens=None, **options).build_sources()[1]
    assert len(list(read_documents(everything_held_out))) == 120


def test_the_id_decides_and_the_text_where_there_is_none(hub: HubServer, web: Path) -> None:
    by_id, by_text = set(held_out("stream")), set(held_out("stream", id_column=None))
    assert by_id != by_text
    ids = [f"id of {i}" for i in range(60)]
    for name in ("a", "b"):  # the same ids with other texts
        write_shard(web.parent / f"web-{name}" / "data.parquet", [f"{name} {i}" for i in range(60)], ids)
    sides = [{text[2:] for text in held_out("stream", repo=f"org/web-{name}")} for name in ("a", "b")]
    assert sides[0] == sides[1] != set()


def test_validation_is_read_once_and_no_more_than_needed(hub: HubServer, web: Path) -> None:
    val = spec("cache", val_tokens=100).build_sources()[1]
    documents = list(read_documents(val))
    assert 600 <= sum(map(len, documents)) < 2000
    assert documents == held_out("cache")[: len(documents)]
    assert not list(hub_folder(REPO).rglob("part-*.parquet")), "validation fetches no whole file"
    asked = len(hub.requests)
    hub.down()
    again = spec("stream", val_tokens=100).build_sources()[1]
    assert list(read_documents(again)) == documents and len(hub.requests) == asked
    kept = hub_folder(REPO).glob("validation-*-100.jsonl")
    assert [json.loads(line) for line in next(kept).read_text().splitlines()] == documents


def test_nothing_held_out_is_said(hub: HubServer) -> None:
    with pytest.raises(UserError, match=r"data\.val_fraction"):
        held_out("stream", val_fraction=1e-9)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("fault", "times"), [("drop", 1), ("truncate", 1), ("wrong", 1), ("html", 1), ("429", 1), ("500", 1)]
)
def test_a_fault_that_passes_costs_no_document(hub: HubServer, web: Path, mode: str, fault: str, times: int) -> None:
    source, val = train_source(mode), held_out("stream")
    for shard in (1, 4):
        hub.fail(f"part-{shard}.parquet", fault, times=times, retry_after=1)  # type: ignore[arg-type]
    assert Counter(epoch(source) + val) == Counter(everything(web))
    assert left_out(source) == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", ["truncate", "html"])
def test_a_shard_that_stays_bad_is_left_out_loudly_and_for_good(
    hub: HubServer, web: Path, mode: str, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    val = set(held_out("stream"))
    hub.fail("part-3.parquet", fault)  # type: ignore[arg-type]
    source = train_source(mode)
    expected = Counter(document for document in everything(web, 3) if document not in val)
    assert Counter(epoch(source)) == expected
    assert left_out(source) == ["data/part-3.parquet"]
    loud = [record for record in caplog.records if "LEFT OUT" in record.getMessage()]
    assert len(loud) == 1 and loud[0].levelno == logging.WARNING and "part-3" in loud[0].getMessage()
    hub.heal()  # a resumed run reads the same rows as before
    again = train_source(mode)
    assert Counter(epoch(again)) == expected and left_out(again) == ["data/part-3.parquet"]
    assert again.fingerprint == source.fingerprint


def test_wrong_bytes_always(hub: HubServer, web: Path) -> None:
    val = set(held_out("stream"))
    hub.fail("part-3.parquet", "wrong")
    source = train_source("cache")
    assert Counter(epoch(source)) == Counter(document for document in everything(web, 3) if document not in val)
    assert sum(request.path.endswith("part-3.parquet") and request.method == "GET" for request in hub.requests) >= 2
    assert left_out(source) == ["data/part-3.parquet"]
    streamed = train_source("stream", repo=REPO, text_column="id")  # what is bad for one column is tried for another
    assert left_out(streamed) == []


@pytest.mark.parametrize("mode", MODES)
def test_skip_asks_once_and_stop_stops(hub: HubServer, mode: str) -> None:
    train_source(mode)
    hub.fail("part-3.parquet", "html")
    before = len(hub.requests)
    assert train_source(mode, on_bad_shard="skip").num_chunks(3) == 0
    asked = [r for r in hub.requests[before:] if r.path.endswith("part-3.parquet") and r.method == "GET"]
    assert len(asked) == 1
    with pytest.raises(MachineError, match=r"part-3\.parquet.*data\.on_bad_shard=skip"):
        train_source(mode, on_bad_shard="stop").num_chunks(3)


@pytest.mark.parametrize("mode", MODES)
def test_when_everything_is_bad_it_is_not_the_shards(hub: HubServer, mode: str) -> None:
    source = train_source(mode)
    hub.fail("*.parquet", "html")
    with pytest.raises(MachineError, match="4 shards of org/web in a row"):
        epoch(source)
    hub.heal()
    assert left_out(train_source(mode)) == [], "the next run tries them again"


def test_a_damaged_row_group_is_left_out_alone(hub: HubServer, web: Path) -> None:
    path = web / "data" / "part-2.parquet"
    column = pq.ParquetFile(path).metadata.row_group(3).column(0)
    raw = bytearray(path.read_bytes())
    start = min(filter(None, (column.dictionary_page_offset, column.data_page_offset)))
    raw[start : start + 60] = bytes(255 - byte for byte in raw[start : start + 60])
    lost = documents_of(path)[36:48]
    expected = Counter(everything(web)) - Counter(lost)
    path.write_bytes(raw)
    for mode in MODES:
        source = train_source(mode)
        documents = epoch(source)
        assert Counter(documents) == expected - Counter(held_out(mode))
        assert left_out(source) == ["data/part-2.parquet"]
        assert source.num_chunks(2) == 5 and source.read_chunk(2, 3) == []


def test_schemas_and_nulls(hub: HubServer, web: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = web / "data"
    pq.write_table(pa.table({"body": ["a"], "id": ["x"]}), data / "part-1.parquet")
    pq.write_table(pa.table({"text": [1, 2], "id": ["x", "y"]}), data / "part-2.parquet")
    pq.write_table(
        pa.table({"text": pa.array(["large", None], pa.large_string()), "id": ["x", None]}), data / "part-3.parquet"
    )
    write_shard(data / "part-4.parquet", ["one", None, "", None, "x" * 5_000_000])
    for mode in MODES:
        caplog.clear()
        source = train_source(mode)
        documents = epoch(source)
        assert Counter(documents + held_out(mode)) == Counter(
            documents_of(*(data / f"part-{i}.parquet" for i in (0, 3, 4, 5)))
        )
        assert left_out(source) == ["data/part-1.parquet", "data/part-2.parquet"]
        assert source.counters()["null_documents"] == 3
        assert any("null in 'text'" in record.getMessage() for record in caplog.records)
        if mode == "stream":
            assert any("no column 'text'" in record.getMessage() for record in caplog.records)
            assert any("int64, not strings" in record.getMessage() for record in caplog.records)


def test_a_local_folder_is_read_as_it_lies(web: Path) -> None:
    (web / "data" / "part-3.parquet").write_bytes(b"<html>not here</html>")
    train, val = HubDataSpec(path=str(web), id_column="id", val_fraction=0.1).build_sources()
    assert Counter(epoch(train) + list(read_documents(val))) == Counter(everything(web, 3))
    assert isinstance(train, HubSource) and left_out(train) == ["data/part-3.parquet"]


@pytest.mark.parametrize("mode", MODES)
def test_a_lost_connection_is_waited_for(hub: HubServer, web: Path, mode: str) -> None:
    source, val = train_source(mode), held_out("stream")
    assert source.num_chunks(0) == 5
    hub.down()
    documents: list[str] = []
    reader = threading.Thread(target=lambda: documents.extend(epoch(source)), daemon=True)
    reader.start()
    time.sleep(2)
    assert reader.is_alive()
    hub.up()
    reader.join(60)
    assert Counter(documents + val) == Counter(everything(web))


def test_a_connection_lost_in_the_middle_of_many_files(hub: HubServer, web: Path) -> None:
    source, val = train_source("cache"), held_out("stream")
    hub.fail("*.parquet", "drop", times=5)
    assert Counter(epoch(source) + val) == Counter(everything(web))
    assert left_out(source) == []


def test_with_the_shards_at_hand_the_hub_is_not_needed(hub: HubServer, web: Path, tmp_path: Path) -> None:
    documents = epoch(train_source("cache")) + list(read_documents(spec("cache").build_sources()[1]))
    asked = len(hub.requests)
    hub.down()
    assert Counter(epoch(train_source("cache"))) <= Counter(documents)
    assert Counter(held_out("cache")) <= Counter(documents), "kept shards serve other validations too"
    assert len(hub.requests) == asked
    script = (
        "import sys; from nanochat_pl.data.hub.specs import HubDataSpec; from nanochat_pl.data.sources import *\n"
        f"train, val = HubDataSpec(repo={REPO!r}, id_column='id', val_fraction=0.1).build_sources()\n"
        "print(sum(1 for side in (train, val) for _ in read_documents(side)))\n"
        "assert not {'datasets', 'huggingface_hub', 'lightning'} & sys.modules.keys(), 'seconds at every start'"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env=dict(**hub_environment(hub, tmp_path), PYTHONPATH=str(Path(__file__).parents[3]))
        | {"NANOCHAT_PL_CACHE": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) == SHARDS * 60


def test_reading_stops_when_the_source_is_closed(hub: HubServer) -> None:
    for mode in MODES:
        source = train_source(mode)
        assert source.num_chunks(0) == 5
        hub.down()
        errors: list[BaseException] = []

        def read(source: HubSource = source, errors: list[BaseException] = errors) -> None:
            try:
                epoch(source)
            except MachineError as error:
                errors.append(error)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        time.sleep(0.5)
        source.close()
        reader.join(30)
        assert not reader.is_alive() and "closed" in str(errors[0])
        hub.up()
