"""Token shards: documents as token ids in a file that is memory-mapped.

A file, little-endian throughout:

    header      128 bytes: `Header`
    tokens      uint16 or uint32: of each document its BOS and its ids, one document after the other
    offsets     uint64, documents + 1: where each document's BOS lies, counted in tokens, and the end
    chunks      uint64, chunks + 1: the first document of each chunk, and the end
    checksums   uint32, chunks: CRC-32 of each chunk's tokens

The chunks are those of the source that the documents came from, so that training on the file deals the same rows as
training on the source. The index behind the tokens begins at a multiple of 8 bytes; the header holds its SHA-256.
"""

import contextlib
import functools
import hashlib
import itertools
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.paths import replacing
from nanochat_pl.tokenizers.base import Tokenizer

MAGIC = b"NCPLTOK\0"
FORMAT_VERSION = 1
HEADER_BYTES = 128
SUFFIX = ".tokens"

# magic, version, bytes of a token, vocabulary, BOS, tokens, documents, chunks, shard, first chunk, two SHA-256.
_FIELDS = struct.Struct("<8s4I3Q2I32s32s")
_CHECKSUM = struct.Struct("<I")


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    Attributes:
        token_bytes: 2 or 4.
        vocab_size, bos_id, tokenizer: of the tokenizer; the last is its fingerprint, 64 hex digits.
        num_tokens: BOS included.
        shard, first_chunk: the place of the file's first chunk in the source that was tokenized.
        index_digest: SHA-256 of the index, and so of the documents, 64 hex digits.
    """

    token_bytes: int
    vocab_size: int
    bos_id: int
    num_tokens: int
    num_documents: int
    num_chunks: int
    shard: int
    first_chunk: int
    tokenizer: str
    index_digest: str

    @property
    def dtype(self) -> np.dtype:
        """Of the tokens."""
        return np.dtype(f"<u{self.token_bytes}")

    @property
    def index_start(self) -> int:
        """The byte at which the index begins."""
        return -(-(HEADER_BYTES + self.num_tokens * self.token_bytes) // 8) * 8

    @property
    def index_bytes(self) -> int:
        """Size of the index."""
        return 8 * (self.num_documents + 1) + 8 * (self.num_chunks + 1) + 4 * self.num_chunks

    @property
    def file_bytes(self) -> int:
        """Size of the whole file."""
        return self.index_start + self.index_bytes

    def pack(self) -> bytes:
        """The first 128 bytes of the file."""
        *numbers, tokenizer, digest = astuple(self)
        fields = _FIELDS.pack(MAGIC, FORMAT_VERSION, *numbers, bytes.fromhex(tokenizer), bytes.fromhex(digest))
        return (fields + _CHECKSUM.pack(zlib.crc32(fields))).ljust(HEADER_BYTES, b"\0")


def read_header(path: Path) -> Header:
    """The header of a token shard whose size fits to it.

    Raises:
        UserError: no such file, another kind of file, a later version, damaged or truncated.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(HEADER_BYTES)
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    if raw[: len(MAGIC)] != MAGIC:
        raise UserError(f"{path} is not a token shard: `python -m nanochat_pl data prepare` did not write it.")
    if len(raw) < HEADER_BYTES:
        raise _damaged(path, f"it ends after {size} bytes, inside its header")
    fields = raw[: _FIELDS.size]
    _, version, *numbers, tokenizer, digest = _FIELDS.unpack(fields)
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path} is a token shard of version {version}, this nanochat-pl reads version {FORMAT_VERSION}: use the "
            "version that wrote it, or prepare the tokens again."
        )
    if _CHECKSUM.unpack_from(raw, _FIELDS.size)[0] != zlib.crc32(fields):
        raise _damaged(path, "its header's checksum is wrong")
    values = [*numbers, tokenizer.hex(), digest.hex()]
    header = Header(*values)
    if size != header.file_bytes:
        raise _damaged(path, f"it has {size} bytes instead of {header.file_bytes}")
    return header


