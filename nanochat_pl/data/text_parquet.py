"""Parquet files by row groups; pyarrow is imported only here."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from nanochat_pl.core.errors import UserError, nearest
from nanochat_pl.data.held_out import hash_fraction
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
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise UserError(
                f"Reading {files[0]} needs pyarrow. Install it with: pip install 'nanochat-pl[data]'"
            ) from error
        self._text_key = text_key
        self._metadata: dict[Path, Any] = {}
        self._groups: list[tuple[Path, int]] = []
        self.text_bytes = 0
        digest = hashlib.sha256(text_key.encode())
        for path in files:
            try:
                opened = pq.ParquetFile(path)
            except (pa.ArrowException, OSError) as error:
                raise UserError(f"{path} cannot be read as parquet: {_first_line(error)}") from error
            with opened:
                self._check_column(path, opened.schema_arrow)
                metadata = self._metadata[path] = opened.metadata
            column = next(i for i in range(metadata.num_columns) if metadata.schema.column(i).path == text_key)
            digest.update(f"file {path.stat().st_size}".encode())
            for group in range(metadata.num_row_groups):
                self._groups.append((path, group))
                texts = metadata.row_group(group).column(column)
                self.text_bytes += texts.total_uncompressed_size
                digest.update(f"group {texts.num_values} {texts.total_compressed_size}".encode())
        self.fingerprint = digest.hexdigest()
        if not sum(metadata.num_rows for metadata in self._metadata.values()):
            raise UserError(f"{', '.join(map(str, files))}: no rows.")

    def __len__(self) -> int:
        return len(self._groups)

    def read(self, chunk: int) -> list[str]:
        """The texts of one row group; null counts as empty.

        Raises:
            UserError: the file is damaged.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        path, group = self._groups[chunk]
        try:
            with pq.ParquetFile(path, metadata=self._metadata[path]) as opened:
                column = opened.read_row_group(group, columns=[self._text_key], use_threads=False).column(0)
            return [text or "" for text in column.to_pylist()]
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path}, row group {group}, is damaged: {_first_line(error)} Get the file again."
            ) from error

    def _check_column(self, path: Path, schema: Any) -> None:
        import pyarrow as pa

        key = self._text_key
        if key not in schema.names:
            raise UserError(
                f"{path} has no column '{key}' (there are: {', '.join(schema.names)}){nearest(key, schema.names)}. "
                "Name the column of the text with data.text_key."
            )
        kind = schema.field(key).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise UserError(f"{path}: column '{key}' holds {kind}, not strings.")


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


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
