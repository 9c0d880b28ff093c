"""experiments.jsonl says what the run folders say, and what those said that are gone."""

import json
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.findings import Finding, announce
from nanochat_pl.core.paths import runs_root
from nanochat_pl.reporting.experiments import ledger
from nanochat_pl.reporting.experiments.experiment import Ending
from nanochat_pl.reporting.experiments.ledger import LockedError, keep_experiments, ledger_of, read_experiments
from tests.reporting.experiments.written import write_run
from tests.reporting.written_runs import evaluate, suite


def lines() -> list[dict[str, object]]:
    return [json.loads(line) for line in ledger_of(runs_root()).read_text().splitlines()]


def test_what_a_line_says() -> None:
    run = write_run("one", goal="Does it learn?", metrics="8,3.0,1.7\n", val_bpb=1.7)
    evaluate(run, 8, suite(50, 70))
    for step in (5, 9):
        announce(run, Finding("loss_spike", step, "The loss jumped.", "Look at the batch."))
    [one] = keep_experiments(runs_root())
    assert lines() == [one.as_record()]
    assert (one.name, one.stage, one.status, one.step, one.steps) == ("one/base", "base", "finished", 24, 24)
    assert (one.goal, one.recipe, one.lr_scale) == ("Does it learn?", "tiny", 0.2)
    assert one.hardware == "2 x Abacus 3000, float32"
    assert one.results["val_bpb"] == 1.7 and one.results["tiny"] == pytest.approx(0.6)
    assert one.evaluations["tiny"]["step"] == 8
    assert one.settings["model.depth"] == 4 and not any(key.startswith(("run.", "callbacks.")) for key in one.settings)
    [seen] = one.observations
    assert (seen["kind"], seen["step"], seen["times"]) == ("loss_spike", 5, 2)


def test_the_nearest_earlier_one_is_the_parent() -> None:
    write_run("a", day=1)
    write_run("b", day=2, depth=6, seed=1)
    write_run("c", day=3, depth=6)
    write_run("d", day=4, depth=6, status="killed")
    write_run("e", day=5, stage="sft")
    write_run("f", day=6, depth=6)
    found = {one.name: (one.parent, one.differences) for one in keep_experiments(runs_root())}
    assert found["a/base"] == ("", []) and found["e/sft"] == ("", [])
    assert found["b/base"] == ("a/base", [["model.depth", 4, 6], ["seed", 42, 1]])
    assert found["c/base"] == ("b/base", [["seed", 1, 42]])  # of two that are as near, the later one
    assert found["f/base"] == ("c/base", [])  # of two that are as near, the finished one


def test_one_that_runs_no_more_and_has_not_said_so_was_killed() -> None:
    run = write_run("one", status="running")
    with run.locked():
        assert [one.status for one in keep_experiments(runs_root())] == ["running"]
    assert [one.status for one in keep_experiments(runs_root())] == ["killed"]
    assert lines()[0]["status"] == "killed"
    with run.locked():
        run.write_summary(status="running", step=9)
        [again] = keep_experiments(runs_root())
        assert (again.status, again.step) == ("running", 9)


def test_a_training_says_how_it_ends() -> None:
    write_run("one", status="running")
    write_run("two", status="running", day=2)
    endings = {"one/base": Ending("failed", "KeyError: 'x'")}
    assert [(one.status, one.error) for one in keep_experiments(runs_root(), endings)] == [
        ("failed", "KeyError: 'x'"),
        ("killed", ""),
    ]


def test_why_it_failed_is_read_from_its_events() -> None:
    write_run("one", status="failed", error="The disk is full. Free some space.")
    assert keep_experiments(runs_root())[0].error == "The disk is full."


def test_all_is_made_anew_from_the_folders_but_what_is_gone_stays() -> None:
    write_run("one")
    gone = write_run("two", day=2, status="running")
    before = keep_experiments(runs_root())
    shutil.rmtree(gone.path.parent)
    assert [one.name for one in keep_experiments(runs_root())] == ["one/base", "two/base"]
    assert lines()[1]["status"] == "killed"
    ledger_of(runs_root()).unlink()
    assert keep_experiments(runs_root()) == before[:1]


def test_one_that_was_moved_aside_is_an_experiment_of_its_own() -> None:
    run = write_run("one", val_bpb=2.0)
    keep_experiments(runs_root())
    run.move_aside()
    write_run("one", day=2, val_bpb=1.0)
    old, new = keep_experiments(runs_root())
    assert old.name.startswith("one/base.before-") and (old.stage, old.results["val_bpb"]) == ("base", 2.0)
    assert (new.name, new.results["val_bpb"], new.parent) == ("one/base", 1.0, old.name)


def test_one_whose_place_is_not_yet_taken_is_there_once() -> None:
    run = write_run("one")
    keep_experiments(runs_root())
    run.move_aside()
    assert [one.name.partition(".")[0] for one in keep_experiments(runs_root())] == ["one/base"]


def test_a_run_in_a_folder_of_runs() -> None:
    write_run("many/one", status="running")
    assert keep_experiments(runs_root()) == []
    assert [one.name for one in keep_experiments(runs_root(), {"many/one/base": Ending("finished")})] == [
        "many/one/base"
    ]
    assert [one.name for one in keep_experiments(runs_root())] == ["many/one/base"]


def test_broken_lines_are_kept_in_a_copy() -> None:
    write_run("one")
    keep_experiments(runs_root())
    path = ledger_of(runs_root())
    broken = (
        path.read_text() + '{"name": "two/base", "sta\n[1]\n{"name": 1, "stage": "base", "status": "finished"}\n\xff\n'
    )
    path.write_text(broken)
    assert [one.name for one in keep_experiments(runs_root())] == ["one/base"]
    [copy] = path.parent.glob("experiments.jsonl.before-*")
    assert copy.read_text() == broken and len(lines()) == 1
    keep_experiments(runs_root())
    assert len(list(path.parent.glob("experiments.jsonl.before-*"))) == 1


def test_nothing_is_written_where_nothing_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    write_run("one")
    before = keep_experiments(runs_root())
    monkeypatch.setattr(ledger, "write_over", lambda *arguments: pytest.fail("written"))
    monkeypatch.setattr(ledger, "read_experiment", lambda *arguments: pytest.fail("read"))
    assert keep_experiments(runs_root()) == before


def test_a_file_that_is_locked_or_read_only_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "LOCK_SECONDS", 0.1)
    write_run("one")
    keep_experiments(runs_root())
    path, before = ledger_of(runs_root()), ledger_of(runs_root()).read_text()
    write_run("two", day=2)
    with FileLock(f"{path}.lock"), pytest.raises(LockedError, match="Another process has held"):
        keep_experiments(runs_root())
    path.chmod(0o444)
    with pytest.raises(UserError, match="read-only"):
        keep_experiments(runs_root())
    assert path.read_text() == before and len(read_experiments(runs_root())) == 2
    path.chmod(0o644)
    assert len(keep_experiments(runs_root())) == 2 == len(lines())


def test_where_there_are_no_runs_nothing_is_made(tmp_path: Path) -> None:
    assert keep_experiments(tmp_path / "none") == [] and not (tmp_path / "none").exists()
