"""`experiments` as a user calls it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nanochat_pl.cli import app
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.paths import runs_root
from nanochat_pl.reporting.experiments.ledger import ledger_of
from tests.reporting.experiments.written import write_run

CURVE = "".join(f"{step},{5 / step:.3f},{2 / step if step % 8 == 0 else ''}\n" for step in range(1, 201))


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["experiments", *arguments])
    assert result.exit_code == 0, result.output or result.exception
    return result.output


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["experiments", *arguments])
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


@pytest.fixture
def two() -> None:
    write_run("a,[red]b", day=1, val_bpb=1.5, goal="Does it learn?", metrics=CURVE)
    write_run("c", day=2, val_bpb=1.25, depth=6, metrics=CURVE)
    write_run("k", day=3, status="running")


@pytest.mark.usefixtures("two")
def test_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    rows = [line.split() for line in run("list").splitlines()]
    assert rows[0] == ["experiment", "status", "step", "val", "bpb", "train", "loss", "tok/s", "time", "date"]
    assert rows[1][:6] == ["a,[red]b/base", "finished", "24", "1.5000", "3.0000", "1,000"]
    assert rows[3][:5] == ["k/base", "killed", "8", "of", "24"]
    records = json.loads(run("list", "--json"))
    assert [record["status"] for record in records] == ["finished", "finished", "killed"]
    assert records == [json.loads(line) for line in ledger_of(runs_root()).read_text().splitlines()]


def test_a_narrow_terminal_shows_fewer_columns_and_whole_names(monkeypatch: pytest.MonkeyPatch) -> None:
    write_run("tiny,model.depth=6", day=1)
    for width, columns in ((100, ["time", "date"]), (80, ["loss", "tok/s"]), (48, ["status", "step"])):
        monkeypatch.setenv("COLUMNS", str(width))
        head, row = run("list").splitlines()
        assert head.split()[-2:] == columns and row.startswith("tiny,model.depth=6/base ")


@pytest.mark.usefixtures("two")
def test_show() -> None:
    text = run("show", "a,[red]b")
    assert "**Goal**: Does it learn?" in text and "- Validation bits per byte: 1.5000" in text
    assert json.loads(run("show", "c/base", "--json"))["differences"] == [["model.depth", 4, 6]]
    assert "did you mean 'c/base'" in refused("show", "c/bse")


@pytest.mark.usefixtures("two")
def test_compare() -> None:
    text = run("compare", "a,[red]b", "c")
    assert "a,[red]b/base" in text and "c/base is better: val_bpb 1.5000 and 1.2500, by 0.2500 (16.7%)" in text
    assert ["model.depth", "4", "6"] in [line.split() for line in text.splitlines()]
    comparison = json.loads(run("compare", "a,[red]b", "c", "--json"))
    assert comparison["better"] == "c/base" and comparison["standard_errors"] is None
    assert comparison["results"]["val_bpb"] == [1.5, 1.25]
    assert "did you mean 'train_loss'" in refused("compare", "a,[red]b", "c", "--metric", "train_los")
    assert "name two" in refused("compare", "c", "c/base")
    assert "equal in tokens_per_second" in run("compare", "a,[red]b", "c", "--metric", "tokens_per_second")


@pytest.mark.usefixtures("two")
def test_best() -> None:
    assert ["base", "1.", "c/base"] in [line.split()[:3] for line in run("best").splitlines()]
    records = json.loads(run("best", "--json"))
    assert [(record["name"], record["value"]) for record in records] == [("c/base", 1.25), ("a,[red]b/base", 1.5)]
    assert "did you mean 'train_loss'" in refused("best", "--metric", "train_los")


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("options", [[], ["--log"]])
def test_plot(tmp_path: Path, options: list[str]) -> None:
    out = tmp_path / "new" / "curves.png"
    assert run("plot", "--out", str(out), *options).endswith("a,[red]b/base, c/base, k/base.\n")
    assert out.read_bytes().startswith(b"\x89PNG") and out.stat().st_size > 20_000


@pytest.mark.usefixtures("two")
def test_plot_of_what_has_no_curve(tmp_path: Path) -> None:
    (runs_root() / "c/base/metrics.csv").unlink()
    assert "nothing to draw" in refused("plot", "c") or "metrics.csv to draw" in refused("plot", "c")
    assert "too many" in refused("plot", *["k"] * 11)
    assert f"{tmp_path} cannot be written" in refused("plot", "k", "--out", str(tmp_path))


@pytest.mark.usefixtures("two")
def test_write(tmp_path: Path) -> None:
    assert "no .claude folder" in refused("write")
    page = tmp_path / "mine.md"
    assert run("write", str(page)).split() == [str(ledger_of(runs_root())), str(page)]
    page.write_text(page.read_text().replace("<!-- tracker:end best -->\n", ""))
    assert "mine.md is left as it is" in refused("write", str(page))


def test_where_there_is_nothing() -> None:
    assert "no experiments yet" in run("list")
    assert "There are none" in refused("show", "a")
    assert "no finished experiment" in refused("best")
    assert "no folder of runs" in refused("write")
    assert refused("plot")
    assert json.loads(run("list", "--json")) == [] and not runs_root().exists()


@pytest.mark.usefixtures("two")
def test_a_ledger_that_is_no_file() -> None:
    ledger_of(runs_root()).mkdir()
    result = CliRunner().invoke(app, ["experiments", "list"])
    assert result.exit_code == 0 and "not brought up to date" in result.stderr and "c/base" in result.stdout


@pytest.mark.usefixtures("two")
def test_what_cannot_be_kept_is_listed_all_the_same() -> None:
    ledger_of(runs_root()).write_text("")
    ledger_of(runs_root()).chmod(0o444)
    result = CliRunner().invoke(app, ["experiments", "list"])
    assert result.exit_code == 0 and "read-only" in result.stderr and "c/base" in result.stdout
    assert "read-only" in refused("write")
