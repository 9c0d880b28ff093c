"""One parquet file of documents: its footer, its row groups, and what can be wrong with them; needs pyarrow."""

import importlib.util
import re
from pathlib import Path
from typing import Any

from nanochat_pl.core.errors import UserError


class BadShard(Exception):
    """A file that cannot be used: not parquet, damaged, without the columns, or with something else in them."""


def require(*libraries: str) -> None:
    """Raise `UserError` where one of these is not installed; imports nothing: that would take long."""
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"These data need {', '.join(missing)}. Install with: pip install 'nanochat-pl[data]'")


def is_text(kind: str) -> bool:
    """Whether a column of this pyarrow type, by its name, holds strings; a list of strings is none."""
    return re.fullmatch(r"(large_)?string(_view)?|dictionary<values=(large_)?string(_view)?,.*>", kind) is not None


def first_line(error: BaseException) -> str:
    """Of an error's message; its type where it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]


def html_note(start: bytes) -> str:
    """The end of a phrase about a file that begins so, where that is rather a page of the server."""
    return " (an HTML page)" if start[:64].lstrip().startswith(b"<") else ""


def read_columns(file: Path | Any) -> dict[str, str]:
    """The columns' names and types, from the footer.

    Args:
        file: a path, or a file object with random access.

    Raises:
        BadShard: it is no parquet file.
    """
    schema = _footer(file).schema.to_arrow_schema()
    return {name: str(kind) for name, kind in zip(schema.names, schema.types)}


def read_footer(file: Path | Any, text_column: str, id_column: str | None) -> Any:
    """The metadata of a file that has these columns, texts in the first: pyarrow's `FileMetaData`.

    Raises:
        BadShard: it has not.
    """
    footer = _footer(file)
    schema = footer.schema.to_arrow_schema()
    for column in filter(None, (text_column, id_column)):
        if column not in schema.names:
            raise BadShard(f"no column '{column}' (there are: {', '.join(schema.names)})")
    kind = str(schema.field(text_column).type)
    if not is_text(kind):
        raise BadShard(f"column '{text_column}' holds {kind}, not strings")
    return footer


def read_row_group(file: Path | Any, footer: Any, group: int, columns: list[str]) -> list[list[Any]]:
    """The values of each of the columns in one row group.

    Raises:
        BadShard: the row group cannot be decoded.
        FileNotFoundError: there is no file at this path any more.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Read ahead over neighbouring columns: a remote file is asked once for a row group.
        with pq.ParquetFile(file, metadata=footer, pre_buffer=not isinstance(file, Path)) as opened:
            table = opened.read_row_group(group, columns=columns, use_threads=False)
        return [table.column(column).to_pylist() for column in columns]
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadShard(f"row group {group} is damaged: {first_line(error)}") from error


def check_rows(file: Path, text_column: str, id_column: str | None) -> None:
    """Decode everything that will be read, for a file whose right hash is unknown.

    Raises:
        BadShard: some of it cannot be decoded.
    """
    footer = read_footer(file, text_column, id_column)
    for group in range(footer.num_row_groups):
        read_row_group(file, footer, group, list(filter(None, (text_column, id_column))))


def _footer(file: Path | Any) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(file)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadShard(f"not readable as parquet: {first_line(error)}") from error
