"""`report` as a user calls it, and its page in a browser."""

import itertools
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nanochat_pl.cli import app
from nanochat_pl.core.errors import UserError
from tests.processes import train
from tests.reporting.written_runs import evaluate, suite, write_stage
from tests.reporting.written_sweeps import write_sweep

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
SMALL = (
    "model.depth=2", "model.n_embd=64", "horizon.total_batch_tokens=1024", "horizon.steps=4", "hw=cpu", "hw.threads=1",
    "trainer.validate_every_n_steps=2", "callbacks.metrics.every_n_steps=1", "callbacks.evaluate.max_per_task=2",
    "run.name=test",
)  # fmt: skip
TEXT_BEYOND_ITS_PICTURE = """[...document.querySelectorAll("figure svg text")].filter(text => {
  const own = text.getBoundingClientRect(), whole = text.closest("svg").getBoundingClientRect();
  return own.left < whole.left - 1 || own.right > whole.right + 1 || own.top < whole.top - 1 ||
    own.bottom > whole.bottom + 1;
}).map(text => text.textContent)"""


def test_the_files_land_in_the_runs_folder_or_in_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object) -> None:
        raise AssertionError("a report asks nobody")

    monkeypatch.setattr(socket.socket, "connect", refused)
    folder = write_stage("one", "base").path.parent
    result = CliRunner().invoke(app, ["report", "one"])
    assert result.exit_code == 0, result.output
    assert result.output.split() == [str(folder / "report.html"), str(folder / "report.md")]
    again = CliRunner().invoke(app, ["report", "one", "--out", str(tmp_path / "new"), "--price-per-hour", "3"])
    assert again.exit_code == 0, again.output
    assert "3.00" in (tmp_path / "new/report.md").read_text()
    assert "price" not in (folder / "report.md").read_text()


def test_mistakes() -> None:
    write_stage("one", "base")
    assert isinstance(CliRunner().invoke(app, ["report", "two"]).exception, UserError)
    assert CliRunner().invoke(app, ["report", "one", "--price-per-hour", "-1"]).exit_code == 2


@pytest.mark.slow
def test_what_a_training_leaves_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, output = train("-m", "stage=base,sft", *SMALL, runs=tmp_path)
    assert code == 0, output
    monkeypatch.setenv("NANOCHAT_PL_RUNS", str(tmp_path))
    result = CliRunner().invoke(app, ["report", "test"])
    assert result.exit_code == 0, result.output
    text = (tmp_path / "test/report.md").read_text()
    for said in (
        "| sft | finished | 4 |",
        "tiny_facts",
        "base/loss.png",
        "at step 4",
        "python train.py -m stage=base,sft",
    ):
        assert said in text, said
    assert (tmp_path / "test/report.html").read_text().count("<figure") >= 4


def _write_run() -> list[str]:
    base, sft = write_stage("one", "base", curves=True), write_stage("one", "sft", "failed")
    for step in (0, 20, 50):
        evaluate(base, step, suite(1, step, labels=("a_rather_long_name_of_a_task", "letters")))
    evaluate(sft, 50, suite(90, 20))
    return ["one"]


def _write_sweep() -> list[str]:
    jobs = [
        {"depth": depth, "rate": rate, "seed": seed} for depth in (2, 4) for rate in (0.2, 0.4, 1.0) for seed in (1, 2)
    ]
    return ["--sweep", str(write_sweep(jobs, failed=("99",)))]


@pytest.mark.slow
@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="the page is looked at with chromium, which is not installed")
@pytest.mark.parametrize("write", [_write_run, _write_sweep])
def test_the_page_in_a_browser(tmp_path: Path, write: Callable[[], list[str]]) -> None:
    """Nothing is asked of anybody, nothing stands beyond the edge, and the text is readable on its ground."""
    playwright_api = pytest.importorskip("playwright.sync_api")
    assert CliRunner().invoke(app, ["report", *write(), "--out", str(tmp_path)]).exit_code == 0
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for width, scheme in itertools.product((320, 1280), ("light", "dark")):
            _look_at(browser, f"file://{tmp_path}/report.html", width, scheme)
        browser.close()


def _look_at(browser: Any, url: str, width: int, scheme: str) -> None:
    asked: list[str] = []
    faults: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: faults.append(message.text))
    page.goto(url)
    wide = page.evaluate("document.documentElement.scrollWidth")
    colors = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    curve = page.locator("figure svg").first.bounding_box()
    cut_off = page.evaluate(TEXT_BEYOND_ITS_PICTURE)
    page.close()
    assert asked == [url] and not faults, (width, scheme)
    assert wide == width and not cut_off, (width, scheme)
    ink, ground = (sum(map(int, color[4:-1].split(","))) for color in colors)
    assert abs(ink - ground) > 450 and (ink < ground) == (scheme == "light"), (width, scheme)
    assert curve is not None and curve["width"] > 0.75 * min(width, 500) and curve["height"] > 100, (width, scheme)
