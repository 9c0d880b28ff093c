"""Where documents come from: chunks of them that can be read in any order."""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol


class DocumentSource(Protocol):
    """Documents in chunks with random access; safe to read from several threads.

    Attributes:
        fingerprint: changes when the documents or their places change.
        num_chunks: at least 1. A chunk is what is read at once: a block of documents, a row group of a file.
    """

    @property
    def fingerprint(self) -> str: ...

    @property
    def num_chunks(self) -> int: ...

    def read_chunk(self, chunk: int) -> list[str]:
        """The documents of one chunk, always the same; may be empty."""
        ...


def read_documents(source: DocumentSource) -> Iterator[str]:
    """All documents once, in the source's own order."""
    for chunk in range(source.num_chunks):
        yield from source.read_chunk(chunk)


class MemorySource:
    """Documents held in memory, in chunks of at most 128, and in 64 chunks or more if there are as many documents."""

    def __init__(self, documents: Sequence[str]):
        assert documents, "a source needs a document"
        self._documents = documents
        self._block = max(1, min(128, len(documents) // 64))
        self.num_chunks = -(-len(documents) // self._block)

    @functools.cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for document in self._documents:
            raw = document.encode("utf-8", "surrogatepass")
            digest.update(len(raw).to_bytes(8, "little") + raw)
        return digest.hexdigest()

    def read_chunk(self, chunk: int) -> list[str]:
        return list(self._documents[chunk * self._block : (chunk + 1) * self._block])


class TinySource:
    """The embedded tiny world: `num_documents` documents, each made when it is read, `block` of them in a chunk."""

    def __init__(self, split: Literal["train", "val"], num_documents: int, block: int = 16):
        assert num_documents > 0
        self._split: Literal["train", "val"] = split
        self._num_documents, self._block = num_documents, block
        self.num_chunks = -(-num_documents // block)

    @functools.cached_property
    def fingerprint(self) -> str:
        sample = range(0, self._num_documents, max(1, self._num_documents // 32))
        digest = hashlib.sha256(f"{self._split} {self._num_documents} {self._block}".encode())
        for index in sample:
            digest.update(self._document(index).encode())
        return digest.hexdigest()

    def read_chunk(self, chunk: int) -> list[str]:
        start = chunk * self._block
        return [self._document(i) for i in range(start, min(start + self._block, self._num_documents))]

    def _document(self, index: int) -> str:
        from nanochat_pl.tiny_world import document

        return document(index, self._split)
