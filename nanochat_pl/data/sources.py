"""Where documents come from: chunks of them that can be read in any order."""

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from nanochat_pl.tokenizers.base import Tokenizer


class TokenArray(Protocol):
    """Token ids that are read as they are sliced: an array, or several that look like one."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> np.ndarray: ...


class DocumentSource(ABC):
    """Documents in shards, each of them in chunks with random access; safe to read from several threads.

    Training walks one shard at a time, in an order shuffled anew each epoch (but see `each_shard_is_an_epoch`), and
    within it all chunks in an order of their own. A shard is what is fetched at once, a chunk what is read at once: a
    file and its row groups.

    Attributes:
        num_shards: at least 1.
        holds_tokens: a document is an array of token ids instead of text.
        marks_learned: `encode` adds `targets.LEARNED` to the ids that count as targets; else all do.
        each_shard_is_an_epoch: shards are passes over the same documents, and come in their order.
    """

    num_shards: int = 1
    holds_tokens: bool = False
    marks_learned: bool = False
    each_shard_is_an_epoch: bool = False

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when the documents or their places change."""

    @abstractmethod
    def num_chunks(self, shard: int) -> int:
        """Chunks of a shard; 0 where it is left out. May fetch the shard."""

    @abstractmethod
    def read_chunk(self, shard: int, chunk: int) -> list[Any]:
        """The documents of one chunk, always the same; may be empty."""

    def encode(self, tokenizer: Tokenizer, documents: Sequence[Any], num_threads: int) -> list[np.ndarray]:
        """The token ids of documents of this source, without the BOS that packing puts before each."""
        return list(documents) if self.holds_tokens else tokenizer.encode_batch(documents, num_threads=num_threads)

    def check_learnable(self, tokenizer: Tokenizer) -> None:  # noqa: B027  (all tokens of a text are)
        """Raise `UserError` where no target is in any document to train on; log what of them is left out or cut."""

    @property
    def nothing_held_out(self) -> str:
        """What is said where validation would have no target with a byte of text."""
        return "The held-out text is empty: give more text, or name files for it with data.val_files."

    def coming(self, shards: Sequence[int]) -> None:  # noqa: B027  (a hint that most sources can ignore)
        """The shard that is read now and those that will be, in this order."""

    def close(self) -> None:  # noqa: B027  (most sources wait for nothing)
        """Nobody reads any more: whoever waits for a document gives up, with an error."""

    def what_is_missing(self, shard: int) -> str | None:
        """Why documents of a shard are left out, where some are."""
        return None

    def counters(self) -> dict[str, int]:
        """What should be known of the reading so far."""
        return {}

    def joined(self) -> TokenArray | None:
        """Where documents are tokens, all of them in a row, as they are to be cut into windows; None for text."""
        return None


def read_documents(source: DocumentSource, shards: Iterable[int] | None = None) -> Iterator[Any]:
    """All documents once, in the source's own order or in that of `shards`; no shard is fetched ahead."""
    for shard in range(source.num_shards) if shards is None else shards:
        source.coming([shard])
        for chunk in range(source.num_chunks(shard)):
            yield from source.read_chunk(shard, chunk)


class MemorySource(DocumentSource):
    """Documents held in memory, in chunks of at most 128, and in 64 chunks or more if there are as many documents."""

    def __init__(self, documents: Sequence[str]):
        assert documents, "a source needs a document"
        self._documents = documents
        self._block = max(1, min(128, len(documents) // 64))

    def num_chunks(self, shard: int) -> int:
        return -(-len(self._documents) // self._block)

    @functools.cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for document in self._documents:
            raw = document.encode("utf-8", "surrogatepass")
            digest.update(len(raw).to_bytes(8, "little") + raw)
        return digest.hexdigest()

    def read_chunk(self, shard: int, chunk: int) -> list[str]:
        return list(self._documents[chunk * self._block : (chunk + 1) * self._block])


class TinySource(DocumentSource):
    """The embedded tiny world: `num_documents` documents, each made when it is read, `block` of them in a chunk."""

    def __init__(self, split: Literal["train", "val"], num_documents: int, block: int = 16):
        assert num_documents > 0
        self._split: Literal["train", "val"] = split
        self._num_documents, self._block = num_documents, block

    def num_chunks(self, shard: int) -> int:
        return -(-self._num_documents // self._block)

    @functools.cached_property
    def fingerprint(self) -> str:
        sample = range(0, self._num_documents, max(1, self._num_documents // 32))
        digest = hashlib.sha256(f"{self._split} {self._num_documents} {self._block}".encode())
        for index in sample:
            digest.update(self._document(index).encode())
        return digest.hexdigest()

    def read_chunk(self, shard: int, chunk: int) -> list[str]:
        start = chunk * self._block
        return [self._document(i) for i in range(start, min(start + self._block, self._num_documents))]

    def _document(self, index: int) -> str:
        from nanochat_pl.tiny_world import document

        return document(index, self._split)
