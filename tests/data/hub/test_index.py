"""Which files a data set has: found on the hub or in a folder, kept, and every mistake explained."""

import hashlib
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat_pl.core.errors import MachineError, UserError
from nanochat_pl.data.hub import connection
from nanochat_pl.data.hub.files import hub_folder
from nanochat_pl.data.hub.index import folder_index, hub_index
from nanochat_pl.data.hub.specs import HubDataSpec
from tests.data.hub.conftest import REPO, SHARDS, write_shard
from tests.hub_server import HubServer


def test_the_index_says_what_the_hub_has(hub: HubServer, web: Path) -> None:
    index = hub_index(REPO)
    assert (index.repo, index.config, index.split, index.revision) == (REPO, "small", "train", hub.commit(REPO))
    assert [file.name for file in index.files] == [f"data/part-{i}.parquet" for i in range(SHARDS)]
    for file in index.files:
        raw = (web / file.name).read_bytes()
        assert (file.size, file.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())
    assert index.columns == {"text": "string", "id": "string"}
    assert not index.is_local
    read = sum(request.bytes for request in hub.requests if request.path.endswith(".parquet"))
    assert 0 < read < 66_000, "the columns come from the end of one file"
    assert len(hub_index(REPO, "tiny").files) == 1


def test_the_kept_index_needs_no_hub_and_pins_the_revision(hub: HubServer, web: Path) -> None:
    index = hub_index(REPO)
    kept = json.loads((hub_folder(REPO) / "train.json").read_text())
    assert kept["revision"] == index.revision and kept["files"][0]["name"] == "data/part-0.parquet"
    write_shard(web / "data" / "part-9.parquet", ["a newer document"])
    assert hub.commit(REPO) != index.revision
    asked = len(hub.requests)
    assert hub_index(REPO) == index
    hub.down()
    assert hub_index(REPO) == index
    assert len(hub.requests) == asked
    hub.up()
    newer = hub_index(REPO, revision="main")
    assert len(newer.files) == SHARDS + 1 and newer.revision == hub.commit(REPO)
    assert newer.fingerprint != index.fingerprint
    assert hub_index(REPO, revision=index.revision).files == index.files


def test_a_damaged_kept_index_is_made_anew(hub: HubServer) -> None:
    index = hub_index(REPO)
    (hub_folder(REPO) / "train.json").write_text('{"version": 1, "repo"')
    assert hub_index(REPO) == index


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"repo": "org/wen"}, ["org/wen", "HF_TOKEN", "no data set"]),
        ({"config": "smal"}, ["smal", "small, tiny", "did you mean 'small'", "data.config"]),
        ({"split": "trian"}, ["trian", "there are: train", "did you mean 'train'", "data.split"]),
        ({"revision": "v7"}, ["v7", "there are: main", "data.revision"]),
        ({"text_column": "texts"}, ["texts", "text, id", "did you mean 'text'", "data.text_column"]),
        ({"id_column": "uuid"}, ["uuid", "text, id", "data.id_column"]),
        ({"val_files": "part-7*"}, ["part-7*", "part-0.parquet", "data.val_files"]),
        ({"val_files": "*"}, ["all 6 files"]),
        ({"val_tokens": None}, ["data.val_tokens"]),
        ({"cache_gigabytes": 1e-5}, ["data.cache_gigabytes", "data.mode=stream"]),
        ({"repo": "a/b/c"}, ["a/b/c", "ORG/NAME"]),
    ],
)
def test_mistakes_are_answered_with_what_there_is(hub: HubServer, options: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UserError) as raised:
        HubDataSpec(**{"repo": REPO} | options).build_sources()  # type: ignore[arg-type]
    for word in words:
        assert word in str(raised.value)
    assert "\n" not in str(raised.value)


