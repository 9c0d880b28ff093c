"""The user's files: what is read, what is held out, and what is said about faulty ones."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.held_out import split_by_hash, split_by_position
from nanochat_pl.data.sources import DocumentSource, read_documents
from nanochat_pl.data.specs import TextDataSpec
from nanochat_pl.data.text_files import find_files
from nanochat_pl.data.text_parquet import ParquetSource
from nanochat_pl.data.text_sources import text_sources


def texts(source: DocumentSource) -> list[str]:
    return list(read_documents(source))


def write_parquet(path: Path, documents: list[Any], column: str = "text", rows: int = 10) -> Path:
    pq.write_table(pa.table({column: documents, "score": [1.5] * len(documents)}), path, row_group_size=rows)
    return path


def test_text_is_split_at_blank_lines_and_its_end_held_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n \r\nthree\n\n\n\nfour\n")
    (tmp_path / "b.txt").write_text("five\n\n" + "s\u00efx " * 10, encoding="utf-8")
    train, val = text_sources(find_files([str(tmp_path / "*.txt")]), val_fraction=0.3)
    assert texts(train)[:4] == ["one\ntwo", "three", "four", "five"]
    assert "".join(texts(train)[4:] + texts(val)) == "s\u00efx " * 10
    assert len(texts(val)) == 1


def test_jsonl_and_parquet_hold_out_documents_by_hash(tmp_path: Path) -> None:
    documents = [f"document {i}" for i in range(400)]
    lines = [json.dumps({"text": text, "id": i}) for i, text in enumerate([*documents[:200], *documents[:200]])]
    (tmp_path / "a.jsonl").write_text("\n\n".join(lines) + "\n")
    write_parquet(tmp_path / "b.parquet", [*documents[200:], None, ""])
    train, val = (texts(source) for source in text_sources(find_files([str(tmp_path)]), val_fraction=0.2))
    assert not set(train) & set(val)
    assert Counter(train + val) == Counter(documents) + Counter(documents[:200])
    assert 80 < len(val) < 160


def test_parquet_too_big_for_memory_is_read_by_row_groups_with_the_same_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [f"document {i}" for i in range(95)]
    files = [
        write_parquet(tmp_path / "a.parquet", documents[:55]),
        write_parquet(tmp_path / "b.parquet", documents[55:]),
    ]
    small = text_sources(files, val_fraction=0.2)
    monkeypatch.setattr("nanochat_pl.data.text_sources.IN_MEMORY_BYTES", 0)
    big = text_sources(files, val_fraction=0.2)
    assert isinstance(big[0], ParquetSource) and big[0].num_chunks(0) == 10
    assert [texts(source) for source in big] == [texts(source) for source in small]
    assert len({source.fingerprint for source in (*small, *big)}) == 4
    moved = [path.rename(tmp_path / f"moved-{path.name}") for path in files]
    assert text_sources(moved, val_fraction=0.2)[0].fingerprint == big[0].fingerprint


def test_validation_files_are_taken_whole(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("one\n\ntwo")
    write_parquet(tmp_path / "val.parquet", ["three", "four"])
    spec = TextDataSpec(files=str(tmp_path / "train.txt"), val_files=[str(tmp_path / "val.parquet")])
    assert [texts(source) for source in spec.build_sources()] == [["one", "two"], ["three", "four"]]


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=30), st.floats(0.01, 0.9))
def test_splits_lose_nothing_and_overlap_nowhere(documents: list[str], fraction: float) -> None:
    train, val = split_by_position(documents, fraction)
    assert "".join(train) + "".join(val) == "".join(documents)
    train, val = split_by_hash(documents, fraction)
    if len(set(documents)) > 1:
        assert train and val and not set(train) & set(val)
        assert Counter(train + val) == Counter(documents)
    else:
        assert "".join(train + val) == documents[0]


FAULTS = {
    "empty.txt": (b" \n\n", "is empty"),
    "latin.txt": ("fine\nna\u00efve".encode("latin-1"), "line 2.*0xef is not UTF-8"),
    "binary.txt": (b"\x7fELF\n\n\0\1\2", "binary.*line 3"),
    "wide.txt": ("wide text".encode("utf-16"), "UTF-16"),
    "broken.jsonl": (b'{"text": "fine"}\n\n{"text": "bro', "line 3: not JSON"),
    "list.jsonl": (b'{"text": "fine"}\n[1]', "line 2: a list"),
    "key.jsonl": (
        b'{"text": "fine"}\n{"texts": "x", "id": 1}',
        "line 2: no key 'text'.*texts, id.*did you mean 'texts'",
    ),
    "number.jsonl": (b'{"text": 5}', "line 1: 'text' is not a string but int"),
    "blank.jsonl": (b'{"text": " "}', "no text under 'text'"),
    "page.parquet": (b"<html>not found</html>", "not readable as parquet"),
    "table.csv": (b"a,b", r"none of \.txt, \.jsonl, \.parquet"),
    "one.txt": (b"x", "too little text"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_files_are_named_with_the_place_of_the_fault(tmp_path: Path, name: str) -> None:
    content, message = FAULTS[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"(?s){name}.*{message}") as caught:
        TextDataSpec(files=str(path)).build_sources()
    assert "\n" not in str(caught.value)


def test_faulty_parquet_columns_are_named(tmp_path: Path) -> None:
    wrong = write_parquet(tmp_path / "wrong.parquet", ["a"], column="content")
    with pytest.raises(UserError, match=r"wrong.parquet: no column 'text' \(there are: content, score\).*text_key"):
        text_sources([wrong])
    with pytest.raises(UserError, match="column 'score' holds double"):
        text_sources([wrong], text_key="score")
    assert texts(text_sources([wrong], [wrong], text_key="content")[0]) == ["a"]
    damaged = write_parquet(tmp_path / "damaged.parquet", ["some text " * 50] * 20)
    raw = bytearray(damaged.read_bytes())
    raw[4:40] = b"\xff" * 36
    damaged.write_bytes(raw)
    with pytest.raises(UserError, match=r"damaged.parquet, row group 0 is damaged"):
        text_sources([damaged])


def test_missing_files_are_answered_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "tales.txt").write_text("x")
    with pytest.raises(UserError, match=r"data.files: .*tale.txt does not exist.*did you mean 'tales.txt'"):
        find_files([str(tmp_path / "tale.txt")])
    with pytest.raises(UserError, match="no file matches"):
        find_files([str(tmp_path / "*.jsonl")])
    with pytest.raises(UserError, match="there is no folder"):
        find_files([str(tmp_path / "no" / "tale.txt")])
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="holds no"):
        find_files([str(tmp_path / "folder")])
    with pytest.raises(UserError, match="data=text needs files"):
        TextDataSpec()


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path / "a.parquet", ["a", "b"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'nanochat-pl\[data\]'"):
        text_sources([path])
