"""What a data validator looks at: can the files be read to their end, and what are the documents in them like."""

import heapq
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nanochat_pl.core.errors import UserError
from nanochat_pl.data.parquet import BadShard, first_line, read_footer, require
from nanochat_pl.data.text_files import read_text, split_at_blank_lines, text_of_line

TINY_CHARACTERS = 20
"""A shorter document teaches nothing."""

MAX_SHARE = 0.1
"""A file of which more than this is null, empty or duplicated has a fault."""

NUMBER_COLUMNS = ("language_score", "score", "token_count")
VALUE_COLUMNS = ("language", "int_score")
"""Columns of FineWeb-Edu and its kin that are summarised where a file has them."""

_LINES_AT_ONCE = 1000
_SAMPLE_CHARACTERS = 400

Texts = list[str | None]


class DataFile(NamedTuple):
    """A file to verify, and what is known of it beforehand."""

    path: Path
    name: str
    size: int | None = None
    sha256: str | None = None


@dataclass
class FileReport:
    """What was found in one file.

    Attributes:
        documents: rows, or lines, or parts between blank lines; those that are null or empty included.
        tiny: documents that are not empty and shorter than `TINY_CHARACTERS`.
        duplicates: documents that are the same as another one of this file.
        duplicates_elsewhere: different documents of this file that stand in a file before it, too.
        sha256_checked: the content is what the manifest says.
        faults: what makes the file unfit, each in a few words.
    """

    name: str
    num_bytes: int = 0
    row_groups: int = 0
    documents: int = 0
    characters: int = 0
    null: int = 0
    empty: int = 0
    tiny: int = 0
    duplicates: int = 0
    duplicates_elsewhere: int = 0
    sha256_checked: bool = False
    faults: list[str] = field(default_factory=list)


@dataclass
class ColumnSummary:
    """A column over all files: numbers by their mean and range, others by how often each value occurs."""

    rows: int = 0
    null: int = 0
    total: float = 0.0
    minimum: float | None = None
    maximum: float | None = None
    values: Counter[Any] = field(default_factory=Counter)

    def add(self, column: Any, by_value: bool) -> None:
        """Count a pyarrow column in."""
        import pyarrow as pa
        import pyarrow.compute as pc

        self.rows += len(column)
        self.null += column.null_count
        if by_value:
            self.values.update({entry["values"]: entry["counts"] for entry in pc.value_counts(column).to_pylist()})
        elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            smallest, largest = pc.min_max(column).as_py().values()
            if smallest is not None:
                self.total += pc.sum(column).as_py()
                self.minimum = smallest if self.minimum is None else min(self.minimum, smallest)
                self.maximum = largest if self.maximum is None else max(self.maximum, largest)

    @property
    def mean(self) -> float | None:
        counted = self.rows - self.null
        return self.total / counted if counted and self.minimum is not None else None