def test_without_access_it_says_what_is_missing(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated.add(REPO)
    with pytest.raises(UserError, match=r"gated.*without HF_TOKEN has no access.*Accept its terms"):
        hub_index(REPO)
    hub.gated.clear()
    hub.private.add(REPO)
    with pytest.raises(UserError, match=r"without HF_TOKEN may see.*private"):
        hub_index(REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match=r"refuses the token in HF_TOKEN"):
        hub_index(REPO)
    hub.readers.add("hf_right")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert len(hub_index(REPO).files) == SHARDS
    everything = "".join(path.read_text() for path in hub_folder(REPO).rglob("*.json"))
    assert "hf_" not in everything, "a token is never kept"


def test_a_hub_out_of_reach_with_nothing_kept_ends_the_run(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_SECONDS", 0.5)
    hub.down()
    with pytest.raises(MachineError, match=r"cannot be reached.*org/web.*data\.path"):
        hub_index(REPO)


def test_a_busy_hub_is_waited_for(hub: HubServer) -> None:
    hub.fail("api/datasets/*", "429", times=2, retry_after=1)
    hub.fail("api/datasets/*", "500", times=1)
    assert len(hub_index(REPO).files) == SHARDS


def test_an_unreadable_first_shard_does_not_hide_the_columns(hub: HubServer) -> None:
    hub.fail("part-0.parquet", "html")
    assert hub_index(REPO).columns == {"text": "string", "id": "string"}


def test_other_formats_are_refused(hub: HubServer, web: Path) -> None:
    folder = web.parent / "lines"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(UserError, match=r"no parquet but train.jsonl.*refs/convert/parquet"):
        hub_index("org/lines")


def test_numbers_are_no_texts(hub: HubServer, web: Path) -> None:
    folder = web.parent / "numbers"
    folder.mkdir()
    pq.write_table(pa.table({"text": [1, 2], "body": ["a", "b"]}), folder / "train.parquet")
    with pytest.raises(UserError, match=r"holds int64, not text \(columns of strings: body\)"):
        HubDataSpec(repo="org/numbers").build_sources()


def test_a_folder_as_on_the_hub(web: Path) -> None:
    index = folder_index(web)
    assert index.is_local and index.config == "small" and index.folder == web
    assert [file.name for file in index.files] == [f"data/part-{i}.parquet" for i in range(SHARDS)]
    assert [file.name for file in folder_index(web, "tiny").files] == ["data/part-0.parquet"]
    with pytest.raises(UserError, match=r"no configuration 'big' \(there are: small, tiny\)"):
        folder_index(web, "big")
    with pytest.raises(UserError, match="no split 'test'"):
        folder_index(web, split="test")


def test_a_plain_folder_of_parquet(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    for name in ("b", "a"):
        write_shard(folder / "deep" / f"{name}.parquet", ["one", "two"])
    index = folder_index(folder, "whatever the hub's would be")
    assert [file.name for file in index.files] == ["deep/a.parquet", "deep/b.parquet"]
    elsewhere = folder.rename(tmp_path / "moved")
    assert folder_index(elsewhere).fingerprint == index.fingerprint
    write_shard(elsewhere / "deep" / "c.parquet", ["three"])
    assert len(folder_index(elsewhere).files) == 3, "a changed folder is looked at again"


def test_mistakes_about_folders(tmp_path: Path, web: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no parquet files"):
        folder_index(tmp_path / "empty")
    with pytest.raises(UserError, match="did you mean 'web'"):
        folder_index(web.parent / "wev")
    with pytest.raises(UserError, match="is not a folder"):
        folder_index(web / "README.md")
    with pytest.raises(UserError, match="there is no folder"):
        folder_index(tmp_path / "x" / "y")


def test_neither_repo_nor_path() -> None:
    with pytest.raises(UserError, match=r"data\.repo=ORG/NAME"):
        HubDataSpec()
    with pytest.raises(UserError, match=r"data prepare.*data=tokens"):
        HubDataSpec(repo=REPO, packing="windows")
    for options in ({"val_fraction": 1.0}, {"cache_gigabytes": 0}):
        with pytest.raises(UserError, match=next(iter(options))):
            HubDataSpec(repo=REPO, **options)  # type: ignore[arg-type]


def test_offline_mode_is_named(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MachineError, match="HF_HUB_OFFLINE"):
        hub_index(REPO)
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_missing_libraries_are_named(web: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "datasets" else object())
    with pytest.raises(UserError, match=r"need datasets\. .*pip install 'nanochat-pl\[data\]'"):
        HubDataSpec(path=str(web)).build_sources()
