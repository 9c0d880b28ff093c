"""nanoGPT's headerless train.bin and val.bin: one row of token ids each, memory-mapped."""

import functools
import hashlib
import pickle
from pathlib import Path
from typing import Literal

import numpy as np

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.paths import replacing
from nanochat_pl.data.sources import DocumentSource, read_documents
from nanochat_pl.data.tokens.folder import SPLITS, TokenIndex
from nanochat_pl.tokenizers.base import BOS, Tokenizer
from nanochat_pl.tokenizers.char import CharTokenizer

BLOCK_TOKENS = 1 << 18
"""A chunk holds the documents that begin in so many tokens."""

BinDtype = Literal["uint16", "uint32"]


class BinTokens:
    """The ids in one file, read as they are sliced; a slice with an id beyond the vocabulary is an error.

    Args:
        dtype: of the ids.
        vocab_size: of the tokenizer.

    Raises:
        UserError: the file is missing, empty, of another dtype, or begins or ends with ids beyond the vocabulary.
    """

    def __init__(self, path: Path, dtype: BinDtype, vocab_size: int):
        self._path, self._vocab_size = path, vocab_size
        item = np.dtype(dtype).newbyteorder("<")
        try:
            size = path.stat().st_size
            if not size or size % item.itemsize:
                what = "is empty" if not size else f"has {size} bytes, which is no multiple of {item.itemsize}"
                raise UserError(f"{path} {what}: it is no file of {dtype} token ids, or it is cut off.")
            self._ids = np.asarray(np.memmap(path, dtype=item, mode="r"))
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}.") from error
        for sample in (slice(0, BLOCK_TOKENS), slice(max(0, len(self) - BLOCK_TOKENS), len(self))):
            self[sample]

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, part: slice) -> np.ndarray:
        ids = self._ids[part]
        if len(ids) and ids.max() >= self._vocab_size:
            raise UserError(
                f"{self._path} holds the token id {ids.max()}, but the tokenizer has only {self._vocab_size} tokens: "
                f"the file was made with another tokenizer, or with another data.dtype than {ids.dtype.name}. Name the "
                "folder of its tokenizer with data.tokenizer=FOLDER."
            )
        return ids

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the size and of samples all over the file."""
        digest = hashlib.sha256(f"bin {self._ids.dtype} {len(self)}".encode())
        for start in range(0, len(self), max(4096, len(self) // 64)):
            digest.update(self._ids[start : start + 4096].tobytes())
        return digest.hexdigest()

    def find(self, token: int, start: int, end: int) -> np.ndarray:
        """Where `token` lies among the places from `start` up to `end`."""
        return np.flatnonzero(self._ids[start:end] == token) + start


class BinSource(DocumentSource):
    """The documents of one file, each of which ends with `separator`; they are found as they are read.

    nanoGPT writes GPT-2's <|endoftext|>, 50256, behind each document. Without a separator the file is one document.
    """

    holds_tokens = True

    def __init__(self, tokens: BinTokens, separator: int | None = None):
        self._tokens, self._separator = tokens, separator

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self._tokens.fingerprint} {self._separator}".encode()).hexdigest()

    def num_chunks(self, shard: int) -> int:
        return 1 if self._separator is None else -(-len(self._tokens) // BLOCK_TOKENS)

    def read_chunk(self, shard: int, chunk: int) -> list[np.ndarray]:
        if self._separator is None:
            return [self._tokens[:]]
        first, end = chunk * BLOCK_TOKENS, min((chunk + 1) * BLOCK_TOKENS, len(self._tokens))
        # Its documents begin in it: at the start of the file, or behind a separator.
        starts = [0] if chunk == 0 else []
        starts += (self._tokens.find(self._separator, max(0, first - 1), end - 1) + 1).tolist()
        if not starts:
            return []
        ends = [start - 1 for start in starts[1:]] + [self._next_separator(max(starts[-1], end - 1))]
        return [self._tokens[a:b] for a, b in zip(starts, ends)]

    def joined(self) -> BinTokens:
        """All tokens as they are in the file."""
        return self._tokens

    def _next_separator(self, place: int) -> int:
        """The first separator from `place` on, else the end of the file."""
        assert self._separator is not None
        while place < len(self._tokens):
            found = self._tokens.find(self._separator, place, place + BLOCK_TOKENS)
            if len(found):
                return int(found[0])
            place += BLOCK_TOKENS
        return len(self._tokens)


def write_bins(index: TokenIndex, folder: Path, tokenizer: Tokenizer) -> dict[str, int]:
    """Write prepared tokens as nanoGPT has them: train.bin, val.bin and, for characters, the pickle meta.pkl.

    A split of several documents has BOS behind each: GPT-2's <|endoftext|> in its encoding.

    Returns:
        The ids in each file.

    Raises:
        MachineError: the disk is full.
    """
    counts = {}
    for split in SPLITS:
        end = [tokenizer.bos_id] if index.splits[split]["documents"] > 1 else []
        path, count = folder / f"{split}.bin", 0
        with replacing(path) as temporary, temporary.open("wb") as file:
            for ids in read_documents(index.open(folder, split)):
                ids = np.concatenate([ids, end]).astype(np.dtype(tokenizer.dtype).newbyteorder("<"))
                file.write(ids.tobytes())
                count += len(ids)
        counts[path.name] = count
    if isinstance(tokenizer, CharTokenizer):
        separated = any(index.splits[split]["documents"] > 1 for split in SPLITS)
        itos = dict(enumerate([*tokenizer.characters, *([BOS] if separated else [])]))
        meta = {"vocab_size": len(itos), "itos": itos, "stoi": {name: i for i, name in itos.items()}}
        with replacing(folder / "meta.pkl") as temporary:
            temporary.write_bytes(pickle.dumps(meta))
    return counts
