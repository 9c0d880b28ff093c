"""Evaluations in training: what they write, that they change nothing, and that none of them ends it."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from nanochat_pl.callbacks.evaluate import Evaluate
from nanochat_pl.callbacks.metrics_csv import MetricsCSV
from nanochat_pl.callbacks.shutdown import SaveOnSignal
from nanochat_pl.core.errors import Interrupted, UserError
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.core.spec import call_checked
from nanochat_pl.evals import suites
from nanochat_pl.evals.scores import SuiteScore, TaskScore
from nanochat_pl.optim.muon import MuonAdamWSpec
from nanochat_pl.optim.scaling import Horizon
from nanochat_pl.optim.schedules import ScheduleSpec
from nanochat_pl.stages.stage import Blueprint
from tests.processes import REPOSITORY, SMALL, losses, run_together, train
from tests.stages.test_sft import CONFIG, ROWS, TOKENIZER, RandomizedSFTStage, T, data_module


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "MAX_NEW_TOKENS", 8)


class Watched(Callback):
    """Weights, random numbers and the model's mode after every step."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_train_batch_start(self, trainer: Trainer, stage: Any, batch: Any, batch_idx: int) -> None:
        weights = torch.cat([weight.detach().flatten() for weight in stage.model.parameters()])
        self.seen.append((weights, torch.get_rng_state(), stage.model.training))


def fit(
    folder: Path,
    *callbacks: Callback,
    steps: int = 3,
    rank: int = 0,
    devices: int = 1,
    parent: Path | None = None,
    **trainer: Any,
) -> tuple[Watched, RunFolder]:
    watched, data = Watched(), data_module(ROWS, rank, devices)
    blueprint = Blueprint(
        CONFIG, MuonAdamWSpec(), ScheduleSpec(), Horizon(steps, ROWS * T, 1, 0.1, 0.1), 1, TOKENIZER, seed=0,
        parent=parent,
    )  # fmt: skip
    run = RunFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(7)
    Trainer(
        accelerator="cpu", devices=devices, max_steps=steps, callbacks=[*callbacks, watched],
        logger=MetricsCSV(run.metrics), default_root_dir=folder, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0, val_check_interval=99,
        use_distributed_sampler=False, **trainer,
    ).fit(RandomizedSFTStage(blueprint), datamodule=data)  # fmt: skip
    return watched, run


def events(run: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.events.read_text().splitlines()]


def test_training_is_the_same_with_evaluations_and_without(tmp_path: Path) -> None:
    evaluate = Evaluate(("tiny", "tasks=simple_spelling"), every_n_steps=2, max_per_task=2)
    plain, evaluated = fit(tmp_path / "a")[0], fit(tmp_path / "b", evaluate)
    for before, after in zip(plain.seen, evaluated[0].seen, strict=True):
        assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1]) and before[2] and after[2]
    run = evaluated[1]
    results = run.read_evaluations()
    assert {suite: list(steps) for suite, steps in results.items()} == {
        "tiny": ["2", "3"],
        "simple_spelling": ["2", "3"],
    }
    tiny = results["tiny"]["3"]
    assert [task["count"] for task in tiny["tasks"]] == [2] * 5 and tiny["max_per_task"] == 2
    row = run.read_summary()["evaluations"]["tiny"]
    assert row == {"step": 3} | {name: tiny[name] for name in ("metric", "value", "standard_error")}
    metrics = run.read_metrics()
    assert metrics["eval/tiny"] == [(2, results["tiny"]["2"]["value"]), (3, tiny["value"])]
    assert metrics["eval/tiny/standard_error"][-1] == (3, tiny["standard_error"])
    assert "eval/tiny/tiny_math" in metrics and "eval/simple_spelling" in metrics
    assert [(e["event"], e["suite"], e["step"]) for e in events(run)] == [
        ("evaluation", suite, step) for step in (2, 3) for suite in ("tiny", "simple_spelling")
    ]


def test_the_model_that_a_stage_begins_with_is_scored_where_it_has_not_been(tmp_path: Path) -> None:
    def steps_of(name: str, parent: Path | None) -> list[str]:
        run = fit(tmp_path / name, Evaluate(("tasks=tiny_sums",), None, 2, before_first_step=True), parent=parent)[1]
        return list(run.read_evaluations()["tiny_sums"])

    assert steps_of("first", tmp_path / "unknown/model") == ["0", "3"]
    assert steps_of("second", tmp_path / "first/model") == ["3"]


def test_what_cannot_be_fetched_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nowhere = str(tmp_path / "nowhere")
    evaluate = Evaluate(("core", "chat", "tasks=tiny_sums"), None, 2, bundle=nowhere, tasks_path=nowhere)
    watched, run = fit(tmp_path / "run", evaluate)
    assert len(watched.seen) == 3 and run.read_evaluations().keys() == {"tiny_sums"}
    failed = [(event["suite"], event["step"]) for event in events(run) if event["event"] == "evaluation_failed"]
    assert failed == [("core", 0), ("chat", 0)]
    assert f"The evaluation core is left out; training goes on. {nowhere} holds no CORE tasks" in caplog.text


