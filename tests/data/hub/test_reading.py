"""How much is read: no more than a resume, a validation or a large document needs."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from nanochat_pl.data.hub.files import hub_folder
from nanochat_pl.data.hub.source import HubSource
from nanochat_pl.data.hub.specs import HubDataSpec
from nanochat_pl.data.module import TextDataModule
from nanochat_pl.data.sources import DocumentSource, MemorySource
from nanochat_pl.data.stream import COMING_SHARDS
from nanochat_pl.tokenizers.byte import ByteTokenizer
from tests.data.hub.conftest import GROUPS, REPO, SHARDS, documents_of, text, write_shard
from tests.hub_server import HubServer

SPEC = HubDataSpec(repo=REPO, id_column="id", val_fraction=0.1, streams=4, buffer_documents=4, val_tokens=4096)
T, ROWS = 64, 8


def module(sources: tuple[DocumentSource, DocumentSource], spec: HubDataSpec = SPEC, **layout: int) -> TextDataModule:
    sizes = {"sequence_len": T, "rows_per_step": ROWS, "micro_batch_rows": ROWS} | layout
    return spec.build(ByteTokenizer(), sources=sources, seed=3, **sizes)  # type: ignore[arg-type]


class Counting(DocumentSource):
    """Counts which chunks of a source are read."""

    def __init__(self, source: DocumentSource):
        self._source, self.num_shards = source, source.num_shards
        self.read: Counter[tuple[int, int]] = Counter()

    @property
    def fingerprint(self) -> str:
        return self._source.fingerprint

    def num_chunks(self, shard: int) -> int:
        return self._source.num_chunks(shard)

    def read_chunk(self, shard: int, chunk: int) -> list[str]:
        self.read[shard, chunk] += 1
        return self._source.read_chunk(shard, chunk)


@pytest.mark.parametrize("steps", [30, 200, 420])
def test_a_resume_reads_little_however_far_the_run_is(hub: HubServer, steps: int) -> None:
    sources = SPEC.build_sources()
    data = module(sources)
    batches = iter(data.train_dataloader())
    for _ in range(steps):
        data.commit(next(batches).cursor)
    state, expected = data.state_dict(), next(batches)
    assert data.counters()["epoch"] == (1 if steps == 420 else 0)
    source = Counting(sources[0])
    again = module((source, sources[1]))
    again.load_state_dict(state)
    first = next(iter(again.train_dataloader()))
    assert torch.equal(first.inputs, expected.inputs)
    # What the packers hold, and what is tokenized ahead: of SHARDS * GROUPS chunks.
    assert 4 <= sum(source.read.values()) < SHARDS * GROUPS * 0.8
    assert len({shard for shard, _ in source.read}) <= COMING_SHARDS
    for opened in sources:
        opened.close()


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_ranks_share_one_validation(hub: HubServer, world_size: int) -> None:
    def rows(rank: int, world_size: int) -> list[list[int]]:
        sources = SPEC.build_sources()  # each process its own
        data = module(sources, rank=rank, world_size=world_size, micro_batch_rows=2)
        kept = [row for batch in data.val_dataloader() for row in batch.targets.tolist() if max(row) >= 0]
        for source in sources:
            source.close()
        return kept

    alone = rows(0, 1)
    assert len(alone) > 20
    parts = [rows(rank, world_size) for rank in range(world_size)]
    assert sorted(row for part in parts for row in part) == sorted(alone)
    assert len(list(hub_folder(REPO).glob("validation-*.jsonl"))) == 1


def test_a_document_of_50_megabytes_is_trained_on(hub: HubServer, web: Path) -> None:
    huge = "The same sentence, again and again, and then some. " * 1_000_000
    assert len(huge) > 50_000_000
    write_shard(web.parent / "huge" / "data.parquet", ["A short one.", huge, *(text(0, row) for row in range(30))])
    spec = HubDataSpec(repo="org/huge", val_fraction=1e-9, streams=1, buffer_documents=4, mode="stream")
    train = spec.build_whole_sources()[0]
    data = module((train, MemorySource(["held out"])), spec, sequence_len=2048, rows_per_step=64, micro_batch_rows=64)
    batches, seen = iter(data.train_dataloader()), 0
    for _ in range(24):
        batch = next(batches)
        data.commit(batch.cursor)
        seen += batch.inputs.numel()
    counters = data.counters()
    assert counters["tokens"] >= seen > 3_000_000 and counters["pieces"] > 1000, "its parts fill rows of their own"
    state, expected = data.state_dict(), next(batches)
    again = module((train, MemorySource(["held out"])), spec, sequence_len=2048, rows_per_step=64, micro_batch_rows=64)
    again.load_state_dict(state)
    assert torch.equal(next(iter(again.train_dataloader())).inputs, expected.inputs)
    assert isinstance(train, HubSource)
    train.close()


def test_prepared_tokens_hold_every_document(hub: HubServer, web: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from nanochat_pl.cli import app
    from nanochat_pl.data.sources import read_documents
    from nanochat_pl.data.tokens.folder import TokenIndex

    everything = Counter(documents_of(*sorted((web / "data").iterdir())))
    size = max(path.stat().st_size for path in (web / "data").iterdir())
    for mode in ("cache", "stream"):
        options = ["hub", f"data.repo={REPO}", "data.id_column=id", "data.val_fraction=0.1", "data.val_tokens=100"]
        options += [f"data.mode={mode}", f"data.cache_gigabytes={2.5 * size / 1e9:.9f}"]
        arguments = ["--tokenizer", "byte", "--processes", "1", "--out", str(tmp_path / "tokens" / mode)]
        result = CliRunner().invoke(app, ["data", "prepare", *options, *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        index, tokenizer = TokenIndex.load(tmp_path / "tokens" / mode), ByteTokenizer()
        sides = [
            [tokenizer.decode(ids) for ids in read_documents(index.open(tmp_path / "tokens" / mode, split))]
            for split in ("train", "val")
        ]
        assert Counter(sides[0] + sides[1]) == everything and len(sides[1]) > 20
    files = [
        sorted(path.read_bytes() for path in (tmp_path / "tokens" / mode).glob("*.tokens"))
        for mode in ("cache", "stream")
    ]
    assert files[0] == files[1]
