"""The hub that other tests rely on is a hub to the real client libraries, and its faults are what it says."""

import hashlib
import http.client
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError, URLError

import datasets
import huggingface_hub as hub_library
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import errors

from tests.hub_client import hub_client, hub_environment
from tests.hub_server import HTML_PAGE, HubServer

REPO = "org/web"
SHARD = "data/part-1.parquet"
CARD = "---\nconfigs:\n- config_name: small\n  data_files:\n  - split: train\n    path: data/*\n---\nText.\n"


def texts(shard: int) -> list[str]:
    return [f"shard {shard}, document {i}: " + hashlib.sha256(f"{shard} {i}".encode()).hexdigest() for i in range(60)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "served" / REPO
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    for shard in range(3):
        table = pa.table({"text": texts(shard), "id": [f"{shard}-{i}" for i in range(60)]})
        pq.write_table(table, folder / "data" / f"part-{shard}.parquet", row_group_size=20)
    return tmp_path / "served"


@pytest.fixture
def hub(root: Path, tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(root) as server, hub_client(server, tmp_path / "client"):
        yield server


def download(path: str = SHARD, **options: object) -> bytes:
    return Path(hub_library.hf_hub_download(REPO, path, repo_type="dataset", **options)).read_bytes()


def fetch(hub: HubServer, path: str = SHARD, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    request = urllib.request.Request(f"{hub.url}/datasets/{REPO}/resolve/main/{path}", method=method, headers=headers)
    return urllib.request.urlopen(request)


def test_datasets_loads_what_is_there(hub: HubServer) -> None:
    builder = datasets.load_dataset_builder(REPO, "small")
    assert [url.rsplit("@")[1].split("/", 1) for url in builder.config.data_files["train"]] == [
        [hub.commit(REPO), f"data/part-{shard}.parquet"] for shard in range(3)
    ]
    streamed = datasets.load_dataset(REPO, "small", split="train", streaming=True)
    assert [row["text"] for row in streamed] == [text for shard in range(3) for text in texts(shard)]
    assert datasets.get_dataset_config_names(REPO) == ["small"]
    with pytest.raises(ValueError, match="large"):
        datasets.load_dataset_builder(REPO, "large")
    with pytest.raises(datasets.exceptions.DatasetNotFoundError):
        datasets.load_dataset_builder("org/nothing")


@pytest.mark.parametrize("page_size", [2, 1000])
def test_the_api_describes_the_files(hub: HubServer, root: Path, page_size: int) -> None:
    hub.page_size = page_size
    api = hub_library.HfApi()
    info = api.dataset_info(REPO, files_metadata=True)
    assert info.sha == hub.commit(REPO)
    names = ["README.md", *(f"data/part-{shard}.parquet" for shard in range(3))]
    assert [(file.rfilename, file.size) for file in info.siblings] == [
        (name, (root / REPO / name).stat().st_size) for name in names
    ]
    tree = list(api.list_repo_tree(REPO, repo_type="dataset", recursive=True))
    assert [entry.path for entry in tree] == ["README.md", "data", *names[1:]]
    assert [entry.path for entry in api.list_repo_tree(REPO, repo_type="dataset")] == ["README.md", "data"]
    assert [entry.path for entry in api.list_repo_tree(REPO, "data", repo_type="dataset", expand=True)] == names[1:]
    shard, card = api.get_paths_info(REPO, [SHARD, "missing", "README.md"], repo_type="dataset")[::-1]
    assert (shard.path, card.path, card.lfs) == (SHARD, "README.md", None)
    assert shard.lfs.sha256 == hashlib.sha256((root / REPO / SHARD).read_bytes()).hexdigest()
    assert shard.xet_hash is None
    assert api.list_repo_refs(REPO, repo_type="dataset").branches[0].target_commit == info.sha
    assert api.list_repo_commits(REPO, repo_type="dataset")[0].commit_id == info.sha


def test_files_whole_and_by_ranges(hub: HubServer, root: Path) -> None:
    content = (root / REPO / SHARD).read_bytes()
    assert download() == content
    assert download("README.md") == CARD.encode()
    metadata = hub_library.get_hf_file_metadata(hub_library.hf_hub_url(REPO, SHARD, repo_type="dataset"))
    assert (metadata.commit_hash, metadata.size) == (hub.commit(REPO), len(content))
    assert metadata.etag == hashlib.sha256(content).hexdigest()
    for wanted, part in (("0-9", content[:10]), ("100-", content[100:]), ("-8", content[-8:])):
        assert fetch(hub, Range=f"bytes={wanted}").read() == part
    with pytest.raises(HTTPError, match="416"):
        fetch(hub, Range=f"bytes={len(content)}-")
    hub.requests.clear()
    with hub_library.HfFileSystem().open(f"datasets/{REPO}/{SHARD}", block_size=512) as file:
        table = pq.ParquetFile(file).read_row_group(1)
    assert table.column("text").to_pylist() == texts(1)[20:40]
    sent = [request for request in hub.requests if request.path.endswith(SHARD)]
    assert {request.status for request in sent} == {206}
    assert all(request.bytes for request in sent)


def test_what_is_not_there(hub: HubServer) -> None:
    api = hub_library.HfApi()
    with pytest.raises(errors.RepositoryNotFoundError):
        api.dataset_info("org/nothing")
    with pytest.raises(errors.RevisionNotFoundError):
        api.dataset_info(REPO, revision="v2")
    with pytest.raises(errors.RevisionNotFoundError):
        download(revision="v2")
    with pytest.raises(errors.EntryNotFoundError):
        download("data/part-9.parquet")
    with pytest.raises(errors.EntryNotFoundError):
        list(api.list_repo_tree(REPO, "nothing", repo_type="dataset"))
    assert not hub_library.HfFileSystem().exists(f"datasets/{REPO}/data/part-9.parquet")


def test_private_and_gated(hub: HubServer) -> None:
    hub.readers = {"hf_reader"}
    hub.private = {REPO}
    with pytest.raises(errors.RepositoryNotFoundError):
        hub_library.HfApi().dataset_info(REPO)
    with pytest.raises(errors.HfHubHTTPError, match="403"):
        hub_library.HfApi(token="hf_other").dataset_info(REPO)
    assert hub_library.HfApi(token="hf_reader").dataset_info(REPO).private
    hub.private, hub.gated = set(), {REPO}
    assert hub_library.HfApi().dataset_info(REPO).gated == "manual"
    for token, status in ((False, 401), ("hf_other", 403)):
        with pytest.raises(errors.GatedRepoError) as caught:
            download(token=token)
        assert caught.value.response.status_code == status
    assert download(token="hf_reader")[:4] == b"PAR1"


def test_main_moves_and_commits_stay(hub: HubServer, root: Path) -> None:
    first = hub.commit(REPO)
    old = download(revision=first)
    pq.write_table(pa.table({"text": ["new"]}), root / REPO / SHARD)
    assert hub.commit(REPO) != first
    assert download(revision=first, force_download=True) == old
    assert pq.read_table(pa.BufferReader(download())).num_rows == 1


def test_a_truncated_file_looks_whole(hub: HubServer, root: Path) -> None:
    content = (root / REPO / SHARD).read_bytes()
    half = len(content) // 2
    hub.fail("part-1.parquet", "truncate", times=1)
    assert int(fetch(hub, method="HEAD").headers["X-Linked-Size"]) == half
    assert download() == content[:half]
    assert download(force_download=True) == content
    hub.fail(SHARD, "truncate")
    with pytest.raises(HTTPError, match="416"):
        fetch(hub, Range=f"bytes={half}-")
    assert fetch(hub, "data/part-0.parquet").read() == (root / REPO / "data/part-0.parquet").read_bytes()


def test_a_dropped_connection(hub: HubServer, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (root / REPO / SHARD).read_bytes()
    half = len(content) // 2
    hub.fail(f"{REPO}/data/*-1.parquet", "drop")
    for wanted, sent in ((f"bytes={half - 10}-", 10), (f"bytes={half + 10}-", 0)):
        with pytest.raises(http.client.IncompleteRead) as caught:
            fetch(hub, Range=wanted).read()
        assert len(caught.value.partial) == sent
    assert fetch(hub, Range="bytes=0-9").read() == content[:10]
    hub.heal()
    hub.fail(SHARD, "drop", times=1)
    monkeypatch.setattr(hub_library.constants, "DOWNLOAD_CHUNK_SIZE", 1)
    hub.requests.clear()
    assert download() == content
    assert [(r.status, r.bytes) for r in hub.requests if r.method == "GET"] == [(200, half), (206, len(content) - half)]


def test_wrong_bytes_and_pages(hub: HubServer, root: Path) -> None:
    content = (root / REPO / SHARD).read_bytes()
    hub.fail(SHARD, "wrong", times=3)
    wrong = download()
    quarter = len(content) // 2 // 2
    assert len(wrong) == len(content)
    assert [i for i, (a, b) in enumerate(zip(wrong, content)) if a != b] == list(range(quarter, len(content) // 2))
    assert fetch(hub, Range="bytes=50-").read() == wrong[50:]
    with pytest.raises((pa.ArrowException, OSError)):
        pq.ParquetFile(pa.BufferReader(fetch(hub).read())).read_row_group(0)
    hub.fail(SHARD, "html", times=1)
    with pytest.raises(OSError, match="Consistency check"):
        download(force_download=True)
    hub.fail(SHARD, "html", times=1)
    assert fetch(hub, Range="bytes=50-").read() == HTML_PAGE
    assert download(force_download=True) == content


@pytest.mark.parametrize("kind", ["429", "500"])
def test_errors_that_pass(hub: HubServer, kind: str) -> None:
    hub.fail("*.parquet", kind, times=2, retry_after=0)
    for _ in range(2):
        with pytest.raises(HTTPError, match=kind) as caught:
            fetch(hub)
        assert (caught.value.headers.get("Retry-After") == "0") == (kind == "429")
    hub.fail("api/datasets/*/tree/*", kind, times=1)
    assert list(hub_library.HfApi().list_repo_tree(REPO, repo_type="dataset"))
    assert [r.status for r in hub.requests if "/tree/" in r.path] == [int(kind), 200]
    assert fetch(hub).status == 200


def test_down_and_up(hub: HubServer) -> None:
    api, url = hub_library.HfApi(), hub.url
    assert api.dataset_info(REPO)
    hub.down()
    with pytest.raises(hub_library.utils.httpx.ConnectError):
        api.dataset_info(REPO)
    with pytest.raises(URLError, match="refused"):
        fetch(hub)
    hub.down()
    hub.up()
    assert hub.url == url
    assert api.dataset_info(REPO)
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    for _ in range(2):  # kept alive between requests, and lost when the hub goes down
        connection.request("GET", f"/api/datasets/{REPO}")
        assert connection.getresponse().read()
    hub.down()
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        connection.request("GET", f"/api/datasets/{REPO}")
        connection.getresponse()


def test_many_at_once(hub: HubServer, root: Path) -> None:
    content = (root / REPO / SHARD).read_bytes()
    hub.fail(SHARD, "500", times=10)

    def ask(start: int) -> bytes | None:
        try:
            return fetch(hub, Range=f"bytes={start}-{start + 99}").read()
        except HTTPError:
            return None

    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(ask, range(100)))
    assert parts.count(None) == 10
    assert all(part in (None, content[start : start + 100]) for start, part in enumerate(parts))
    assert len(hub.requests) == 100
    assert sum(request.bytes for request in hub.requests if request.status == 206) == 90 * 100


@pytest.mark.slow
def test_another_process(root: Path, tmp_path: Path) -> None:
    program = f"import datasets; print(sum(1 for _ in datasets.load_dataset({REPO!r}, split='train', streaming=True)))"
    with HubServer(root) as hub:
        environment = os.environ | hub_environment(hub, tmp_path)
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "180", done.stderr
    assert any(request.path.endswith("part-2.parquet") for request in hub.requests)
