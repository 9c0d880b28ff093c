"""The user's own parquet files, read by row groups as they are needed."""

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.held_out import hash_fraction
from nanochat_pl.data.parquet import BadShard, read_footer, read_row_group, require
from nanochat_pl.data.sources import DocumentSource


class ParquetSource(DocumentSource):
    """The text column of several parquet files, all of it or (`side`) a part; a chunk is a row group.

    Raises:
        UserError: pyarrow is not installed; a file is no parquet, lacks the column, or the column holds no strings.

    Attributes:
        text_bytes: size of the whole column, uncompressed.
    """

    def __init__(self, files: Sequence[Path], text_key: str):
        require("pyarrow")
        self._text_key = text_key
        self._split, self._val_fraction = "all", 0.0
        self._footers: dict[Path, Any] = {}
        self._groups: list[tuple[Path, int]] = []
        self.text_bytes = 0
        digest = hashlib.sha256(text_key.encode())  # of sizes and row groups; the text itself is not read
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
        self._digest = digest.hexdigest()
        if not sum(footer.num_rows for footer in self._footers.values()):
            raise UserError(f"{', '.join(map(str, files))}: no rows.")

    def side(self, split: Literal["train", "val"], val_fraction: float) -> "ParquetSource":
        """One side of the split by a hash of each document's text, `val_fraction` of them held out."""
        part = copy.copy(self)
        part._split, part._val_fraction = split, val_fraction
        return part

    def num_chunks(self, shard: int) -> int:
        return len(self._groups)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self._digest} {self._split} {self._val_fraction}".encode()).hexdigest()

    def read_chunk(self, shard: int, chunk: int) -> list[str]:
        """The texts of one row group, null as an empty one; raises `UserError` where the file is damaged."""
        path, group = self._groups[chunk]
        try:
            texts = [text or "" for text in read_row_group(path, self._footers[path], group, [self._text_key])[0]]
        except BadShard as error:
            raise UserError(f"{path}, {str(error).rstrip('.')}. Get the file again.") from error
        if self._split == "all":
            return texts
        return [text for text in texts if (hash_fraction(text) < self._val_fraction) == (self._split == "val")]