class Broken:
    """A suite that draws random numbers, scores a task, and may fail in the next one."""

    name = "broken"

    def __init__(self, fails: bool = True):
        self._fails = fails

    def prepare(self) -> None:
        """Nothing is missing."""

    def count(self, model: Any, tokenizer: Any, watch: Any, *share: int) -> Iterator[TaskScore]:
        torch.rand(3)
        yield TaskScore("done", 1, 1, 0.0)
        if self._fails:
            raise ZeroDivisionError("division by zero")
        yield TaskScore("done too", 1, 1, 0.0)

    def score(self, tasks: Any) -> SuiteScore:
        raise AssertionError("it has no score")


def test_a_suite_that_fails_is_reported_and_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain, _ = fit(tmp_path / "plain")
    evaluate = Evaluate(("tasks=tiny_sums",), 1, 1)
    evaluate._suites.insert(0, Broken())  # type: ignore[arg-type]
    watched, run = fit(tmp_path / "broken", evaluate)
    for before, after in zip(plain.seen, watched.seen, strict=True):
        assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1]) and after[2]
    failed = [event for event in events(run) if event["event"] == "evaluation_failed"]
    assert [(event["suite"], event["step"]) for event in failed] == [("broken", step) for step in (1, 2, 3)]
    assert failed[0]["error"] == "ZeroDivisionError: division by zero"
    assert "failed after step 1; training goes on" in caplog.text and "failed after step 3. Zero" in caplog.text
    assert list(run.read_evaluations()["tiny_sums"]) == ["1", "2", "3"]


def test_what_cannot_be_recorded_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Unwritten(Evaluate):
        def _record(self, *_: Any) -> None:
            raise OSError("no space")

    watched, run = fit(tmp_path, Unwritten(("tasks=tiny_sums",), 1, 1))
    assert len(watched.seen) == 3 and [event["step"] for event in events(run)] == [1, 2, 3]
    assert "could not be recorded after step 1" in caplog.text


def test_what_was_measured_beyond_the_checkpoint_is_forgotten(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.record_evaluation("tiny", 0, {"value": 0.5})
    run.record_evaluation("tiny", 9, {"value": 0.7})
    fit(tmp_path, Evaluate())
    assert list(run.read_evaluations()["tiny"]) == ["0"]
    assert run.read_summary()["evaluations"]["tiny"]["value"] == 0.5


class Signal(Callback):
    """Sends a signal to the own process when an evaluation after the given step is under way."""

    def __init__(self, step: int, suite: str, kind: signal.Signals = signal.SIGTERM):
        self._step, self._suite, self._kind = step, suite, kind

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        callbacks = [callback for callback in trainer.callbacks if isinstance(callback, Evaluate)]
        (suite,) = (suite for callback in callbacks for suite in callback._suites if suite.name == self._suite)
        count = suite.count

        def count_and_signal(*arguments: Any) -> Iterator[TaskScore]:
            if trainer.global_step == self._step:
                signal.raise_signal(self._kind)
            yield from count(*arguments)

        suite.count = count_and_signal  # type: ignore[method-assign]


def test_a_signal_breaks_an_evaluation_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Interrupted, match="after step 2") as stopped, caplog.at_level("INFO"):
        fit(tmp_path, Evaluate(("tasks=tiny_sums",), 1, 2), Signal(1, "tiny_sums"), SaveOnSignal())
    assert stopped.value.exit_code == 143 and not RunFolder(tmp_path).read_evaluations()
    assert "after step 1 was broken off" in caplog.text


