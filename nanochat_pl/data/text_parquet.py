"""The user's own parquet files, read by row groups as they are needed."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.held_out import hash_fraction
from nanochat_pl.data.parquet import BadShard, read_footer, read_row_group, require
from nanochat_pl.data.sources import DocumentSource


class ParquetFiles:
    """The text column of several parquet files; a chunk is a row group.

    Raises:
        UserError: pyarrow is not installed; a file is no parquet, lacks the column, or the column holds no strings.

    Attributes:
        text_bytes: size of the whole column, uncompressed.
        fingerprint: of the files' sizes and row groups; the text itself is not read.
    """

    def __init__(self, files: Sequence[Path], text_key: str):
        require("pyarrow")
        self._text_key = text_key
        self._footers: dict[Path, Any] = {}
        self._groups: list[tuple[Path, int]] = []
        self.text_bytes = 0
        digest = hashlib.sha256(text_key.encode())
        for path in files:
            try:
                footer = self._footers[path] = read_footer(path, text_key, None)
            except BadShard as error:
                reason = str(error).rstrip(".")
                raise UserError(
                    f"{path}: {reason}. Get the file again, or name the column of its text with data.text_key."
                ) from error
            column = next(i for i in range(footer.num_columns) if footer.schema.column(i).path == text_key)
            digest.update(f"file {path.stat().st_size}".encode())
            for group in range(footer.num_row_groups):
                self._groups.append((path, group))
                texts = footer.row_group(group).column(column)
                self.text_bytes += texts.total_uncompressed_size
                digest.update(f"group {texts.num_values} {texts.total_compressed_size}".encode())
        self.fingerprint = digest.hexdigest()
        if not sum(footer.num_rows for footer in self._footers.values()):
            raise UserError(f"{', '.join(map(str, files))}: no rows.")

    def __len__(self) -> int:
        return len(self._groups)

    def read(self, chunk: int) -> list[str]:
        """The texts of one row group; null counts as empty.

        Raises:
            UserError: the file is damaged.
        """
        path, group = self._groups[chunk]
        try:
            texts = read_row_group(path, self._footers[path], group, [self._text_key])[0]
        except BadShard as error:
            raise UserError(f"{path}, {str(error).rstrip('.')}. Get the file again.") from error
        return [text or "" for text in texts]


class ParquetSource(DocumentSource):
    """One side of the split of big parquet files, read as they are needed.

    Args:
        split: "train" or "val" by a hash of each document's text; "all" for everything.
        val_fraction: the share of documents held out.
    """

    def __init__(self, files: ParquetFiles, split: Literal["train", "val", "all"], val_fraction: float):
        self._files, self._split, self._val_fraction = files, split, val_fraction

    def num_chunks(self, shard: int) -> int:
        return len(self._files)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self._files.fingerprint} {self._split} {self._val_fraction}".encode()).hexdigest()

    def read_chunk(self, shard: int, chunk: int) -> list[str]:
        texts = self._files.read(chunk)
        if self._split == "all":
            return texts
        held_out = self._split == "val"
        return [text for text in texts if (hash_fraction(text) < self._val_fraction) == held_out]