class ShardWriter:
    """Writes the chunks of one file; made by `writing_shard`."""

    def __init__(self, file: BinaryIO, tokenizer: Tokenizer, shard: int, first_chunk: int):
        self.num_tokens = self.num_documents = self.num_chunks = 0
        self._file, self._tokenizer = file, tokenizer
        self._shard, self._first_chunk = shard, first_chunk
        self._dtype = np.dtype(tokenizer.dtype).newbyteorder("<")
        self._offsets = [np.zeros(1, dtype="<u8")]
        self._chunks, self._checksums = [0], list[int]()
        file.write(bytes(HEADER_BYTES))

    def add(self, documents: Sequence[np.ndarray]) -> None:
        """The next chunk: the ids of each of its documents, without BOS."""
        bos = np.array([self._tokenizer.bos_id], dtype=self._dtype)
        parts = [part for ids in documents for part in (bos, ids)]
        tokens = np.concatenate(parts).astype(self._dtype, copy=False) if parts else np.empty(0, self._dtype)
        lengths = np.fromiter((len(ids) + 1 for ids in documents), dtype="<u8", count=len(documents))
        raw = tokens.tobytes()
        self._file.write(raw)
        self._offsets.append(np.cumsum(lengths, dtype="<u8") + np.uint64(self.num_tokens))
        self.num_tokens += len(tokens)
        self.num_documents += len(documents)
        self.num_chunks += 1
        self._chunks.append(self.num_documents)
        self._checksums.append(zlib.crc32(raw))

    def finish(self) -> None:
        """Write the index and the header."""
        offsets, chunks = np.concatenate(self._offsets), np.array(self._chunks, dtype="<u8")
        index = offsets.tobytes() + chunks.tobytes() + np.array(self._checksums, dtype="<u4").tobytes()
        header = Header(
            token_bytes=self._dtype.itemsize,
            vocab_size=self._tokenizer.vocab_size,
            bos_id=self._tokenizer.bos_id,
            num_tokens=self.num_tokens,
            num_documents=self.num_documents,
            num_chunks=self.num_chunks,
            shard=self._shard,
            first_chunk=self._first_chunk,
            tokenizer=self._tokenizer.fingerprint,
            index_digest=hashlib.sha256(index).hexdigest(),
        )
        self._file.write(bytes(header.index_start - self._file.tell()))
        self._file.write(index)
        self._file.seek(0)
        self._file.write(header.pack())


@contextlib.contextmanager
def writing_shard(path: Path, tokenizer: Tokenizer, shard: int = 0, first_chunk: int = 0) -> Iterator[ShardWriter]:
    """A writer whose file takes its place when the block ends without an error; before that there is none.

    Args:
        shard, first_chunk: the place of the first chunk in the source.

    Raises:
        MachineError: the disk is full or not writable.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        writer = ShardWriter(file, tokenizer, shard, first_chunk)
        yield writer
        writer.finish()


class ChunkSums(NamedTuple):
    """Where the chunks of a file begin, and the end; their checksums; whether each was found right."""

    starts: np.ndarray
    checksums: np.ndarray
    checked: np.ndarray


class TokenShard:
    """A token shard, memory-mapped; safe to read from several threads.

    Raises:
        UserError: what `read_header` raises.

    Attributes:
        tokens: (num_tokens,) all tokens, read from the disk as they are used.
    """

    def __init__(self, path: Path):
        self.path, self.header = path, read_header(path)
        try:
            mapped = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}.") from error
        end = HEADER_BYTES + self.header.num_tokens * self.header.token_bytes
        self.tokens = mapped[HEADER_BYTES:end].view(self.header.dtype)
        self._mapped = mapped

    def read_chunk(self, chunk: int) -> list[np.ndarray]:
        """The ids of each document of a chunk, without BOS: views of the file.

        Raises:
            UserError: the index or the chunk's tokens are damaged.
        """
        offsets, chunks, checksums = self._index
        bounds = offsets[int(chunks[chunk]) : int(chunks[chunk + 1]) + 1].tolist()
        tokens = self.tokens[bounds[0] : bounds[-1]]
        self._check(chunk, tokens, int(checksums[chunk]))
        start = bounds[0]
        return [tokens[a - start + 1 : b - start] for a, b in itertools.pairwise(bounds)]

    def sums(self) -> "ChunkSums":
        """What `read` looks at; small, and worth keeping when the file is closed."""
        offsets, chunks, checksums = self._index
        starts = offsets[chunks.astype(np.int64)].astype(np.int64)
        return ChunkSums(starts, checksums.copy(), np.zeros(len(checksums), dtype=bool))

    def read(self, start: int, stop: int, sums: "ChunkSums") -> np.ndarray:
        """Tokens as they stand in the file; the checksum of each chunk among them is looked at once.

        Raises:
            UserError: a chunk's tokens are damaged.
        """
        first = int(np.searchsorted(sums.starts, start, side="right")) - 1
        last = int(np.searchsorted(sums.starts, stop, side="left"))
        for chunk in range(first, last):
            if not sums.checked[chunk]:
                raw = self.tokens[int(sums.starts[chunk]) : int(sums.starts[chunk + 1])]
                self._check(chunk, raw, int(sums.checksums[chunk]))
                sums.checked[chunk] = True
        return self.tokens[start:stop]

    def _check(self, chunk: int, tokens: np.ndarray, checksum: int) -> None:
        if zlib.crc32(tokens.data) != checksum:
            raise _damaged(self.path, f"the checksum of chunk {chunk} is wrong")

    @functools.cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Offsets, chunks and checksums."""
        header = self.header
        raw = self._mapped[header.index_start :]
        if hashlib.sha256(raw.data).hexdigest() != header.index_digest:
            raise _damaged(self.path, "the checksum of its index is wrong")
        offsets_end = 8 * (header.num_documents + 1)
        chunks_end = offsets_end + 8 * (header.num_chunks + 1)
        return raw[:offsets_end].view("<u8"), raw[offsets_end:chunks_end].view("<u8"), raw[chunks_end:].view("<u4")


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} is damaged: {reason}. Restore it from a copy, or delete it and run the same `python -m nanochat_pl "
        "data prepare` again, which makes it anew."
    )
