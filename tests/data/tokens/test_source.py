"""Prepared tokens as documents and as one row: token shards of one source, and nanoGPT's headerless files."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat_pl.core.errors import UserError
from nanochat_pl.data.sources import read_documents
from nanochat_pl.data.tokens import bins
from nanochat_pl.data.tokens.bins import BinSource, BinTokens
from nanochat_pl.data.tokens.shard import TokenShard, writing_shard
from nanochat_pl.data.tokens.source import OPEN_FILES, JoinedTokens, TokenSource
from nanochat_pl.tokenizers.byte import ByteTokenizer
from nanochat_pl.tokenizers.char import CharTokenizer

TOKENIZER = ByteTokenizer()
in_one_folder = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path: Path, shard: int, first_chunk: int, chunks: list[list[str]]) -> Path:
    with writing_shard(path, TOKENIZER, shard, first_chunk) as writer:
        for chunk in chunks:
            writer.add(TOKENIZER.encode_batch(chunk))
    return path


def texts(documents: list[np.ndarray]) -> list[str]:
    return [TOKENIZER.decode(document) for document in documents]


def test_files_are_shards_of_chunks(tmp_path: Path) -> None:
    files = [
        write(tmp_path / "a", 0, 0, [["one", "two"], []]),
        write(tmp_path / "b", 0, 2, [["three"]]),
        write(tmp_path / "c", 2, 0, [["four"], ["five", ""]]),
    ]
    source = TokenSource(files, num_shards=4)
    assert source.holds_tokens and source.num_shards == 4
    assert [source.num_chunks(shard) for shard in range(4)] == [3, 0, 2, 0]
    assert [texts(source.read_chunk(0, chunk)) for chunk in range(3)] == [["one", "two"], [], ["three"]]
    assert texts(source.read_chunk(2, 1)) == ["five", ""]
    assert texts(list(read_documents(source))) == ["one", "two", "three", "four", "five", ""]
    joined = source.joined()
    bos = "<|bos|>"
    assert TOKENIZER.decode(joined[0 : len(joined)]) == bos + bos.join(["one", "two", "three", "four", "five", ""])


def test_the_fingerprint_follows_the_documents_and_their_places(tmp_path: Path) -> None:
    def fingerprint(name: str, *arguments: object, num_shards: int = 2) -> str:
        return TokenSource([write(tmp_path / name, *arguments)], num_shards).fingerprint  # type: ignore[arg-type]

    same = [fingerprint("a", 0, 0, [["one", "two"]]), fingerprint("b", 0, 0, [["one", "two"]])]
    others = [
        fingerprint("c", 0, 0, [["one", "tow"]]),
        fingerprint("d", 0, 0, [["one"], ["two"]]),
        fingerprint("e", 1, 0, [["one", "two"]]),
        fingerprint("f", 0, 0, [["one", "two"]], num_shards=3),
    ]
    assert len({*same, *others}) == 5 and same[0] == same[1]


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    first = write(tmp_path / "first", 0, 0, [["one"]])
    for shard, chunk in ((0, 2), (0, 0), (1, 1), (5, 0)):
        with pytest.raises(UserError, match="does not go on where"):
            TokenSource([first, write(tmp_path / "second", shard, chunk, [["two"]])], num_shards=2)
    with writing_shard(tmp_path / "other", CharTokenizer("abc"), 1) as writer:
        writer.add([])
    with pytest.raises(UserError, match=r"other was made with another tokenizer than .*first"):
        TokenSource([first, tmp_path / "other"], num_shards=2)
    with pytest.raises(UserError, match="absent cannot be read"):
        TokenSource([tmp_path / "absent"], num_shards=1)


def test_more_files_than_may_be_open_at_once(tmp_path: Path) -> None:
    count = 2 * OPEN_FILES + 3
    files = [write(tmp_path / str(i), i, 0, [[f"document {i}"]]) for i in range(count)]
    source = TokenSource(files, num_shards=count)
    assert texts([source.read_chunk(i, 0)[0] for i in range(count)]) == [f"document {i}" for i in range(count)]
    joined = source.joined()
    place = 0
    for i in range(count):
        length = len(f"document {i}") + 1
        assert TOKENIZER.decode(joined[place + 1 : place + length]) == f"document {i}"
        place += length
    assert place == len(joined)
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert 0 < sum(str(tmp_path) in line for line in maps.read_text().splitlines()) <= OPEN_FILES


@given(st.lists(st.lists(st.integers(0, 99), max_size=6), max_size=6), st.integers(0, 40), st.integers(0, 40))
def test_several_arrays_read_as_one(parts: list[list[int]], start: int, stop: int) -> None:
    arrays = [np.array(part, dtype=np.uint16) for part in parts]
    joined = JoinedTokens([len(part) for part in parts], lambda number, start, stop: arrays[number][start:stop])
    flat = [i for part in parts for i in part]
    assert len(joined) == len(flat)
    assert joined[start:stop].tolist() == flat[start:stop]


def test_tokens_are_mapped_and_not_copied(tmp_path: Path) -> None:
    path = write(tmp_path / "a", 0, 0, [["one", "two"]])
    shard = TokenShard(path)
    document = shard.read_chunk(0)[1]
    assert np.shares_memory(document, shard.tokens)
    joined = TokenSource([path], 1).joined()
    assert np.shares_memory(joined[2:5], joined[0:4])
    (tmp_path / "x.bin").write_bytes(np.arange(100, dtype="<u2").tobytes())
    tokens = BinTokens(tmp_path / "x.bin", "uint16", 100)
    assert np.shares_memory(tokens[5:9], tokens[0:100])


@in_one_folder
@given(
    st.lists(st.lists(st.integers(0, 8), max_size=9), max_size=9),
    st.booleans(),
    st.integers(1, 12),
    st.sampled_from(["uint16", "uint32"]),
)
def test_headerless_documents_are_found(
    tmp_path: Path, documents: list[list[int]], ended: bool, block: int, dtype: bins.BinDtype
) -> None:
    ids = [i for document in documents for i in (*document, 9)]
    ids = ids if ended else ids[:-1]
    if not ids:
        return
    path = tmp_path / "train.bin"
    np.array(ids, dtype=dtype).tofile(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bins, "BLOCK_TOKENS", block)
        source = BinSource(BinTokens(path, dtype, vocab_size=10), separator=9)
        found = [document.tolist() for document in read_documents(source)]
    # An empty document at the very end is none; nobody could tell.
    expected = documents if ended or documents[-1] else documents[:-1]
    assert found == expected
    assert source.joined()[0 : len(ids)].tolist() == ids


def test_headerless_files_without_a_separator_are_one_document(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    np.arange(50, dtype=np.uint16).tofile(path)
    source = BinSource(BinTokens(path, "uint16", 50))
    assert [document.tolist() for document in read_documents(source)] == [list(range(50))]
    assert source.fingerprint != BinSource(BinTokens(path, "uint16", 50), separator=3).fingerprint
    np.arange(1, 51, dtype=np.uint16).tofile(tmp_path / "other.bin")
    assert source.fingerprint != BinSource(BinTokens(tmp_path / "other.bin", "uint16", 51)).fingerprint


def test_headerless_files_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    with pytest.raises(UserError, match=r"train\.bin cannot be read: No such file"):
        BinTokens(path, "uint16", 50)
    for raw, message in ((b"", "is empty"), (b"abc", "has 3 bytes, which is no multiple of 2")):
        path.write_bytes(raw)
        with pytest.raises(UserError, match=message):
            BinTokens(path, "uint16", 50)
    np.array([1, 2, 50], dtype=np.uint16).tofile(path)
    with pytest.raises(UserError, match=r"token id 50, but the tokenizer has only 50 tokens.*data\.tokenizer=FOLDER"):
        BinTokens(path, "uint16", 50)


def test_an_id_beyond_the_vocabulary_is_found_when_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train.bin"
    ids = np.zeros(100, dtype=np.uint16)
    ids[50] = 60_000
    ids.tofile(path)
    monkeypatch.setattr(bins, "BLOCK_TOKENS", 10)
    tokens = BinTokens(path, "uint16", 50)
    assert tokens[0:50].tolist() == [0] * 50
    with pytest.raises(UserError, match="token id 60000"):
        tokens[40:51]
