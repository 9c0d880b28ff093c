"""doctor data on real files, whole and damaged."""

import json
from pathlib import Path

import pytest

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.data.sources import TinySource
from nanochat_pl.data.specs import DataSpec, TextDataSpec, TinyDataSpec
from nanochat_pl.data.tokens.prepare import Preparation
from nanochat_pl.data.tokens.specs import TokenDataSpec
from nanochat_pl.diagnosis import data
from nanochat_pl.tokenizers.specs import ByteSpec


def said(diagnosis: data.Diagnosis) -> str:
    return "\n".join(f"{finding.severity}: {finding.what}" for finding in diagnosis.findings)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"This is the story of number {i}."}) + "\n" for i in range(400)))
    return path


def test_texts(texts: Path) -> None:
    spec = TextDataSpec(files=str(texts))
    whole = data.diagnose(spec, "x")
    assert whole.sound and "400 documents, no faults" in said(whole), said(whole)
    texts.write_bytes(texts.read_bytes() + b'{"text": 3}\n\xff\n')
    broken = data.diagnose(spec, "x")
    assert not broken.sound and "error: " in said(broken) and "2 lines without a text" in said(broken)
    texts.unlink()
    assert "error: The data: " in said(data.diagnose(spec, "x"))


def test_large_files_are_read_only_when_asked(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "QUICK_BYTES", 100)
    spec = TextDataSpec(files=str(texts))
    assert "They are not read here" in said(data.diagnose(spec, "x", thorough=False))
    assert "400 documents" in said(data.diagnose(spec, "x"))


def test_a_runs_tokenizer_and_counters() -> None:
    run = RunFolder.of("x", "base")
    ByteSpec().build().save(run.model / "tokenizer")
    assert "info: There is no config.yaml yet." in said(data.diagnose_run(run, lambda: TinyDataSpec()))
    run.config.touch()
    run.resolved.write_text(json.dumps({"model": {"vocab_size": 265}}))
    run.write_summary(data={"epoch": 1, "tokens": 100, "cropped_tokens": 900, "odd": "x"})
    words = said(data.diagnose_run(run, lambda: TinyDataSpec(num_documents=64, val_documents=8)))
    assert "good: The model's tokenizer is sound: byte, 265 tokens." in words
    assert "no files, no download" in words and "warning: 90% of the tokens were cut off" in words
    run.resolved.write_text(json.dumps({"model": {"vocab_size": 7}}))
    assert "the run was planned with 7" in said(data.diagnose_run(run, lambda: TinyDataSpec()))


def test_what_is_damaged_in_any_way_is_a_finding() -> None:
    run = RunFolder.of("x", "base")
    (run.model / "tokenizer").mkdir(parents=True)
    (run.model / "tokenizer" / "tokenizer.json").write_bytes(b"\x00\xff")
    run.summary.write_text("[]")
    run.config.touch()

    def spec() -> DataSpec:
        raise UserError("config.yaml is no mapping")

    words = said(data.diagnose_run(run, spec))
    assert "error: config.yaml: config.yaml is no mapping" in words and words.count("error: ") == 2


def test_tokens_carry_checksums(tmp_path: Path) -> None:
    Preparation(TinySource("train", 40), TinySource("val", 8), ByteSpec().build()).run(tmp_path / "tokens")
    spec = TokenDataSpec(path=str(tmp_path / "tokens"))
    whole = said(data.diagnose(spec, "x"))
    assert "good: All 40 documents to train on have the right checksums." in whole and "made by byte" in whole
    (shard,) = (tmp_path / "tokens").glob("train-*.tokens")
    raw = bytearray(shard.read_bytes())
    raw[300] ^= 1
    shard.write_bytes(bytes(raw))
    assert "error: The data: " in said(data.diagnose(spec, "x"))
