"""What the report of a sweep says of jobs whose law, best rate and spread are known."""

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from nanochat_pl.cli import app
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.paths import runs_root
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.core.sweep_folder import SweepFolder
from nanochat_pl.reporting.sweep_contents import SweepReport, build_sweep_report
from nanochat_pl.reporting.sweep_records import load_sweep
from tests.reporting.test_report import Page
from tests.reporting.written_runs import HOSTILE, write_stage
from tests.reporting.written_sweeps import BATCH, EXPONENT, FLOOR, STEPS, flops_per_token, write_job, write_sweep


def report_of(where: Path) -> SweepReport:
    return build_sweep_report(load_sweep(where))


def said(report: SweepReport, title: str) -> str:
    return " ".join(next(section for section in report.sections if section.title == title).said)


def test_the_jobs_and_what_they_cost() -> None:
    path = write_sweep([{"depth": depth} for depth in (2, 4)], failed=("98", "99"))
    report = report_of(path)
    assert report.lead.startswith("2 of 4 jobs finished, ") and report.shared == ["hw=cpu"]
    rows = [[cell.text for cell in row] for row in report.jobs.rows]
    flops = flops_per_token(2) * BATCH * STEPS
    assert rows[0][0] == "model.depth=2" and rows[0][-1] == f"{flops:.3g}" and rows[0][-2] == "2.62M"
    assert rows[3][:3] == ["model.depth=99", "failed", "–"]
    assert [(trouble.names, trouble.reason) for trouble in report.troubles] == [
        (["model.depth=98", "model.depth=99"], "The memory is full: 3 < 4.")
    ]
    assert report.commands == ["python train.py -m model.depth=2,4,8"]


def test_loss_against_compute() -> None:
    report = report_of(write_sweep([{"depth": depth} for depth in (2, 4, 8)]))
    text = said(report, "Loss against compute")
    floor, exponent = re.search(r"L\(C\) = ([\d.]+) .*\^-([\d.]+), fitted", text).groups()
    assert float(exponent) == pytest.approx(EXPONENT, abs=0.01) and float(floor) == pytest.approx(FLOOR, abs=0.02)
    assert report.sections[0].pictures[0].svg.count("envelope") == 1
    few = report_of(write_sweep([{"depth": 2, "steps": 10}, {"depth": 2, "steps": 11}]))
    assert "too few" in said(few, "Loss against compute")


def test_the_best_rate_of_each_size() -> None:
    rates = (0.1, 0.2, 0.8, 1.6)
    report = report_of(write_sweep([{"depth": depth, "rate": rate} for depth in (2, 4) for rate in rates]))
    text = said(report, "Best horizon.lr_scale")
    assert text.count("the best horizon.lr_scale is 0.4 (one standard error") == 2
    assert "model.depth=2: the best" in text and "model.depth=4: the best" in text
    report = report_of(write_sweep([{"depth": 2, "rate": rate} for rate in (0.8, 1.6, 3.2)]))
    assert "is not within what was tried: the lowest loss was measured at 0.8" in said(report, "Best horizon.lr_scale")
    assert "Try smaller ones." in said(report, "Best horizon.lr_scale")


def test_rates_that_led_nowhere_are_named() -> None:
    path = write_sweep([{"depth": 2, "rate": rate} for rate in (0.2, 0.4, 0.8, 1.6)])
    sweep = SweepFolder(path)
    diverged = sweep.jobs()[3] | {"status": "diverged", "exit_code": 4, "error": "The loss is nan at step 3."}
    sweep.record(**diverged)
    RunFolder(diverged["folder"]).write_summary(status="diverged")
    text = said(report_of(path), "Best horizon.lr_scale")
    assert "is 0.4 (through three points" in text and "without a result: horizon.lr_scale = 1.6" in text


def test_spread_over_seeds() -> None:
    report = report_of(write_sweep([{"depth": depth, "seed": seed} for depth in (2, 4) for seed in (1, 2, 3)]))
    (section,) = (section for section in report.sections if section.title == "Spread over seeds")
    rows = [[cell.text for cell in row] for row in section.table.rows]
    assert [row[:2] for row in rows] == [["model.depth=2", "3"], ["model.depth=4", "3"]]
    assert rows[0][2].endswith("± 0.0010") and rows[0][4] == "2,000 ± 0"


