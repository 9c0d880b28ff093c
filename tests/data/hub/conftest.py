"""A data set of parquet files on a hub of this machine, for the tests of hub data."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat_pl.data.hub import shards
from tests.hub_client import hub_client
from tests.hub_server import HubServer

REPO = "org/web"
CARD = """---
configs:
- config_name: small
  default: true
  data_files:
  - split: train
    path: data/*
- config_name: tiny
  data_files:
  - split: train
    path: data/part-0.parquet
---
Text.
"""
SHARDS, GROUPS, ROWS = 6, 5, 12


def text(shard: int, row: int) -> str:
    return f"shard {shard}, document {row}: " + " ".join(
        hashlib.sha256(f"{shard} {row} {i}".encode()).hexdigest() for i in range(8)
    )


def write_shard(path: Path, texts: list[str | None], ids: list[str] | None = None, rows: int = ROWS) -> None:
    """A parquet file with `rows` documents in a row group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = ids or [f"{path.stem}-{i}" for i in range(len(texts))]
    pq.write_table(pa.table({"text": pa.array(texts, pa.string()), "id": ids}), path, row_group_size=rows)


def documents_of(*files: Path) -> list[str]:
    """All texts, as pyarrow reads the files."""
    return [document for file in files for document in pq.read_table(file)["text"].to_pylist() if document is not None]


@pytest.fixture
def web(tmp_path: Path) -> Path:
    """The folder of the data set org/web: six shards of five row groups of twelve documents."""
    folder = tmp_path / "served" / REPO
    for shard in range(SHARDS):
        write_shard(folder / "data" / f"part-{shard}.parquet", [text(shard, row) for row in range(GROUPS * ROWS)])
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def hub(web: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A `HubServer` that serves it, as the only hub that the libraries of this process know."""
    monkeypatch.setattr(shards, "REFETCH_SECONDS", 0.05)
    with HubServer(web.parents[1]) as server, hub_client(server, tmp_path / "client"):
        yield server
