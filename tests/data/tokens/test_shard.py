"""The file of tokens: what is written comes back, and no damage goes unnoticed."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat_pl.core.errors import UserError
from nanochat_pl.data.tokens.shard import HEADER_BYTES, TokenShard, read_header, writing_shard
from nanochat_pl.tokenizers.base import Tokenizer
from nanochat_pl.tokenizers.byte import ByteTokenizer
from nanochat_pl.tokenizers.char import CharTokenizer

SMALL = ByteTokenizer()
LARGE = CharTokenizer("".join(map(chr, range(0x10000, 0x20000))))
in_one_folder = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

Chunks = list[list[np.ndarray]]


@st.composite
def some_chunks(draw: st.DrawFn, tokenizer: Tokenizer = SMALL) -> Chunks:
    ids = st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=12)
    drawn = draw(st.lists(st.lists(ids, max_size=5), max_size=5))
    return [[np.array(document, dtype=tokenizer.dtype) for document in chunk] for chunk in drawn]


def write(path: Path, chunks: Chunks, tokenizer: Tokenizer = SMALL) -> Path:
    with writing_shard(path, tokenizer, shard=7, first_chunk=3) as writer:
        for chunk in chunks:
            writer.add(chunk)
    return path


def as_lists(chunks: Chunks) -> list[list[list[int]]]:
    return [[document.tolist() for document in chunk] for chunk in chunks]


def read(path: Path) -> list[list[list[int]]]:
    shard = TokenShard(path)
    return as_lists([shard.read_chunk(chunk) for chunk in range(shard.header.num_chunks)])


@pytest.mark.parametrize(("tokenizer", "dtype"), [(SMALL, np.uint16), (LARGE, np.uint32)], ids=["uint16", "uint32"])
@in_one_folder
@given(st.data())
def test_what_is_written_comes_back(tmp_path: Path, tokenizer: Tokenizer, dtype: type, data: st.DataObject) -> None:
    chunks = data.draw(some_chunks(tokenizer))
    path = write(tmp_path / "shard", chunks, tokenizer)
    assert read(path) == as_lists(chunks)
    shard = TokenShard(path)
    documents = [document for chunk in chunks for document in chunk]
    assert shard.tokens.dtype == dtype and shard.header.dtype == dtype
    assert shard.tokens.tolist() == [i for document in documents for i in (tokenizer.bos_id, *document.tolist())]
    header = shard.header
    assert (header.num_chunks, header.num_documents, header.shard, header.first_chunk) == (
        len(chunks), len(documents), 7, 3,
    )  # fmt: skip
    assert (header.tokenizer, header.vocab_size, header.bos_id) == (
        tokenizer.fingerprint, tokenizer.vocab_size, tokenizer.bos_id,
    )  # fmt: skip
    assert path.stat().st_size == header.file_bytes and header.index_start % 8 == 0


@in_one_folder
@given(some_chunks(), st.data())
def test_no_changed_byte_goes_unnoticed(tmp_path: Path, chunks: Chunks, data: st.DataObject) -> None:
    path = write(tmp_path / "shard", chunks)
    raw = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    try:
        assert read(path) == as_lists(chunks)
    except UserError as error:
        assert str(path) in str(error)
    else:  # only bytes that fill a gap, and all of a file that holds no chunk
        header = read_header(path)
        tokens_end = HEADER_BYTES + header.num_tokens * header.token_bytes
        assert HEADER_BYTES - 4 <= place < HEADER_BYTES or tokens_end <= place < header.index_start or not chunks


@in_one_folder
@given(some_chunks(), st.data())
def test_a_file_of_another_length_is_damaged(tmp_path: Path, chunks: Chunks, data: st.DataObject) -> None:
    path = write(tmp_path / "shard", chunks)
    raw = path.read_bytes()
    path.write_bytes(data.draw(st.sampled_from([raw + b"\0", raw[: data.draw(st.integers(0, len(raw) - 1))]])))
    with pytest.raises(UserError, match=r"damaged|not a token shard"):
        TokenShard(path)


def test_files_that_are_something_else(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    with pytest.raises(UserError, match=r"shard cannot be read: No such file"):
        TokenShard(path)
    path.write_text("<html>" * 100)
    with pytest.raises(UserError, match="not a token shard"):
        TokenShard(path)
    raw = bytearray(write(path, [[np.array([1, 2], dtype=np.uint16)]]).read_bytes())
    raw[8] = 2
    path.write_bytes(raw)
    with pytest.raises(UserError, match="version 2, this nanochat-pl reads version 1"):
        TokenShard(path)


def test_a_file_is_there_when_it_is_complete(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), writing_shard(tmp_path / "shard", SMALL) as writer:
        writer.add([np.array([1, 2], dtype=np.uint16)])
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_the_bytes_are_the_same_in_every_version(tmp_path: Path) -> None:
    # Files that were written once must stay readable: a change here needs another FORMAT_VERSION.
    path = write(tmp_path / "shard", [[np.array([1, 2, 3], dtype=np.uint16)], []])
    raw = path.read_bytes()
    assert raw[:48].hex() == (
        "4e43504c544f4b00" "01000000" "02000000" "09010000" "00010000"
        "0400000000000000" "0100000000000000" "0200000000000000"
    )  # fmt: skip
    assert raw[48:56].hex() == "07000000" "03000000"  # fmt: skip
    assert raw[HEADER_BYTES : HEADER_BYTES + 8].hex() == "0001" "0100" "0200" "0300"  # fmt: skip
    assert np.frombuffer(raw[HEADER_BYTES + 8 : -8], dtype="<u8").tolist() == [0, 4, 0, 1, 1]
