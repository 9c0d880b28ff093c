"""Real trainings write the record of experiments: finished, failed, killed, two at once, and where they cannot."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from nanochat_pl.cli import app
from nanochat_pl.config.compose import compose, run_name
from tests.processes import SMALL, start_fork, train

UNNAMED = tuple(option for option in SMALL if option != "run.name=test")
SHORT = (*UNNAMED, "horizon.steps=8", "trainer.validate_every_n_steps=4")
KILL = ("+callbacks.fault._target_=tests.faults.Kill", "+callbacks.fault.micro_batch=6")
FAIL = ("+callbacks.fault._target_=tests.faults.Nonsense", "+callbacks.fault.step=5")

pytestmark = pytest.mark.slow


class Project:
    """A folder as a checkout is: runs, and .claude beside them."""

    def __init__(self, path: Path):
        self.runs, self.page = path / "runs", path / ".claude/experiments.md"
        self.page.parent.mkdir()

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        lines = (self.runs / "experiments.jsonl").read_text().splitlines()
        return {record["name"]: record for record in map(json.loads, lines)}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One training that was killed, two at the same time of which one failed, with notes written in between."""
    project = Project(tmp_path_factory.mktemp("project"))
    code, output = train(*SHORT, "run.name=killed", "run.goal='to be, or not'", *KILL, runs=project.runs)
    assert code == -9, output
    page = project.page.read_text()
    assert "**Status**: running" in page and "killed" not in page.replace("killed/base", "").replace("name=killed", "")
    project.page.write_text(page.replace("<!-- tracker:new -->", "A note of mine.\n\n<!-- tracker:new -->"))
    forks = [
        start_fork(*SHORT, "run.name=whole", "seed=7", runs=project.runs),
        start_fork(*SHORT, "run.name=failed", *FAIL, runs=project.runs),
    ]
    codes = [(fork.communicate()[0], fork.returncode) for fork in forks]
    assert [code for _, code in codes] == [0, 1], codes
    yield project


def test_each_is_recorded_with_how_it_ended(project: Project) -> None:
    records = project.records
    assert {name: record["status"] for name, record in records.items()} == {
        "killed/base": "killed", "whole/base": "finished", "failed/base": "failed",
    }  # fmt: skip
    assert records["killed/base"]["goal"] == "to be, or not"
    whole = records["whole/base"]
    assert whole["step"] == whole["steps"] == 8 and whole["results"]["val_bpb"] > 1
    assert whole["results"]["val_bpb"] == json.loads((project.runs / "whole/base/summary.json").read_text())["val_bpb"]
    assert ["seed", 42, 7] in whole["differences"] and "seed=7" in whole["overrides"]
    assert records["failed/base"]["error"] == "KeyError: 'this is nonsense'"


def test_the_page_tells_it_and_keeps_the_note(project: Project) -> None:
    text = project.page.read_text()
    for said in ("### killed/base", "### whole/base", "### failed/base", "A note of mine.", "**Goal**: to be, or not"):
        assert text.count(said) == 1, said
    assert "- seed: 42 → 7" in text and "**Status**: killed at step 4 of 8" in text
    assert "KeyError: 'this is nonsense'" in text and "- **Run**: whole/base (base)" in text
    assert text.index("### killed/base") < text.index("A note of mine.") < text.index("### whole/base")
    assert sorted(path.name for path in project.page.parent.iterdir()) == ["experiments.md", "experiments.md.lock"]


def test_the_commands_say_the_same(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_PL_RUNS", str(project.runs))
    assert json.loads(CliRunner().invoke(app, ["experiments", "list", "--json"]).output) == [*project.records.values()]
    before = project.page.read_text()
    assert CliRunner().invoke(app, ["experiments", "write"]).exit_code == 0
    assert project.page.read_text() == before, "the end of the last training had told all there is"


def test_what_cannot_be_written_is_a_warning_and_made_up_for(project: Project, tmp_path: Path) -> None:
    """The ledger is held by a process that hangs, and the page is broken by hand."""
    project = Project(tmp_path)
    project.runs.mkdir()
    broken = "mine\n<!-- tracker:end summary -->\n"
    project.page.write_text(broken)
    with FileLock(project.runs / "experiments.jsonl.lock"):
        code, output = train(*SHORT, "run.name=one", runs=project.runs)
    assert code == 0 and "Trained 8 steps" in output, output
    assert "Another process has held" in output and "line 2 ends 'summary' without a beginning" in output
    assert project.page.read_text() == broken and not (project.runs / "experiments.jsonl").exists()
    project.page.write_text("mine\n")
    code, output = train(*SHORT, "run.name=one", "horizon.steps=10", "run.goal=longer", runs=project.runs)
    assert code == 0 and "Going on from step 8" in output and "record of experiments" not in output, output
    [record] = project.records.values()
    assert (record["step"], record["goal"]) == (10, "longer")
    assert [seen["kind"] for seen in record["observations"]] == ["experiments_file"]
    text = project.page.read_text()
    assert text.startswith("mine\n") and "experiments_file at step 0, 4 times" in text


def test_a_goal_changes_no_name() -> None:
    overrides = ["seed=3", "run.goal='why, oh why=1'"]
    assert run_name(compose(overrides), overrides) == run_name(compose(["seed=3"]), ["seed=3"]) == "tiny,seed=3"
