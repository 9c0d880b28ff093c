"""The user's files as two sources: documents to train on, and documents held out."""

from collections.abc import Sequence
from pathlib import Path

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.held_out import split_by_hash, split_by_position
from nanochat_pl.data.sources import DocumentSource, MemorySource, read_documents
from nanochat_pl.data.text_files import read_jsonl, read_text, split_at_blank_lines
from nanochat_pl.data.text_parquet import ParquetSource

IN_MEMORY_BYTES = 256 << 20
"""Parquet files with less text than this are read at once, so that their documents can be shuffled one by one."""


def text_sources(
    files: Sequence[Path],
    val_files: Sequence[Path] = (),
    *,
    text_key: str = "text",
    val_fraction: float = 0.05,
    whole_files: bool = False,
) -> tuple[DocumentSource, DocumentSource]:
    """(train, val) documents of the files.

    Without `val_files`, the last `val_fraction` of the characters of all .txt files together is held out, and of the
    documents in .jsonl and .parquet files those that a hash of their text names.

    Args:
        whole_files: a .txt file is one document; else it is split at blank lines.

    Raises:
        UserError: what reading the files raises; nothing left to hold out.
    """
    if val_files:
        train, val = (_all_documents(side, text_key, whole_files) for side in (files, val_files))
        return train, val
    big = _big_parquet(files, text_key)
    if big:
        return big.side("train", val_fraction), big.side("val", val_fraction)
    texts, records = _read(files, text_key)
    train_texts, val_texts = split_by_position(texts, val_fraction)
    train_records, val_records = split_by_hash(records, val_fraction)
    train_documents = _cut_up(train_texts, whole_files) + train_records
    val_documents = _cut_up(val_texts, whole_files) + val_records
    if not train_documents or not val_documents:
        raise UserError(
            f"{', '.join(map(str, files))}: too little text to hold {val_fraction:.0%} of it out for validation. "
            "Give more text, or name files to validate on with data.val_files."
        )
    return MemorySource(train_documents), MemorySource(val_documents)


def _all_documents(files: Sequence[Path], text_key: str, whole_files: bool) -> DocumentSource:
    big = _big_parquet(files, text_key)
    if big:
        return big
    texts, records = _read(files, text_key)
    return MemorySource(_cut_up(texts, whole_files) + records)


def _big_parquet(files: Sequence[Path], text_key: str) -> ParquetSource | None:
    """The parquet files, if they are too big for memory."""
    paths = [path for path in files if path.suffix.lower() == ".parquet"]
    parquet = ParquetSource(paths, text_key) if paths else None
    if parquet is None or parquet.text_bytes <= IN_MEMORY_BYTES:
        return None
    if len(paths) < len(files):
        raise UserError(
            f"data.files mixes {parquet.text_bytes >> 20} MB of parquet, which is read as it is needed, with other "
            "files. Train on one kind at a time, or convert the others to parquet."
        )
    return parquet


def _read(files: Sequence[Path], text_key: str) -> tuple[list[str], list[str]]:
    """The texts of .txt files, and the documents of all others."""
    texts, records = [], []
    for path in files:
        if path.suffix.lower() == ".txt":
            texts.append(read_text(path))
        elif path.suffix.lower() == ".jsonl":
            records += read_jsonl(path, text_key)
        else:
            documents = [text for text in read_documents(ParquetSource([path], text_key)) if text.strip()]
            if not documents:
                raise UserError(f"{path} holds no text in column '{text_key}'.")
            records += documents
    return texts, records


def _cut_up(texts: Sequence[str], whole_files: bool) -> list[str]:
    return list(texts) if whole_files else split_at_blank_lines(texts)
