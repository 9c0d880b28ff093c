"""Evaluations in training: what they write, that they change nothing, and that none of them ends it."""

import json
import signal
import subprocess
import sys
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
from nanochat_pl.evals import suites
from nanochat_pl.optim.muon import MuonAdamWSpec
from nanochat_pl.optim.scaling import Horizon
from nanochat_pl.optim.schedules import ScheduleSpec
from nanochat_pl.stages.stage import Blueprint
from tests.processes import REPOSITORY, SMALL, losses, train
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
    folder: Path, *callbacks: Callback, steps: int = 3, rank: int = 0, devices: int = 1, **trainer: Any
) -> tuple[Watched, RunFolder]:
    watched, data = Watched(), data_module(ROWS, rank, devices)
    blueprint = Blueprint(
        CONFIG, MuonAdamWSpec(), ScheduleSpec(), Horizon(steps, ROWS * T, 1, 0.1, 0.1), 1, TOKENIZER, seed=0
    )
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
    assert row == {
        "step": 3,
        "metric": "mean accuracy",
        "value": tiny["value"],
        "standard_error": tiny["standard_error"],
    }
    metrics = run.read_metrics()
    assert metrics["eval/tiny"] == [(2, results["tiny"]["2"]["value"]), (3, tiny["value"])]
    assert "eval/tiny/tiny_math" in metrics and "eval/simple_spelling" in metrics
    assert [(e["event"], e["suite"], e["step"]) for e in events(run)] == [
        ("evaluation", suite, step) for step in (2, 3) for suite in ("tiny", "simple_spelling")
    ]


def test_what_cannot_be_fetched_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nowhere = str(tmp_path / "nowhere")
    evaluate = Evaluate(("core", "chat", "tasks=tiny_sums"), None, 2, bundle=nowhere, tasks_path=nowhere)
    watched, run = fit(tmp_path / "run", evaluate)
    assert len(watched.seen) == 3 and run.read_evaluations().keys() == {"tiny_sums"}
    failed = [(event["suite"], event["step"]) for event in events(run) if event["event"] == "evaluation_failed"]
    assert failed == [("core", 0), ("chat", 0)]
    assert f"The evaluation core is left out; training goes on. {nowhere} holds no CORE tasks" in caplog.text


def test_a_bug_in_an_evaluation_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Evaluate):
        def _record(self, *_: Any) -> None:
            raise ZeroDivisionError("division by zero")

    watched, run = fit(tmp_path, Broken(("tasks=tiny_sums",), 1, 1))
    assert len(watched.seen) == 3
    assert [event["step"] for event in events(run)] == [1, 2, 3]
    assert "ZeroDivisionError" in events(run)[0]["error"] and "could not be recorded after step 1" in caplog.text


def test_what_was_measured_beyond_the_checkpoint_is_forgotten(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.record_evaluation("tiny", 0, {"value": 0.5}, {"value": 0.5})
    run.record_evaluation("tiny", 9, {"value": 0.7}, {"value": 0.7})
    fit(tmp_path, Evaluate())
    assert list(run.read_evaluations()["tiny"]) == ["0"]


def test_a_signal_breaks_an_evaluation_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Signal(Callback):
        def on_train_batch_end(self, trainer: Trainer, *rest: object) -> None:
            if trainer.global_step == 2:
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match="after step 2"), caplog.at_level("INFO"):
        fit(tmp_path, Signal(), Evaluate(("tasks=tiny_sums",), 1, 2), SaveOnSignal())
    assert list(RunFolder(tmp_path).read_evaluations()["tiny_sums"]) == ["1"]
    assert "after step 2 was broken off" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((("tiny",), 0), "every_n_steps is 0"),
        ((("tiny",), 1, 0), "max_per_task is 0"),
        ((("bpb",),), "every validation measures"),
        ((("tinny",),), "did you mean 'tiny'"),
    ],
)
def test_mistakes_are_known_at_once(arguments: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Evaluate(*arguments)


@pytest.mark.slow
def test_two_processes_share_the_questions_and_leave_out_the_same(tmp_path: Path, test_data: Path) -> None:
    command = [sys.executable, "-m", "tests.callbacks.two_processes", str(tmp_path), str(test_data / "hub")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=REPOSITORY)
    assert result.returncode == 0, result.stderr[-3000:]
    run = RunFolder(tmp_path)
    evaluations = run.read_evaluations()
    assert {suite: list(steps) for suite, steps in evaluations.items()} == {
        "simple_spelling": ["2", "3"],
        "tiny": ["2", "3"],
    }
    assert [task["count"] for task in evaluations["tiny"]["3"]["tasks"]] == [5] * 5
    (failed,) = [event for event in events(run) if event["event"] == "evaluation_failed"]
    assert failed["suite"] == "arc_easy" and "There is no folder" in failed["error"]
    assert run.read_metrics()["eval/tiny"][-1] == (3, evaluations["tiny"]["3"]["value"])


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
