"""`data prepare` as a user calls it."""

import os
import pickle
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from nanochat_pl.cli import app
from nanochat_pl.core.errors import Interrupted, UserError
from nanochat_pl.data.sources import TinySource, read_documents
from nanochat_pl.data.tokens.folder import TokenIndex
from nanochat_pl.data.tokens.specs import TokenDataSpec
from nanochat_pl.tiny_world import document
from nanochat_pl.tokenizers.byte import ByteTokenizer
from nanochat_pl.tokenizers.load import load_tokenizer
from nanochat_pl.tokenizers.specs import BPESpec
from nanochat_pl.tokenizers.word import WordTokenizer
from tests.forks import Program, run_program
from tests.processes import SMALL, losses, train

SMALL_TINY = ("data.num_documents=300", "data.val_documents=40", "--processes", "1")


def prepare(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["data", "prepare", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def texts(folder: Path, split: str) -> list[str]:
    tokenizer = load_tokenizer(folder / "tokenizer")
    source = TokenIndex.load(folder).open(folder, split)  # type: ignore[arg-type]
    return [tokenizer.decode(ids) for ids in read_documents(source)]


def test_a_data_set_by_name_with_a_tokenizer_by_name(tmp_path: Path) -> None:
    out = tmp_path / "my tokens"
    output = prepare("tiny", *SMALL_TINY, "--tokenizer", "bpe_1k", "tokenizer.vocab_size=300", "--out", str(out))
    assert texts(out, "train") == [document(i) for i in range(300)]
    assert texts(out, "val") == [document(i, "val") for i in range(40)]
    assert load_tokenizer(out / "tokenizer").vocab_size == 300
    assert "300 documents to train on" in output and "40 held out" in output and "bpe of 300 tokens" in output
    assert output.endswith(f"python train.py data=tokens data.path='{out}'\n")
    again = prepare("tiny", *SMALL_TINY, "--tokenizer", "bpe_1k", "tokenizer.vocab_size=300", "--out", str(out))
    assert again == output


def test_bins_of_characters_are_nanogpt_s(tmp_path: Path) -> None:
    text = "\n\n".join(document(i) for i in range(40)) + "\nend"
    (tmp_path / "input.txt").write_text(text, encoding="utf-8")
    out = tmp_path / "out"
    prepare("shakespeare", f"data.path={tmp_path}/input.txt", "--tokenizer", "char", "--bins", "--out", str(out))
    stoi = {character: i for i, character in enumerate(sorted(set(text)))}
    ids = [stoi[character] for character in text]
    cut = int(0.9 * len(text))
    for name, part in (("train.bin", ids[:cut]), ("val.bin", ids[cut:])):
        assert (out / name).read_bytes() == np.array(part, dtype="<u2").tobytes()
    meta = pickle.loads((out / "meta.pkl").read_bytes())
    assert meta == {"vocab_size": len(stoi), "stoi": stoi, "itos": {i: c for c, i in stoi.items()}}


def test_bins_of_documents_are_read_back(tmp_path: Path) -> None:
    out, alone = tmp_path / "out", tmp_path / "alone"
    prepare("tiny", *SMALL_TINY, "--tokenizer", "byte", "--bins", "--out", str(out))
    alone.mkdir()
    for name in ("train.bin", "val.bin", "tokenizer"):
        (out / name).rename(alone / name)
    train, val = TokenDataSpec(path=str(alone), separator=256).build_sources()
    tokenizer = load_tokenizer(alone / "tokenizer")
    assert [tokenizer.decode(ids) for ids in read_documents(train)] == [document(i) for i in range(300)]
    assert len(list(read_documents(val))) == 40


def test_bins_of_a_large_vocabulary_are_wider_than_nanogpt_s(tmp_path: Path) -> None:
    WordTokenizer([f"w{i}" for i in range(1 << 16)]).save(tmp_path / "words")
    (tmp_path / "my.txt").write_text("w1 w65535 " * 40)
    options = ["data.packing=windows", "--tokenizer", str(tmp_path / "words"), "--processes", "1", "--bins"]
    output = prepare(str(tmp_path / "my.txt"), *options, "--out", str(tmp_path / "out"))
    assert "ids of 4 bytes, uint32: nanoGPT reads them only with np.uint32" in output


def test_files_with_a_tokenizer_in_a_folder(tmp_path: Path) -> None:
    documents = [document(i) for i in range(60)]
    (tmp_path / "my.txt").write_text("\n\n".join(text.replace("\n\n", "\n") for text in documents))
    BPESpec(300).build(documents).save(tmp_path / "tokenizer")
    arguments = ["--tokenizer", str(tmp_path / "tokenizer"), "--processes", "1"]
    output = prepare(str(tmp_path / "*.txt"), "data.packing=windows", *arguments, "--out", str(tmp_path / "out"))
    assert output.endswith("data.packing=windows\n")
    whole = (tmp_path / "my.txt").read_text()
    assert texts(tmp_path / "out", "train") + texts(tmp_path / "out", "val") == [
        whole[: int(len(whole) * 0.95)], whole[int(len(whole) * 0.95) :],
    ]  # fmt: skip
    assert load_tokenizer(tmp_path / "out" / "tokenizer").vocab_size == 300


def test_limits_bound_what_is_held_out_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanochat_pl.cli.prepare.LEAST_HELD_OUT_TOKENS", 1000)
    ByteTokenizer().save(tmp_path / "bytes")
    arguments = ["--tokenizer", str(tmp_path / "bytes"), "--max-tokens", "20k", "--shard-tokens", "5e3"]
    prepare("tiny", *SMALL_TINY, *arguments, "--out", str(tmp_path / "out"))
    splits = TokenIndex.load(tmp_path / "out").splits
    assert 20_000 <= splits["train"]["tokens"] < 25_000 and len(splits["train"]["files"]) > 1
    assert 1000 <= splits["val"]["tokens"] < 3000


def test_what_cannot_be_understood(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "out")]
    for arguments, message in (
        (["tiny", "--tokenizer", "absent"], "no folder absent .* none of bpe, bpe_1k, byte, char"),
        (["tiny", "--tokenizer", str(tmp_path)], "There is no tokenizer in"),
        (["tiyn", "--tokenizer", "byte"], "did you mean 'tiny'"),
        ([str(tmp_path / "absent.txt"), "--tokenizer", "byte"], "does not exist"),
        (["tiny", "data.num_document=3", "--tokenizer", "byte"], "did you mean 'data.num_documents'"),
    ):
        with pytest.raises(UserError, match=message):
            prepare(*arguments, *out)
    result = CliRunner().invoke(app, ["data", "prepare", "tiny", "--tokenizer", "byte", "--max-tokens", "0", *out])
    assert result.exit_code == 2 and "whole number from 1 on" in result.output
    assert not (tmp_path / "out").exists()


def test_tokens_are_not_prepared_again(tmp_path: Path) -> None:
    prepare("tiny", *SMALL_TINY, "--tokenizer", "byte", "--out", str(tmp_path / "out"))
    with pytest.raises(UserError, match="token ids already"):
        prepare("tokens", f"data.path={tmp_path / 'out'}", "--tokenizer", "byte", "--out", str(tmp_path / "new"))


def test_an_interrupt_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = TinySource.read_chunk

    def interrupted(self: TinySource, shard: int, chunk: int) -> list[str]:
        if chunk == 10:
            raise KeyboardInterrupt
        return original(self, shard, chunk)

    arguments = ["tiny", *SMALL_TINY, "--tokenizer", "byte", "--out", str(tmp_path / "out"), "--shard-tokens", "5k"]
    with monkeypatch.context() as patch:
        patch.setattr(TinySource, "read_chunk", interrupted)
        with pytest.raises(Interrupted, match="run the same command again"):
            prepare(*arguments)
    prepare(*arguments)
    assert texts(tmp_path / "out", "train") == [document(i) for i in range(300)]


@pytest.mark.slow
def test_training_from_tokens_equals_training_from_the_text(tmp_path: Path) -> None:
    data = [option for option in SMALL if option in ("data.num_documents=4096", "data.val_documents=64")]
    assert len(data) == 2
    command = ["-m", "nanochat_pl", "data", "prepare", "tiny", *data, "--tokenizer", "byte"]
    command += ["--out", str(tmp_path / "tokens"), "--shard-tokens", "50k"]

    # Stopped with Ctrl-C once, with several processes; then to the end.
    output, errors = tmp_path / "output", tmp_path / "errors"
    process = Program([*command, "--processes", "2"], os.environ, os.devnull, output, errors)
    while len(list((tmp_path / "tokens").glob("*.tokens"))) < 2 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    code, said = process.wait(60), errors.read_text()
    assert code == 130 and "run the same command again" in said and "Traceback" not in said, said
    done = run_program(*command)
    assert done.returncode == 0 and "data=tokens" in done.stdout, done.stderr

    assert train(*SMALL, runs=tmp_path / "text")[0] == 0
    shared = [option for option in SMALL if option not in data and not option.startswith("tokenizer=")]
    code, output = train("data=tokens", f"data.path={tmp_path / 'tokens'}", *shared, runs=tmp_path / "from_tokens")
    assert code == 0, output
    expected = losses(tmp_path / "text" / "test" / "base")
    assert len(expected) == 24
    assert losses(tmp_path / "from_tokens" / "test" / "base") == expected
