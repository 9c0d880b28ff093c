"""`tokenizer eval` and `tokenizer train` as a user calls them."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nanochat_pl.cli.tokenizer import app, load_from
from nanochat_pl.core.errors import UserError
from nanochat_pl.tiny_world import KINDS, document
from nanochat_pl.tokenizers.load import load_tokenizer
from nanochat_pl.tokenizers.specs import BPESpec, CharSpec

TEXT = "\n\n".join(document(i) for i in range(100))


@pytest.fixture(autouse=True)
def no_downloaded_encodings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "tiktoken"))
    monkeypatch.setenv("COLUMNS", "160")


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_train_then_eval(tmp_path: Path) -> None:
    (tmp_path / "my.txt").write_text(TEXT, encoding="utf-8")
    run("train", "--text", str(tmp_path / "my.txt"), "--vocab-size", "400", "--out", str(tmp_path / "out"))
    tokenizer = load_tokenizer(tmp_path / "out")
    assert tokenizer.vocab_size == 400
    output = run("eval", str(tmp_path / "out"), "--text", str(tmp_path / "my.txt"))
    assert "bpe, 400 tokens" in output
    assert output.count("tiny world: ") == len(KINDS)
    row = next(line for line in output.splitlines() if "my.txt" in line)
    n_bytes, n_tokens, ratio = (float(cell) for cell in row.strip("│ ").split("│")[1:])
    assert n_bytes == len(TEXT.encode())
    assert n_tokens == len(tokenizer.encode(TEXT))
    assert ratio == pytest.approx(n_bytes / n_tokens, abs=0.01)
    assert "GPT-2's tokenizer is not on this machine" in output
    assert "GPT-4's tokenizer is not on this machine" in output


def test_eval_of_a_run_and_of_a_model_folder(tmp_path: Path) -> None:
    model = tmp_path / "runs" / "name" / "base" / "model"
    BPESpec(300).build([TEXT]).save(model / "tokenizer")
    (model / "model.json").write_text("{}")
    for where in (model / "tokenizer", model, model.parent, model.parent.parent):
        assert load_from(where).vocab_size == 300
    with pytest.raises(UserError, match="no tokenizer in"):
        load_from(tmp_path)


def test_eval_says_what_a_char_tokenizer_cannot_encode(tmp_path: Path) -> None:
    CharSpec().build([TEXT]).save(tmp_path)
    output = run("eval", str(tmp_path))
    assert "German: The character" in output.replace("\n", " ")
    assert "tiny world: story" in output


def test_train_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "my.txt").write_text(TEXT, encoding="utf-8")
    BPESpec(300).build([TEXT]).save(tmp_path / "out")
    arguments = ["train", "--text", str(tmp_path / "my.txt"), "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match="already"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert load_tokenizer(tmp_path / "out").vocab_size == 300


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes("first\nsecond\ngrün".encode("latin1"))
    for name, message in (("latin", "line 3"), ("missing", "cannot be read")):
        with pytest.raises(UserError, match=message):
            run("eval", "--text", str(tmp_path / name))


@pytest.mark.slow
def test_as_a_process(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "nanochat_pl", "tokenizer", "eval"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "bpe, 1024 tokens" in done.stdout
    failed = subprocess.run([*command, str(tmp_path)], cwd=root, capture_output=True, text=True)
    assert failed.returncode == 2
    assert "no tokenizer in" in failed.stderr
    assert "Traceback" not in failed.stderr
