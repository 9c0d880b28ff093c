"""`data verify`, `data download` and `data stats` as a user calls them, on real files and a real server."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from nanochat_pl.cli import app
from nanochat_pl.cli.data_source import specs_for
from nanochat_pl.core.errors import MachineError, UserError
from nanochat_pl.core.paths import data_root
from nanochat_pl.data.hub import connection, shards
from nanochat_pl.data.sources import read_documents
from nanochat_pl.data.statistics import ESTIMATED_BYTES_PER_TOKEN
from nanochat_pl.data.stream import Dealer
from nanochat_pl.tokenizers.specs import BPESpec
from tests.forks import run_program
from tests.hub_client import hub_client, hub_environment
from tests.hub_server import HubServer

ROOT = Path(__file__).parents[2]
REPO = "org/web"
HUB = ("hub", f"data.repo={REPO}")


def texts(shard: int, n: int = 80) -> list[str]:
    return [f"Shard {shard}, document {i}. " + "All of it is text, äöü. " * (i % 7 + 1) for i in range(n)]


def write_shards(folder: Path, count: int = 4) -> Path:
    (folder / "data").mkdir(parents=True)
    for shard in range(count):
        language = ["en"] * 60 + ["de"] * 20
        table = pa.table({"text": texts(shard), "language": language, "score": [1.0, 3.0] * 40})
        pq.write_table(table, folder / "data" / f"part-{shard}.parquet", row_group_size=20)
    return folder


@pytest.fixture(autouse=True)
def wide_console(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(shards, "REFETCH_SECONDS", 0.05)
    write_shards(tmp_path / "served" / REPO)
    with HubServer(tmp_path / "served") as server, hub_client(server, tmp_path / "client"):
        yield server


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["data", *arguments], catch_exceptions=False)


def row(output: str, name: str) -> list[str]:
    """The cells of the first row of that name."""
    cells = next(line.split() for line in output.splitlines() if line.split()[:1] == [name])
    return cells[1:]


def files_fetched(hub: HubServer) -> list[str]:
    """The names of the files that were sent whole."""
    paths = [
        request.path.rpartition("/")[2] for request in hub.requests if (request.method, request.status) == ("GET", 200)
    ]
    return [path for path in paths if path.endswith(".parquet")]


def test_verify_a_sound_folder(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "corpus")
    result = run("verify", str(folder), "--samples", "2")
    assert result.exit_code == 0, result.output
    assert row(result.output, "part-2.parquet")[1:] == ["80", "0", "0", "0", "0", "0"]
    assert row(result.output, "all")[1:] == ["320", "0", "0", "0", "0", "0"]
    assert row(result.output, "language") == ["0", "en:", "75.0%,", "de:", "25.0%"]
    assert row(result.output, "score") == ["0", "2", "1", "3"]
    assert result.output.count("All of it is text") >= 2
    assert "4 of 4 files are at hand; no faults." in result.output


def test_verify_finds_what_is_wrong(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "corpus", count=5) / "data"
    parts = sorted(folder.iterdir())
    parts[1].write_bytes(parts[1].read_bytes()[:-200])
    parts[2].write_text("<html><body>Busy</body></html>")
    pq.write_table(pa.table({"text": [*texts(3)[:60], *[None] * 20]}), parts[3])
    parts[4].write_bytes(parts[0].read_bytes())
    result = run("verify", str(folder))
    assert result.exit_code == 1
    assert "part-1.parquet: not readable as parquet" in result.output
    assert "part-2.parquet: not readable as parquet" in result.output
    assert "it begins like an HTML page" in result.output
    assert "part-3.parquet: 20 of 80 documents are null or empty" in result.output
    assert "part-4.parquet: 80 of 80 documents are exact duplicates" in result.output
    assert "5 of 5 files are at hand; 4 with faults." in result.output


def test_verify_other_files_and_columns(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"body": text}) for text in texts(0)))
    (tmp_path / "b.txt").write_text("\n\n".join(texts(1)))
    pq.write_table(pa.table({"body": texts(2), "number": range(80)}), tmp_path / "c.parquet")
    assert run("verify", "*.jsonl", "data.text_key=body").exit_code == 0
    assert run("verify", "b.txt").exit_code == 0
    result = run("verify", "a.jsonl")
    assert result.exit_code == 1
    assert "a.jsonl: 80 lines without a text, line 1 first: no key 'text' (there are: body)" in result.output
    for key, message in (("text", "no column 'text' (there are: body, number)"), ("number", "int64, not strings")):
        result = run("verify", "c.parquet", f"data.text_key={key}")
        assert result.exit_code == 1
        assert message in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing_here"], "data has no option 'nothing_here'"),
        (["shakespear"], "did you mean 'shakespeare'"),
        (["nothing/*.parquet"], "no file matches nothing"),
        (["missing.txt"], "missing.txt does not exist"),
        (["tiny"], "no files of text"),
        (["tiny", "data.nothing=1"], "no option 'data.nothing'"),
    ],
)
def test_sources_that_are_none(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        run("verify", *arguments)
    assert message in str(caught.value)


def test_download_then_verify(hub: HubServer) -> None:
    with pytest.raises(UserError, match="data download"):
        run("verify", *HUB)
    hub.requests.clear()
    result = run("download", *HUB, "-n", "2")
    assert result.exit_code == 0, result.output
    assert f"2 of 4 files (0.00 GB) of hub are in {data_root()}" in result.output
    first = files_fetched(hub)
    assert len(first) == len(set(first)) == 2
    result = run("verify", *HUB)
    assert result.exit_code == 0, result.output
    assert "2 of 4 files are at hand; 2 have the sha256 they should; no faults." in result.output
    run("download", *HUB)
    assert sorted(files_fetched(hub)) == [f"part-{shard}.parquet" for shard in range(4)]
    hub.down()
    assert "4 of 4 files" in run("download", *HUB).output
    kept = next(data_root().rglob(first[0]))
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    result = run("verify", *HUB)
    assert result.exit_code == 1
    assert f"{first[0]}: other content than the manifest says (sha256)" in result.output


def test_download_goes_by_the_order_of_training(hub: HubServer) -> None:
    orders = set()
    for seed in range(2):
        specs = specs_for("hub", [f"data.repo={REPO}", f"seed={seed}"])
        train, _ = specs.data.build_sources()
        names = [f"part-{shard}.parquet" for shard in Dealer(train, specs.data.streams, seed).first_epoch()[:2]]
        shutil.rmtree(data_root())
        assert run("download", *HUB, f"seed={seed}", "-n", "2").exit_code == 0
        assert {path.name for path in data_root().rglob("*.parquet")} == set(names)
        dealer = Dealer(train, specs.data.streams, seed)
        read = [pq.read_table(next(data_root().rglob(name))).column("text").to_pylist() for name in names]
        for slot in range(2):  # as the streams deal the documents, nothing else need be fetched
            dealt = [
                text
                for stream in range(dealer.streams)
                for chunk in dealer.chunks(stream, slot)
                for text in dealer.documents(slot, chunk)
            ]
            assert set(dealt) <= set(read[slot])
            assert len(dealt) > 60
        orders.add(tuple(names))
    assert len(orders) > 1


def test_download_of_bad_and_of_interrupted_files(hub: HubServer) -> None:
    hub.fail("part-1.parquet", "wrong")
    hub.fail("part-2.parquet", "drop", times=1)
    result = run("download", *HUB)
    assert result.exit_code == 1
    assert "3 of 4 files" in result.output
    assert "data/part-1.parquet is bad, and left out of training." in result.output
    result = run("verify", *HUB)
    assert result.exit_code == 1
    assert "data/part-1.parquet: left out of training: its sha256 is" in result.output
    assert "3 of 4 files are at hand; 3 have the sha256 they should; 1 are left out of training" in result.output


def test_download_that_cannot_be(hub: HubServer, tmp_path: Path) -> None:
    sizes = sorted(path.stat().st_size for path in (tmp_path / "served").rglob("*.parquet"))
    with pytest.raises(UserError, match=r"fetch fewer files \(-n 2\)"):
        run("download", *HUB, f"data.cache_gigabytes={2.5 * sizes[-1] / 1e9:.9f}")
    with pytest.raises(UserError, match="org/nothing"):
        run("download", "hub", "data.repo=org/nothing")
    hub.private = {REPO}
    with pytest.raises(UserError, match="HF_TOKEN"):
        run("download", *HUB)
    assert "nothing to download" in run("download", str(tmp_path / "served" / REPO)).output


def test_download_without_a_hub(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_SECONDS", 0.5)
    hub.down()
    with pytest.raises(MachineError, match="cannot be reached"):
        run("download", *HUB)


def test_stats_count_what_is_there(tmp_path: Path) -> None:
    documents = [text for shard in range(4) for text in texts(shard)]
    (tmp_path / "my.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in documents))
    tokenizer = BPESpec(300).build(documents)
    tokenizer.save(tmp_path / "tokenizer")
    result = run("stats", "my.jsonl", "--tokenizer", "tokenizer")
    assert result.exit_code == 0, result.output

    def total(name: str) -> int:
        return sum(int(cell.replace(",", "")) for cell in row(result.output, name)[:2])

    assert total("documents") == len(documents)
    assert total("bytes") == sum(len(text.encode()) for text in documents)
    assert total("characters") == sum(map(len, documents))
    assert total("tokens") == sum(len(tokenizer.encode(text)) for text in documents)
    assert tokenizer.fingerprint[:12] in result.output
    assert (tmp_path / "my-lengths.png").read_bytes().startswith(b"\x89PNG")


def test_stats_of_a_part(hub: HubServer, tmp_path: Path) -> None:
    hub.requests.clear()
    result = run("stats", *HUB, "--limit", "30", "--picture", "out.png")
    assert row(result.output, "documents") == ["30"]
    size = int(row(result.output, "bytes")[0].replace(",", ""))
    assert abs(int(row(result.output, "tokens")[0].replace(",", "")) - size / ESTIMATED_BYTES_PER_TOKEN) < 30
    assert "Tokens are estimated" in result.output
    assert "the first 30 documents" in result.output
    assert len(files_fetched(hub)) == 1
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_stats_use_the_tokenizer_that_training_made(tmp_path: Path) -> None:
    (tmp_path / "my.txt").write_text("\n\n".join(texts(0)))
    assert "Tokens are estimated" in run("stats", "my.txt", "tokenizer.vocab_size=300").output
    specs = specs_for("my.txt", ["tokenizer.vocab_size=300"])
    tokenizer = specs.build_tokenizer()
    output = run("stats", "my.txt", "tokenizer.vocab_size=300").output
    assert tokenizer.fingerprint[:12] in output
    train, _ = specs.data.build_sources()
    expected = sum(len(tokenizer.encode(document)) for document in read_documents(train))
    assert row(output, "tokens")[0] == f"{expected:,}"


def test_real_data(test_data: Path, tmp_path: Path) -> None:
    with HubServer(test_data / "hub") as hub, hub_client(hub, tmp_path / "client"):
        assert run("download", "-n", "3").exit_code == 0
        result = run("verify")
    assert result.exit_code == 0, result.output
    assert "3 of 6 files are at hand; 3 have the sha256 they should; no faults." in result.output
    assert row(result.output, "language") == ["0", "en:", "100.0%"]


def test_help_comes_without_heavy_imports() -> None:
    heavy = ("torch", "numpy", "hydra", "lightning", "pyarrow", "datasets")
    program = f"import sys, nanochat_pl.cli; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.slow
def test_two_downloads_at_once(tmp_path: Path) -> None:
    write_shards(tmp_path / "served" / REPO)
    with HubServer(tmp_path / "served") as hub:
        environment = hub_environment(hub, tmp_path / "client")
        command = ("-m", "nanochat_pl", "data", "download", *HUB)
        with ThreadPoolExecutor(2) as pool:
            runs = list(pool.map(lambda _: run_program(*command, environment=environment), range(2)))
        for done in runs:
            assert done.returncode == 0, done.stderr
            assert "4 of 4 files" in done.stdout
        assert len(files_fetched(hub)) == 4
    served = {
        path.name: hashlib.sha256(path.read_bytes()).digest() for path in (tmp_path / "served").rglob("*.parquet")
    }
    kept = {path.name: hashlib.sha256(path.read_bytes()).digest() for path in data_root().rglob("*.parquet")}
    assert kept == served
