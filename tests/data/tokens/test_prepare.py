"""Preparing tokens: the same bytes however it is run, and the same rows as from the text."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat_pl.core.errors import MachineError, UserError
from nanochat_pl.data.module import Layout, TextDataModule
from nanochat_pl.data.sources import DocumentSource, MemorySource, TinySource, read_documents
from nanochat_pl.data.tokens import tokenizing
from nanochat_pl.data.tokens.folder import SPLITS, TokenIndex
from nanochat_pl.data.tokens.prepare import Preparation, Progress
from nanochat_pl.data.tokens.specs import TokenDataSpec
from nanochat_pl.data.tokens.tokenizing import tokenize_chunks
from nanochat_pl.tiny_world import document
from nanochat_pl.tokenizers.base import Tokenizer
from nanochat_pl.tokenizers.byte import ByteTokenizer
from nanochat_pl.tokenizers.load import load_tokenizer
from nanochat_pl.tokenizers.specs import BPESpec, CharSpec

BYTES = ByteTokenizer()
in_one_folder = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return BPESpec(vocab_size=400).build(document(i) for i in range(200))


class Shards(DocumentSource):
    """Shards of chunks of documents, given as lists."""

    def __init__(self, shards: list[list[list[str]]]):
        self._shards, self.num_shards = shards, len(shards)

    @property
    def fingerprint(self) -> str:
        return str(hash(str(self._shards)))

    def num_chunks(self, shard: int) -> int:
        return len(self._shards[shard])

    def read_chunk(self, shard: int, chunk: int) -> list[str]:
        return self._shards[shard][chunk]


class Failing(Shards):
    """Fails where a chunk was read that often."""

    def __init__(self, shards: list[list[list[str]]], reads: int):
        super().__init__(shards)
        self.left = reads

    def read_chunk(self, shard: int, chunk: int) -> list[str]:
        self.left -= 1
        if self.left < 0:
            raise MachineError("the connection is lost")
        return super().read_chunk(shard, chunk)


SHARDS = [
    [[document(100 * shard + 10 * chunk + i) for i in range(10)] for chunk in range(4 + shard % 3)]
    for shard in range(5)
]  # fmt: skip
SHARDS[1][2] = []
SHARDS[3] = []
VAL = [[[document(i, "val") for i in range(10 * chunk, 10 * chunk + 10)] for chunk in range(3)] for shard in range(5)]


def prepare(out: Path, tokenizer: Tokenizer = BYTES, **options: object) -> TokenIndex:
    options = {"train": Shards(SHARDS), "val": Shards(VAL), "shard_tokens": 3000} | options
    return Preparation(tokenizer=tokenizer, **options).run(out)


def contents(folder: Path) -> dict[str, bytes]:
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert len(files) > 3
    return {name: raw for name, raw in files.items() if name != ".lock"}


def chunks_of(source: DocumentSource, tokenizer: Tokenizer = BYTES) -> list[list[list[str]]]:
    """The texts of everything, by shard and chunk."""
    found = []
    for shard in range(source.num_shards):
        chunks = [source.read_chunk(shard, chunk) for chunk in range(source.num_chunks(shard))]
        found.append([[tokenizer.decode(ids) for ids in chunk] for chunk in chunks])
    return found


def test_every_document_stands_where_it_stood(tmp_path: Path, bpe: Tokenizer) -> None:
    index = prepare(tmp_path, bpe)
    assert len(index.splits["train"]["files"]) > 5
    assert chunks_of(index.open(tmp_path, "train"), bpe) == SHARDS
    assert chunks_of(index.open(tmp_path, "val"), bpe) == VAL
    assert load_tokenizer(tmp_path / "tokenizer").fingerprint == bpe.fingerprint
    assert TokenIndex.load(tmp_path) == index
    files = index.splits["train"]["files"]
    assert sum(file["documents"] for file in files) == index.splits["train"]["documents"]
    assert {path.name for path in tmp_path.glob("*.tokens")} == {
        file["file"] for split in SPLITS for file in index.splits[split]["files"]
    }


texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=4)
some_shards = st.lists(st.lists(texts, max_size=4), min_size=1, max_size=4)


@in_one_folder
@given(some_shards, some_shards, st.integers(1, 60), st.integers(1, 20))
def test_any_shards_come_back(
    tmp_path_factory: pytest.TempPathFactory, train: list, val: list, shard_tokens: int, job: int
) -> None:
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizing, "JOB_CHARACTERS", job)
        index = prepare(out, train=Shards(train), val=Shards(val), shard_tokens=shard_tokens)
    assert chunks_of(index.open(out, "train")) == train
    assert chunks_of(index.open(out, "val")) == val


@pytest.mark.parametrize("packing", ["best_fit", "windows"])
@pytest.mark.parametrize("source", ["shards", "tiny", "memory"])
def test_the_rows_are_those_of_the_text(tmp_path: Path, bpe: Tokenizer, packing: str, source: str) -> None:
    train, val = {
        "shards": (Shards(SHARDS), Shards(VAL)),
        "tiny": (TinySource("train", 700), TinySource("val", 100)),
        "memory": (
            MemorySource([document(i) for i in range(300)]),
            MemorySource([document(i, "val") for i in range(9)]),
        ),
    }[source]
    prepare(tmp_path, bpe, train=train, val=val)
    spec = TokenDataSpec(path=str(tmp_path), packing=packing, streams=4, buffer_documents=8, val_tokens=1000)
    tokenizer = spec.own_tokenizer()
    layout = Layout(sequence_len=48, rows_per_step=8, micro_batch_rows=8, streams=4)
    options = {"seed": 3, "packing": packing, "buffer_documents": 8, "val_tokens": 1000}
    text = TextDataModule(train, val, bpe, layout, **options)
    tokens = spec.build(tokenizer, sequence_len=48, rows_per_step=8, micro_batch_rows=8, seed=3)
    steps = 2 * 40_000 // (8 * 48)  # more than an epoch
    for a, b in itertools.islice(zip(text.train_dataloader(), tokens.train_dataloader()), steps):
        assert a.inputs.equal(b.inputs) and a.targets.equal(b.targets)
    assert text.counters() == tokens.counters()
    for a, b in zip(text.val_dataloader(), tokens.val_dataloader(), strict=True):
        assert a.inputs.equal(b.inputs) and a.targets.equal(b.targets)


def test_windows_in_order_walk_through_the_text(tmp_path: Path) -> None:
    prepare(tmp_path)
    spec = TokenDataSpec(path=str(tmp_path), packing="windows", shuffle=False)
    train, val = spec.build_sources()
    arguments = {"sequence_len": 64, "rows_per_step": 4, "micro_batch_rows": 4, "seed": 1}
    data = spec.build(BYTES, **arguments, sources=(train, val))
    joined = train.joined()
    assert joined is not None
    windows = (len(joined) - 1) // 64
    batches = list(itertools.islice(data.train_dataloader(), windows // 4 + 2))
    rows = [row for batch in batches for row in batch.inputs.tolist()]
    assert len(rows) > windows
    assert list(itertools.chain.from_iterable(rows[:windows])) == joined[0 : 64 * windows].tolist()
    assert rows[windows:] == rows[: len(rows) - windows]
    targets = [row for batch in batches for row in batch.targets.tolist()]
    assert [row[-1] for row in targets[: windows - 1]] == [row[0] for row in rows[1:windows]]

    data.commit(batches[4].cursor)
    later = spec.build(BYTES, **arguments)
    later.load_state_dict(data.state_dict())
    assert next(iter(later.train_dataloader())).inputs.equal(batches[5].inputs)
    shuffled = TokenDataSpec(path=str(tmp_path), packing="windows").build(BYTES, **arguments)
    with pytest.raises(UserError, match="packing was windows in order, is windows"):
        shuffled.load_state_dict(data.state_dict())


def test_one_process_or_three_write_the_same_bytes(
    tmp_path: Path, bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizing, "JOB_CHARACTERS", 3000)
    prepare(tmp_path / "one", bpe)
    prepare(tmp_path / "three", bpe, processes=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")


@pytest.mark.parametrize("limits", [{}, {"max_tokens": 20_000, "max_val_tokens": 5_000}])
def test_an_interrupted_preparation_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int]
) -> None:
    monkeypatch.setattr(tokenizing, "JOB_CHARACTERS", 2000)
    prepare(tmp_path / "whole", **limits)
    failed = 0
    for _ in range(100):
        try:
            prepare(tmp_path / "parts", train=Failing(SHARDS, 6), **limits)
        except MachineError:
            failed += 1
            assert not TokenIndex.load(tmp_path / "parts").complete
            with pytest.raises(UserError, match="not complete"):
                TokenIndex.load(tmp_path / "parts").open(tmp_path / "parts", "train")
        else:
            break
    assert failed
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert not list((tmp_path / "parts").glob(".*.tmp"))


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    prepare(tmp_path)
    before = contents(tmp_path)
    again = Failing(SHARDS, 0)
    prepare(tmp_path, train=again)
    assert again.left == 0
    # A file that is gone or damaged is made again.
    (tmp_path / "train-00002.tokens").unlink()
    prepare(tmp_path)
    assert contents(tmp_path) == before
    (tmp_path / "val-00001.tokens").write_bytes(before["val-00001.tokens"][:-1])
    prepare(tmp_path, train=Failing(SHARDS, 0))
    assert contents(tmp_path) == before


def test_limits(tmp_path: Path) -> None:
    whole = prepare(tmp_path / "whole")
    index = prepare(tmp_path / "part", max_tokens=20_000, max_val_tokens=1)
    lengths = [len(ids) + 1 for ids in read_documents(whole.open(tmp_path / "whole", "train"))]
    kept = next(i for i in range(len(lengths)) if sum(lengths[: i + 1]) >= 20_000) + 1
    assert index.splits["train"]["documents"] == kept < len(lengths)
    assert index.splits["train"]["tokens"] == sum(lengths[:kept])
    assert index.splits["val"]["documents"] == 1
    documents = [BYTES.decode(ids) for ids in read_documents(index.open(tmp_path / "part", "train"))]
    assert documents == list(read_documents(Shards(SHARDS)))[:kept]
    for options in ({"shard_tokens": 0}, {"max_tokens": 0}, {"max_val_tokens": -1}, {"processes": 0}):
        with pytest.raises(UserError, match=f"--{next(iter(options)).replace('_', '-')} is"):
            prepare(tmp_path / "new", **options)
    with pytest.raises(UserError, match="token ids already"):
        prepare(tmp_path / "new", train=index.open(tmp_path / "part", "train"))
    assert not (tmp_path / "new").exists()


def test_progress_counts_what_was_there_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizing, "JOB_CHARACTERS", 1000)
    seen: list[Progress] = []
    with pytest.raises(MachineError):
        prepare(tmp_path, train=Failing(SHARDS, 8), shard_tokens=1000)
    Preparation(Shards(SHARDS), Shards(VAL), BYTES, shard_tokens=1000).run(tmp_path, seen.append)
    for split in SPLITS:
        own = [progress for progress in seen if progress.split == split]
        described = TokenIndex.load(tmp_path).splits[split]
        assert own == sorted(own, key=lambda progress: progress.share) and own[0].share < own[-1].share == 1.0
        assert (own[-1].documents, own[-1].tokens) == (described["documents"], described["tokens"])
    assert seen[0].documents > 10


def test_other_options_or_documents_are_refused(tmp_path: Path, bpe: Tokenizer) -> None:
    prepare(tmp_path)
    before = contents(tmp_path)
    for options, difference in (
        ({"shard_tokens": 77}, "shard_tokens: 3000 then, 77 now"),
        ({"max_tokens": 50}, "max_tokens: None then, 50 now"),
        ({"tokenizer": bpe}, "vocab_size: 265 then, 400 now"),
        ({"train": Shards(SHARDS[:2])}, "training documents"),
    ):
        with pytest.raises(UserError, match=rf"prepared from something else \(.*{difference}.*another folder"):
            prepare(tmp_path, **options)
    assert contents(tmp_path) == before


def test_folders_that_are_something_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(UserError, match="is a file"):
        prepare(tmp_path / "file")
    with pytest.raises(UserError, match="not empty, and holds no prepared tokens"):
        prepare(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_is_prepared_by_one_process_at_a_time(tmp_path: Path) -> None:
    class Meddling(Shards):
        def read_chunk(self, shard: int, chunk: int) -> list[str]:
            with pytest.raises(UserError, match="Another process is preparing"):
                prepare(tmp_path)
            return super().read_chunk(shard, chunk)

    prepare(tmp_path, train=Meddling(SHARDS))


def test_errors_of_tokenizing_arrive(tmp_path: Path) -> None:
    chars = CharSpec().build(["abc"])
    for processes in (1, 2):
        with pytest.raises(UserError, match="is not among the 3 characters"):
            prepare(tmp_path / "out", chars, processes=processes)


def test_a_killed_worker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizing, "JOB_CHARACTERS", 1)
    killed = []

    def chunks() -> Iterator[tuple[int, list[str]]]:
        for i in range(100):
            yield i, ["text"]
            for worker in multiprocessing.active_children():
                worker.kill()
                killed.append(worker)

    with pytest.raises(MachineError, match="One of 2 processes that tokenize was killed"):
        list(tokenize_chunks(chunks(), BYTES, 2))
    assert killed


def test_chunks_are_read_only_a_little_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizing, "JOB_CHARACTERS", 1)
    read: list[int] = []

    def chunks() -> Iterator[tuple[int, list[str]]]:
        for i in range(100):
            read.append(i)
            yield i, [str(i)]

    encoded = tokenize_chunks(chunks(), BYTES, 1)
    assert [BYTES.decode(ids[0]) for _, ids in itertools.islice(encoded, 5)] == list("01234")
    assert 5 <= len(read) < 12
    encoded.close()


PROGRAM = """
import sys, time
from pathlib import Path
from nanochat_pl.data.tokens import tokenizing
from nanochat_pl.data.tokens.prepare import Preparation
from nanochat_pl.data.sources import TinySource
from nanochat_pl.tokenizers.byte import ByteTokenizer

class Slow(TinySource):
    def read_chunk(self, shard, chunk):
        time.sleep(0.05)
        return super().read_chunk(shard, chunk)

if __name__ == "__main__":
    tokenizing.JOB_CHARACTERS = 2000
    preparation = Preparation(
        Slow("train", 800), Slow("val", 100), ByteTokenizer(), shard_tokens=20_000, processes=2
    )
    preparation.run(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_killed_in_the_middle_and_run_again(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, str(program), str(tmp_path / "killed")]
    kills = 0
    for files in (1, 3, 6):
        process = subprocess.Popen(command, env=environment)
        while len(list((tmp_path / "killed").glob("*.tokens"))) < files and process.poll() is None:
            time.sleep(0.05)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    assert kills == 3
    assert not TokenIndex.load(tmp_path / "killed").complete
    subprocess.run(command, env=environment, check=True)
    subprocess.run([*command[:-1], str(tmp_path / "whole")], env=environment, check=True)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    deadline = time.monotonic() + 30
    while _processes_of(program) and time.monotonic() < deadline:  # workers end with their parent
        time.sleep(0.1)
    assert not _processes_of(program)


def _processes_of(program: Path) -> list[str]:
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in lines if str(program) in line]