class Verification:
    """Checks files one after the other; what they have in common, duplicates and columns, adds up.

    It takes 8 bytes of memory a document.

    Attributes:
        reports: of the files so far.
        columns: by name.
    """

    def __init__(self, text_key: str = "text", num_samples: int = 3):
        self.reports: list[FileReport] = []
        self.columns: dict[str, ColumnSummary] = {}
        self._text_key, self._num_samples = text_key, num_samples
        self._seen = SeenHashes()
        self._samples: list[tuple[int, str, str]] = []

    @property
    def samples(self) -> list[tuple[str, str]]:
        """(file, beginning) of some documents: those with the largest hashes, so at random, but always the same."""
        return [(name, text) for _, name, text in sorted(self._samples, reverse=True)]

    def check(self, file: DataFile, on_bytes: Callable[[int], None] = lambda read: None) -> FileReport:
        """Read a .parquet, .jsonl or .txt file to its end; nothing that is wrong with it raises.

        Args:
            on_bytes: is told what part of the file's size was read since the last time.

        Raises:
            UserError: it is parquet, and pyarrow is not installed.
        """
        report = FileReport(file.name)
        self.reports.append(report)
        hashes = array("Q")
        read = 0
        try:
            report.num_bytes = file.path.stat().st_size
            self._check_content(file, report)
            for texts, share in self._texts(file.path, report):
                hashes.extend(self._count(texts, report))
                on_bytes(int(report.num_bytes * share) - read)
                read = int(report.num_bytes * share)
        except OSError as error:
            report.faults.append(f"cannot be read: {error.strerror or error}")
        except (BadShard, UserError) as error:
            report.faults.append(str(error).removeprefix(f"{file.path} ").removeprefix(f"{file.path}, "))
        on_bytes(report.num_bytes - read)
        report.duplicates, report.duplicates_elsewhere = self._seen.add(np.frombuffer(hashes, dtype=np.uint64))
        self._check_shares(report)
        return report

    def _check_content(self, file: DataFile, report: FileReport) -> None:
        if file.size is not None and file.size != report.num_bytes:
            report.faults.append(f"{report.num_bytes:,} bytes where {file.size:,} are expected")
        elif file.sha256 is not None:
            with file.path.open("rb") as opened:
                report.sha256_checked = file_digest(opened, "sha256").hexdigest() == file.sha256
            if not report.sha256_checked:
                report.faults.append("other content than the manifest says (sha256)")

    def _texts(self, path: Path, report: FileReport) -> Iterator[tuple[Texts, float]]:
        """The texts of a part of the file, and what share of it is read then."""
        if path.suffix.lower() == ".parquet":
            require("pyarrow")
            yield from self._parquet(path, report)
        elif path.suffix.lower() == ".jsonl":
            yield from self._jsonl(path, report)
        else:
            yield list(split_at_blank_lines([read_text(path)])), 1.0

    def _parquet(self, path: Path, report: FileReport) -> Iterator[tuple[Texts, float]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            footer = read_footer(path, self._text_key, None)
        except BadShard as error:
            raise BadShard(f"{error}{_looks_like(path)}") from error
        report.row_groups = footer.num_row_groups
        damaged: dict[int, str] = {}
        with pq.ParquetFile(path, metadata=footer) as opened:
            for group in range(footer.num_row_groups):
                try:
                    table = opened.read_row_group(group, use_threads=False)
                    table.validate(full=True)
                    texts = table.column(self._text_key).to_pylist()
                except (pa.ArrowException, OSError, ValueError) as error:
                    damaged[group] = first_line(error)
                    continue
                self._summarise(table)
                yield texts, (group + 1) / footer.num_row_groups
        if damaged:
            first, reason = next(iter(damaged.items()))
            report.faults.append(
                f"{len(damaged)} of {footer.num_row_groups} row groups damaged, number {first} first: {reason}"
            )

    def _jsonl(self, path: Path, report: FileReport) -> Iterator[tuple[Texts, float]]:
        wrong: dict[int, str] = {}
        texts: Texts = []
        read = 0
        with path.open("rb") as opened:
            for number, line in enumerate(opened, 1):
                read += len(line)
                if line.strip():
                    try:
                        texts.append(text_of_line(line, self._text_key))
                    except ValueError as error:
                        wrong[number] = str(error)
                if len(texts) == _LINES_AT_ONCE:
                    yield texts, read / report.num_bytes
                    texts = []
        yield texts, 1.0
        if wrong:
            first, reason = next(iter(wrong.items()))
            report.faults.append(f"{len(wrong)} lines without a text, line {first} first: {reason}{_looks_like(path)}")

    def _summarise(self, table: Any) -> None:
        for name in (*VALUE_COLUMNS, *NUMBER_COLUMNS):
            if name in table.column_names:
                self.columns.setdefault(name, ColumnSummary()).add(table.column(name), name in VALUE_COLUMNS)

    def _count(self, texts: Texts, report: FileReport) -> list[int]:
        """Count the documents in; returns the hashes of those that are not empty."""
        hashes = []
        report.documents += len(texts)
        for text in texts:
            if text is None:
                report.null += 1
            elif not text.strip():
                report.empty += 1
            else:
                report.characters += len(text)
                report.tiny += len(text) < TINY_CHARACTERS
                digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
                hashes.append(int.from_bytes(digest, "little"))
                self._consider(hashes[-1], report.name, text)
        return hashes

    def _consider(self, number: int, name: str, text: str) -> None:
        if len(self._samples) == self._num_samples and (not self._samples or number <= self._samples[0][0]):
            return
        if all(number != other for other, _, _ in self._samples):
            heapq.heappush(self._samples, (number, name, text[:_SAMPLE_CHARACTERS]))
            if len(self._samples) > self._num_samples:
                heapq.heappop(self._samples)

    def _check_shares(self, report: FileReport) -> None:
        if not report.documents:
            report.faults += [] if report.faults else ["no documents"]
            return
        for count, what in (
            (report.null + report.empty, "null or empty"),
            (report.duplicates + report.duplicates_elsewhere, "exact duplicates"),
        ):
            if count > MAX_SHARE * report.documents:
                report.faults.append(f"{count:,} of {report.documents:,} documents are {what}")


class SeenHashes:
    """A set of 8-byte hashes in sorted arrays, merged when they are alike in size: 8 bytes each, log(n) to look up."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, hashes: np.ndarray) -> tuple[int, int]:
        """Returns how many of `hashes` repeat one of themselves, and how many different ones were known before."""
        unique = np.unique(hashes)
        known = np.zeros(len(unique), dtype=bool)
        for run in self._runs:
            place = np.searchsorted(run, unique)
            known |= run[np.minimum(place, len(run) - 1)] == unique
        if not known.all():
            self._runs.append(unique[~known])
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            self._runs[-2:] = [np.sort(np.concatenate(self._runs[-2:]), kind="stable")]
        return len(hashes) - len(unique), int(known.sum())


def _looks_like(path: Path) -> str:
    with path.open("rb") as opened:
        start = opened.read(64).lstrip()
    return "; it begins like an HTML page" if start[:1] == b"<" else ""
