"""What the data validator finds in real files, sound and damaged ones."""

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat_pl.data.verify import DataFile, SeenHashes, Verification


def texts(n: int, seed: int = 0) -> list[str]:
    words = random.Random(seed)
    return [f"Document {seed}/{i}: " + " ".join(words.choices("abcdefgh", k=words.randint(10, 50))) for i in range(n)]


def write(path: Path, documents: list[str | None], **columns: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": pa.array(documents, pa.string()), **columns}), path, row_group_size=25)
    return path


def verify(*paths: Path, **options: object) -> Verification:
    verification = Verification(**options)
    for path in paths:
        verification.check(DataFile(path, path.name))
    return verification


def test_a_sound_file(tmp_path: Path) -> None:
    documents = texts(97)
    path = write(tmp_path / "a.parquet", documents)
    read: list[int] = []
    verification = Verification()
    content = path.read_bytes()
    file = DataFile(path, "a", len(content), hashlib.sha256(content).hexdigest())
    report = verification.check(file, read.append)
    assert report.faults == []
    assert report.sha256_checked
    assert (report.documents, report.row_groups, report.num_bytes) == (97, 4, len(content))
    assert report.characters == sum(map(len, documents))
    assert (report.null, report.empty, report.tiny, report.duplicates, report.duplicates_elsewhere) == (0,) * 5
    assert sum(read) == len(content)
    assert len(read) >= 4
    assert len(verification.samples) == 3
    assert all(name == "a" and text in documents for name, text in verification.samples)


def test_counts_of_documents(tmp_path: Path) -> None:
    first = texts(200)
    second = [*texts(196, seed=1), None, "", " \n", "short", first[0], first[0], first[1]]
    verification = verify(write(tmp_path / "a.parquet", first), write(tmp_path / "b.parquet", second))
    report = verification.reports[1]
    assert report.faults == []
    assert (report.documents, report.null, report.empty, report.tiny) == (203, 1, 2, 1)
    assert (report.duplicates, report.duplicates_elsewhere) == (1, 2)


def test_a_file_of_nulls_and_a_copy_are_faults(tmp_path: Path) -> None:
    sound = write(tmp_path / "a.parquet", texts(50))
    nulls = write(tmp_path / "b.parquet", [*texts(40, seed=1), *[None] * 10])
    copy = write(tmp_path / "c.parquet", texts(50))
    empty = write(tmp_path / "d.parquet", [])
    verification = verify(sound, nulls, copy, empty)
    assert [report.faults for report in verification.reports] == [
        [],
        ["10 of 50 documents are null or empty"],
        ["50 of 50 documents are exact duplicates"],
        ["no documents"],
    ]


def truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def page(content: bytes) -> bytes:
    return b"<!DOCTYPE html><html><body>Service unavailable</body></html>"


def spoil_a_page(content: bytes) -> bytes:
    middle = content.index(b"Document 0/30")  # the second row group's texts; they are stored as they are
    return content[: middle - 4] + b"\xff\xff\xff\x7f" + content[middle:]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "not readable as parquet"),
        (page, "begins like an HTML page"),
        (lambda content: b"", "not readable as parquet"),
        (spoil_a_page, "1 of 4 row groups damaged, number 1 first"),
    ],
)
def test_damaged_parquet(tmp_path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": texts(97)})
    pq.write_table(table, path, row_group_size=25, compression="none", use_dictionary=False)
    content = path.read_bytes()
    path.write_bytes(damage(content))
    (report,) = verify(path).reports
    (fault,) = report.faults
    assert message in fault
    expected = DataFile(path, "a", len(content), hashlib.sha256(content).hexdigest())
    faults = Verification().check(expected).faults
    assert "are expected" in faults[0] or "other content" in faults[0]
    assert message in faults[1]


def test_wrong_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"txt": texts(5), "number": [1, 2, 3, 4, 5]}), path)
    for column, message in (("text", "no column 'text' (there are: txt, number)"), ("number", "holds int64, not str")):
        (report,) = verify(path, text_key=column).reports
        (fault,) = report.faults
        assert message in fault
    (report,) = verify(path, text_key="txt").reports
    assert report.faults == []
    (report,) = verify(tmp_path / "missing.parquet").reports
    assert report.faults == ["cannot be read: No such file or directory"]


def test_text_that_is_no_utf8(tmp_path: Path) -> None:
    raw = pa.array([b"sound text that is long enough", b"caf\xe9"], pa.binary())
    strings = pa.StringArray.from_buffers(2, raw.buffers()[1], raw.buffers()[2])
    pq.write_table(pa.table({"text": strings}), tmp_path / "a.parquet")
    (report,) = verify(tmp_path / "a.parquet").reports
    assert len(report.faults) == 1
    assert "1 of 1 row groups damaged" in report.faults[0]


def test_columns_are_summarised(tmp_path: Path) -> None:
    columns = {
        "language": ["en"] * 30 + ["de"] * 10,
        "score": [2.5] * 20 + [3.5] * 20,
        "int_score": [2] * 20 + [4] * 20,
        "token_count": pa.array([*range(39), None], pa.int64()),
    }
    paths = [write(tmp_path / f"{i}.parquet", texts(40, seed=i), **columns) for i in range(2)]
    summary = verify(*paths).columns
    assert list(summary) == ["language", "int_score", "score", "token_count"]
    assert summary["language"].values == {"en": 60, "de": 20}
    assert summary["int_score"].values == {2: 40, 4: 40}
    score, count = summary["score"], summary["token_count"]
    assert (score.rows, score.mean, score.minimum, score.maximum) == (80, 3.0, 2.5, 3.5)
    assert (count.null, count.mean, count.minimum, count.maximum) == (2, 19.0, 0, 38)


def test_jsonl_and_txt(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text}) for text in texts(2100)]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, "", json.dumps({"text": None})]) + "\n")
    (tmp_path / "b.jsonl").write_text("\n".join(["nothing", *lines[:5], '{"txt": 1}', '{"text": 1}', "[]"]))
    (tmp_path / "c.txt").write_text("\n\n".join(texts(10, seed=1)))
    (tmp_path / "d.txt").write_bytes("fine\ngrün".encode("latin1"))
    verification = verify(*sorted(tmp_path.iterdir()))
    a, b, c, d = verification.reports
    assert (a.documents, a.null, a.faults) == (2101, 1, [])
    assert (b.documents, b.duplicates_elsewhere) == (5, 5)
    assert b.faults[0] == "4 lines without a text, line 1 first: not JSON (Expecting value)"
    assert (c.documents, c.faults) == (10, [])
    assert "line 2: byte 0xfc is not UTF-8" in d.faults[0]


@given(st.lists(st.lists(st.integers(0, 40), max_size=30), max_size=20))
def test_seen_hashes_agree_with_sets(batches: list[list[int]]) -> None:
    seen, before = SeenHashes(), set[int]()
    for batch in batches:
        within, known = seen.add(np.array(batch, dtype=np.uint64))
        assert within == len(batch) - len(set(batch))
        assert known == len(set(batch) & before)
        before |= set(batch)


def test_real_data(test_data: Path) -> None:
    paths = sorted((test_data / "hub/HuggingFaceFW/fineweb-edu/sample/10BT").glob("*.parquet"))
    verification = verify(*paths)
    assert len(paths) == 6
    assert [report.faults for report in verification.reports] == [[]] * 6
    assert sum(report.documents for report in verification.reports) == 2155
    assert set(verification.columns) == {"language", "language_score", "score", "int_score", "token_count"}