def test_a_signal_in_the_evaluation_at_the_end_says_how_to_make_up_for_it(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    evaluate = Evaluate(("tasks=tiny_sums,tiny_letters",), None, 2)
    with pytest.raises(Interrupted, match="in the evaluation after the last step, 3") as stopped:
        fit(tmp_path / "run", evaluate, Signal(3, "tiny_letters", signal.SIGINT), SaveOnSignal())
    assert stopped.value.exit_code == 130 and signal.getsignal(signal.SIGINT) == before
    assert list(RunFolder(tmp_path / "run").read_evaluations()) == ["tiny_sums"]
    command = f"python -m nanochat_pl eval {os.path.relpath(tmp_path / 'run')} --suite tasks=tiny_letters"
    assert f"`{command} --max-per-task 2`" in str(stopped.value)


def test_validation_and_checkpoint_of_a_step_come_before_its_evaluation(tmp_path: Path) -> None:
    class Seen(Callback):
        def on_train_batch_end(self, trainer: Trainer, *rest: object) -> None:
            assert str(trainer.global_step) not in RunFolder(tmp_path).read_evaluations().get("tiny_sums", {})

    _, run = fit(tmp_path, Evaluate(("tasks=tiny_sums",), 1, 2), Seen())
    assert list(run.read_evaluations()["tiny_sums"]) == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"suites": ["tiny"], "every_n_steps": 0}, "callbacks.evaluate.every_n_steps is 0"),
        ({"suites": ["tiny"], "max_per_task": 0}, "max_per_task is 0"),
        ({"suites": ["bpb"]}, "every validation measures"),
        ({"suites": ["tinny"]}, "did you mean 'tiny'"),
    ],
)
def test_mistakes_are_known_at_once(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call_checked(Evaluate, arguments, "callbacks.evaluate")


@pytest.mark.slow
def test_two_processes(tmp_path: Path, test_data: Path) -> None:
    """They share the questions, leave out the same, and a failure or a signal of one is that of both."""
    results = run_together(2, "-m", "tests.callbacks.two_processes", str(tmp_path / "two"), str(test_data / "hub"))
    assert [result.returncode for result in results] == [143, 143], results
    run = RunFolder(tmp_path / "two")
    evaluations = run.read_evaluations()
    assert {suite: list(steps) for suite, steps in evaluations.items()} == {
        "arc_challenge": ["2", "3"],
        "tiny_sums": ["2"],
    }
    failed = [(event["suite"], event["step"]) for event in events(run) if event["event"] == "evaluation_failed"]
    assert failed == [("arc_easy", 0), ("broken", 2), ("broken", 3)]
    assert "The evaluation broken failed after step 2" in "".join(result.stderr for result in results)
    alone = fit(tmp_path / "one", Evaluate(("tasks=arc_challenge",), 2, 40, tasks_path=str(test_data / "hub")))[1]
    for step, expected in alone.read_evaluations()["arc_challenge"].items():
        found = evaluations["arc_challenge"][step]
        assert found["tasks"] == expected["tasks"] and 0 < found["tasks"][0]["correct"] < 40
    assert run.read_metrics()["eval/arc_challenge"] == alone.read_metrics()["eval/arc_challenge"]


@pytest.mark.slow
def test_a_run_killed_in_its_last_evaluation_gets_it_when_it_goes_on(tmp_path: Path) -> None:
    options = (*SMALL, "data.num_documents=512", "horizon.steps=8", "callbacks.evaluate.suites=[tiny]")
    options = (*options, "callbacks.evaluate.max_per_task=2")
    kill = ("+callbacks.kill._target_=tests.faults.KillInEvaluation", "+callbacks.kill.signal_name=SIGKILL")
    run = RunFolder(tmp_path / "test/base")
    code, _ = train(*options, *kill, runs=tmp_path)
    assert code == -9 and not run.read_evaluations()
    before = run.read_summary()
    code, output = train(*options, runs=tmp_path)
    assert code == 0 and "Going on from step 8" in output and "step 8 tiny: mean accuracy" in output, output
    summary = run.read_summary()
    assert list(run.read_evaluations()["tiny"]) == ["8"] and summary["status"] == "finished"
    assert summary["wall_seconds"] > before["wall_seconds"]
    assert summary["seconds_to_first_step"] == before["seconds_to_first_step"]


@pytest.mark.slow
def test_a_signal_in_the_last_evaluation_stops_a_sweep(tmp_path: Path) -> None:
    options = (*SMALL, "data.num_documents=512", "horizon.steps=8", "callbacks.evaluate.suites=[tiny]")
    interrupt = ("+callbacks.kill._target_=tests.faults.KillInEvaluation", "+callbacks.kill.signal_name=SIGINT")
    code, output = train("-m", "seed=1,2", *options, *interrupt, runs=tmp_path)
    assert code == 130 and "python -m nanochat_pl eval" in output and "--suite tiny" in output, output
    (summary,) = tmp_path.glob("*/base/summary.json")
    assert json.loads(summary.read_text())["status"] == "interrupted"


@pytest.mark.slow
def test_a_run_with_evaluations_has_the_losses_of_one_without(tmp_path: Path) -> None:
    options = (*SMALL, "data.num_documents=512", "horizon.steps=8")
    suites = ("callbacks.evaluate.suites=[tiny,core]", "callbacks.evaluate.every_n_steps=3")
    few = ("callbacks.evaluate.max_per_task=2", f"callbacks.evaluate.bundle={REPOSITORY}/nowhere")
    for name, more in (("plain", ()), ("evaluated", (*suites, *few))):
        code, output = train(*options, *more, runs=tmp_path / name)
        assert code == 0, output
    plain, evaluated = (losses(tmp_path / name / "test/base") for name in ("plain", "evaluated"))
    kept = {step: {k: v for k, v in row.items() if not k.startswith("eval/")} for step, row in evaluated.items()}
    assert kept == plain and "eval/tiny" in evaluated["6"] and "core is left out" in output
