"""`tokenizer eval` and `tokenizer train` as a user calls them."""

import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiktoken
from typer.testing import CliRunner

from nanochat_pl.checkpoint.hf_tokenizer import build_hf_tokenizer
from nanochat_pl.cli.tokenizer import app, load_from
from nanochat_pl.core.errors import MachineError, UserError
from nanochat_pl.data.sources import TinySource
from nanochat_pl.tiny_world import KINDS, document
from nanochat_pl.tokenizers.load import load_tokenizer
from nanochat_pl.tokenizers.openai import tokenizer_of
from nanochat_pl.tokenizers.specs import BPESpec, CharSpec
from tests.forks import run_program
from tests.hub_client import hub_client
from tests.hub_server import HubServer

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
    n_bytes, n_tokens, ratio = (float(cell) for cell in row.split()[-3:])
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


def test_train_on_a_data_set(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["train", "--data", "tiny", "--vocab", "400", "--max-chars", "5e4", "--out", str(out)]
    output = run(*arguments, "data.num_documents=1000")
    assert f"tokenizer eval {out} --data tiny" in output.replace("\n", "")
    texts = (document(i) for i in range(1000))
    assert load_tokenizer(out).fingerprint == BPESpec(400, max_chars=50_000).build(texts).fingerprint
    assert "tiny, held out" in run("eval", str(out), "--data", "tiny")


def test_a_data_set_of_the_hub_by_its_options(tmp_path: Path) -> None:
    served = tmp_path / "served" / "org" / "web" / "data"
    served.mkdir(parents=True)
    for shard in range(3):
        texts = [document(i) for i in range(100 * shard, 100 * shard + 100)]
        pq.write_table(pa.table({"body": texts}), served / f"part-{shard}.parquet", row_group_size=20)
    options = ["--data", "hub", "data.repo=org/web", "data.text_column=body", "data.val_fraction=0.2"]
    with HubServer(tmp_path / "served") as hub, hub_client(hub, tmp_path / "client"):
        out = tmp_path / "out"
        output = run("train", *options, "--vocab", "400", "--max-chars", "10_000", "--out", str(out))
        hint = "".join(output.splitlines()).partition("python -m nanochat_pl tokenizer ")[2]
        assert hint == f"eval {out} {' '.join(options)}"
        fetched = {r.path for r in hub.requests if r.path.endswith(".parquet") and r.bytes > 10_000}
        assert len(fetched) == 1, "no further than it must"
        for arguments in (shlex.split(hint), ["eval", *options]):
            assert "hub, held out" in run(*arguments)
    with pytest.raises(UserError, match="goes with --data"):
        run("eval", str(out), "data.repo=org/web")


def test_training_reads_a_data_set_as_a_stream_and_no_further_than_it_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    monkeypatch.setattr(TinySource, "_document", lambda self, i: read.append(i) or document(i))
    run("train", "--data", "tiny", "--vocab", "300", "--max-chars", "100k", "--out", str(tmp_path / "out"))
    assert 100_000 / 4000 < len(read) < 5000


def test_one_token_a_character(tmp_path: Path) -> None:
    (tmp_path / "my.txt").write_text(TEXT, encoding="utf-8")
    run("train", "--text", str(tmp_path / "my.txt"), "--characters", "--out", str(tmp_path / "out"))
    assert load_tokenizer(tmp_path / "out").fingerprint == CharSpec().build([TEXT]).fingerprint


def test_train_wants_one_kind_of_text(tmp_path: Path) -> None:
    (tmp_path / "my.txt").write_text(TEXT, encoding="utf-8")
    text, out = ["--text", str(tmp_path / "my.txt")], ["--out", str(tmp_path / "out")]
    for arguments in ([], [*text, "--data", "tiny"]):
        with pytest.raises(UserError, match="either --text FILE or --data SOURCE"):
            run("train", *arguments, *out)
    with pytest.raises(UserError, match=r"data\.streams=3 goes with --data"):
        run("train", *text, *out, "data.streams=3")
    failed = CliRunner().invoke(app, ["train", *text, *out, "--max-chars", "many"])
    assert failed.exit_code == 2 and "is not a whole number" in failed.output
    assert not (tmp_path / "out").exists()


def test_an_encoding_of_openai_becomes_a_tokenizer(tmp_path: Path) -> None:
    trained = BPESpec(400).build([TEXT])
    # As GPT-2's: single bytes in an order of their own, one special token behind the ordinary ones.
    other_order = sorted(range(256), key=lambda byte: (byte + 33) % 256)
    ranks = {bytes([byte]): rank for rank, byte in enumerate(other_order)}
    ranks |= {token: rank for token, rank in trained.ranks.items() if rank >= 256}
    pattern = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
    encoding = tiktoken.Encoding(
        "like_gpt2",
        pat_str=pattern,
        mergeable_ranks=dict(reversed(ranks.items())),
        special_tokens={"<end>": len(ranks)},
    )
    tokenizer_of(encoding).save(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    for text in (TEXT, "Früh am Morgen 123\n\n  <end>"):
        assert tokenizer.encode(text) == encoding.encode_ordinary(text)
        assert tokenizer.decode(encoding.encode_ordinary(text)) == text
    assert tokenizer.bos_id == encoding.encode_single_token("<end>")
    with_gap = tiktoken.Encoding(
        "gap", pat_str=pattern, mergeable_ranks=ranks | {b"the quick brown": 1000}, special_tokens={}
    )
    with pytest.raises(UserError, match="gaps"):
        tokenizer_of(with_gap)


def test_an_encoding_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="is 'gpt3'; did you mean 'gpt2'"):
        run("import", "gpt3", "--out", str(tmp_path / "out"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody answers there
    with pytest.raises(MachineError, match=r"could not fetch the encoding gpt2.*TIKTOKEN_CACHE_DIR"):
        run("import", "gpt2", "--out", str(tmp_path / "out"))


def test_a_hugging_face_tokenizer_becomes_one_of_ours(tmp_path: Path) -> None:
    trained = BPESpec(400).build([TEXT])
    theirs = build_hf_tokenizer(trained, is_chat=False)
    theirs.save(str(tmp_path / "theirs.json"))
    assert "400 tokens" in run("import", f"hf:{tmp_path}/theirs.json", "--out", str(tmp_path / "ours"))
    assert load_tokenizer(tmp_path / "ours").encode(TEXT) == trained.encode(TEXT)
    assert "hf, 400 tokens" in run("eval", str(tmp_path / "ours"))


@pytest.mark.slow
def test_as_a_process(tmp_path: Path) -> None:
    command = ("-m", "nanochat_pl", "tokenizer", "eval")
    done = run_program(*command)
    assert done.returncode == 0, done.stderr
    assert "bpe, 1024 tokens" in done.stdout
    failed = run_program(*command, str(tmp_path))
    assert failed.returncode == 2
    assert "no tokenizer in" in failed.stderr
    assert "Traceback" not in failed.stderr