def test_a_folder_of_runs_is_a_sweep_too() -> None:
    for seed in (1, 2):
        for rate in (0.2, 0.4, 0.8):
            write_job(f"r{rate}s{seed}", depth=2, rate=rate, seed=seed)
    write_stage("other", "sft", curves=True)
    report = report_of(runs_root())
    assert [row[0].text for row in report.jobs.rows][:2] == ["other stage=sft", "r0.2s1 stage=base"]
    titles = [section.title for section in report.sections]
    assert "Best horizon.lr_scale (base)" in titles and "Loss against compute (sft)" in titles
    assert "the best horizon.lr_scale is 0.4" in said(report, "Best horizon.lr_scale (base)")
    (section,) = (section for section in report.sections if section.title == "Spread over seeds")
    assert [row[0].text for row in section.table.rows] == [f"horizon.lr_scale={rate}" for rate in (0.2, 0.4, 0.8)]


def test_runs_that_were_moved_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sweep([{"depth": 2}, {"depth": 4}])
    runs_root().rename(tmp_path / "moved")
    assert all(job.record.metrics for job in load_sweep(tmp_path / "moved/sweeps/one").jobs)


@pytest.mark.filterwarnings("ignore:Glyph")
def test_nothing_in_a_page_can_act() -> None:
    path = write_sweep([{"depth": 2}, {"depth": 4}])
    sweep = SweepFolder(path)
    job = sweep.jobs()[1] | {"overrides": ["hw=cpu", HOSTILE], "status": "failed", "error": HOSTILE}
    sweep.record(**job)
    result = CliRunner().invoke(app, ["report", "--sweep", str(path)])
    assert result.exit_code == 0, result.output
    page = Page((path / "report.html").read_text())
    assert "<script>alert(1)" in page.text and not {"script", "img", "iframe"} & set(page.tags)
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    markdown = MarkdownIt("commonmark").enable("table").render((path / "report.md").read_text())
    assert "<script" not in markdown and "<img" not in markdown and markdown.count("<table>") == 1


def test_mistakes(tmp_path: Path) -> None:
    def refused(*arguments: str) -> str:
        error = CliRunner().invoke(app, ["report", *arguments]).exception
        assert isinstance(error, UserError) and error.exit_code == 2
        return str(error)

    path = write_sweep([{"depth": 2}, {"depth": 4}])
    (tmp_path / "empty").mkdir()
    assert "no folder" in refused("--sweep", "nowhere") and "Sweeps in" in refused("--sweep", "nowhere")
    assert "neither a sweep.json nor runs" in refused("--sweep", str(tmp_path / "empty"))
    assert "Give either" in refused() and "Give either" in refused("name", "--sweep", str(path))
    assert "--price-per-hour" in refused("--sweep", str(path), "--price-per-hour", "2")
    file = path / "sweep.json"
    whole = file.read_text()
    for text in (whole[:-40], "[]", '{"runs": 3}'):
        file.write_text(text)
        assert "sweep.json is damaged" in refused("--sweep", str(path))
    SweepFolder(path).begin([])
    assert "holds no jobs" in refused("--sweep", str(path))
    one = write_sweep([{"depth": 2}])
    assert "only one job" in refused("--sweep", str(one)) and "report " in refused("--sweep", str(one))
    assert "None of the 2 jobs" in refused("--sweep", str(write_sweep([], failed=("1", "2"))))


@pytest.mark.parametrize("file", ["metrics.csv", "summary.json", "config.yaml", "resolved.json"])
def test_damaged_records_of_a_job_are_left_out(file: str) -> None:
    path = write_sweep([{"depth": depth, "rate": rate} for depth in (2, 4) for rate in (0.2, 0.4, 0.8)])
    run = RunFolder(SweepFolder(path).jobs()[0]["folder"])
    (run.path / file).write_bytes(b'{"a": \xff[')
    assert len(report_of(path).jobs.rows) == 6
