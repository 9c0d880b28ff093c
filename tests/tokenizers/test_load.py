"""Saved tokenizers: readable files, read back equal, and any damage is noticed."""

import json
from pathlib import Path

import pytest

from nanochat_pl.core.errors import UserError
from nanochat_pl.tiny_world import document
from nanochat_pl.tokenizers.load import load_tokenizer
from nanochat_pl.tokenizers.specs import BPESpec, ByteSpec, CharSpec, TokenizerSpec

DOCUMENTS = [document(i) for i in range(100)]
SPECS = pytest.mark.parametrize("spec", [BPESpec(400), ByteSpec(), CharSpec()], ids=["bpe", "byte", "char"])


@SPECS
def test_what_is_saved_is_loaded(spec: TokenizerSpec, tmp_path: Path) -> None:
    tokenizer = spec.build(DOCUMENTS)
    tokenizer.save(tmp_path / "deep" / "tokenizer")
    loaded = load_tokenizer(tmp_path / "deep" / "tokenizer")
    assert type(loaded) is type(tokenizer)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert [loaded.encode(text) for text in DOCUMENTS] == [tokenizer.encode(text) for text in DOCUMENTS]
    assert (loaded.token_bytes() == tokenizer.token_bytes()).all()


@SPECS
def test_every_file_is_readable_text(spec: TokenizerSpec, tmp_path: Path) -> None:
    spec.build(DOCUMENTS).save(tmp_path)
    header = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert header["special_tokens"]["<|bos|>"] == header["vocab_size"] - 9
    for file in tmp_path.iterdir():
        assert file.read_text(encoding="utf-8").isprintable() or "\n" in file.read_text(encoding="utf-8")


@SPECS
def test_another_fingerprint_for_another_tokenizer(spec: TokenizerSpec) -> None:
    others = {s.build(DOCUMENTS).fingerprint for s in (BPESpec(400), BPESpec(401), ByteSpec(), CharSpec())}
    assert len(others) == 4
    assert spec.build(DOCUMENTS).fingerprint in others


def save(folder: Path) -> Path:
    BPESpec(300).build(DOCUMENTS).save(folder)
    return folder


def edit_header(folder: Path, **changes: object) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def swap_two_merges(folder: Path) -> None:
    path = folder / "merges.tiktoken"
    lines = [line.split(" ")[0] for line in path.read_text(encoding="utf-8").splitlines()]
    lines[280], lines[281] = lines[281], lines[280]
    path.write_text("".join(f"{line} {rank}\n" for rank, line in enumerate(lines)), encoding="utf-8")


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "header missing": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer in"),
    "header cut": (lambda f: cut_in_half(f / "tokenizer.json"), "not JSON"),
    "header of something else": (lambda f: (f / "tokenizer.json").write_text("[1]"), "not written by nanochat-pl"),
    "later version": (lambda f: edit_header(f, version=99), "format version 99"),
    "unknown kind": (lambda f: edit_header(f, kind="words"), "kind 'words'"),
    "other special tokens": (lambda f: edit_header(f, special_tokens={"<s>": 291}), "special tokens"),
    "other pattern": (lambda f: edit_header(f, pattern=r"\w+|\W+"), "fingerprint"),
    "impossible pattern": (lambda f: edit_header(f, pattern="("), "damaged"),
    "merges missing": (lambda f: (f / "merges.tiktoken").unlink(), "merges.tiktoken is missing"),
    "merges cut": (lambda f: cut_in_half(f / "merges.tiktoken"), "damaged"),
    "merges binary": (lambda f: (f / "merges.tiktoken").write_bytes(b"\xff\xfe\x00"), "damaged"),
    "merges garbled": (lambda f: (f / "merges.tiktoken").write_text("YQ== 0\n???? 1\n"), "line 2"),
    "merges swapped": (swap_two_merges, "fingerprint"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(damage: str, tmp_path: Path) -> None:
    folder = save(tmp_path)
    load_tokenizer(folder)
    apply, message = DAMAGES[damage]
    apply(folder)
    with pytest.raises(UserError, match=message) as error:
        load_tokenizer(folder)
    assert str(folder) in str(error.value)


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tokenizer in"):
        load_tokenizer(tmp_path / "nowhere")
