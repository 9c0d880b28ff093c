"""Evaluations in training; one that fails is reported, and training goes on."""

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.seed import isolate_rng

from nanochat_pl.callbacks.cadence import finished, stepped
from nanochat_pl.callbacks.metrics import LogMetrics
from nanochat_pl.callbacks.shutdown import SaveOnSignal
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.evals.core import TaskScore
from nanochat_pl.evals.suites import Suite, SuiteScore, build_suites

log = logging.getLogger(__name__)


class Evaluate(Callback):
    """Scores suites at the end of training, and every so many steps; what they need is fetched before the first step.

    Results go to metrics.csv (eval/NAME), evaluations.json and summary.json. Training is bit for bit what it is without
    them: the random state is given back, and no weight is touched. Each process takes its share of the questions.

    Args:
        suites: core, chat, tiny, tasks=NAME,NAME...; bits per byte are measured in validation anyway.
        every_n_steps: None: at the end only.
        max_per_task: questions of each task at most; None: all.
        bundle: the folder of CORE's tasks; None: downloaded once.
        tasks_path: a folder with the tasks' data sets, laid out as on the hub; None: the hub.
    """

    def __init__(
        self,
        suites: tuple[str, ...] = (),
        every_n_steps: int | None = None,
        max_per_task: int | None = None,
        bundle: str | None = None,
        tasks_path: str | None = None,
    ):
        if every_n_steps is not None and every_n_steps < 1:
            raise UserError(f"callbacks.evaluate.every_n_steps is {every_n_steps}; it must be at least 1, or null.")
        if "bpb" in suites:
            raise UserError(
                "callbacks.evaluate.suites names bpb, which every validation measures (val/bpb). Leave it out here."
            )
        self._suites = build_suites(suites, max_per_task=max_per_task, bundle=bundle, tasks_path=tasks_path)
        self._every_n_steps, self._max_per_task = every_n_steps, max_per_task

    def on_fit_start(self, trainer: Trainer, stage: Any) -> None:
        """Fetch and check what the suites need; those that cannot be had are left out."""
        with isolate_rng():
            self._suites = [suite for suite in self._suites if self._is_prepared(trainer, suite)]

    def on_train_start(self, trainer: Trainer, stage: Any) -> None:
        if trainer.is_global_zero:
            RunFolder(trainer.default_root_dir).drop_evaluations(after=trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        due = self._every_n_steps is not None and trainer.global_step % self._every_n_steps == 0
        if due and stepped(trainer) and not finished(trainer):
            self._evaluate(trainer, stage)

    def on_train_end(self, trainer: Trainer, stage: Any) -> None:
        if finished(trainer):  # after the last checkpoint
            self._evaluate(trainer, stage)

    def _is_prepared(self, trainer: Trainer, suite: Suite) -> bool:
        try:
            suite.prepare()
            error = None
        except Exception as caught:
            error = caught
        return self._went_well(trainer, suite, "is left out", error)

    def _evaluate(self, trainer: Trainer, stage: Any) -> None:
        started, was_training = time.perf_counter(), stage.model.training
        stage.model.eval()
        with isolate_rng():
            try:
                for suite in self._suites:
                    self._score(trainer, stage, suite)
            except _Stopped:
                log.info("The evaluation after step %d was broken off by a signal.", trainer.global_step)
        stage.model.train(was_training)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, LogMetrics):
                callback.leave_out(time.perf_counter() - started)

    def _score(self, trainer: Trainer, stage: Any, suite: Suite) -> None:
        started, counted, error = time.perf_counter(), [], None
        watch = _stopping_on_signal(trainer)
        try:
            tokenizer = stage.blueprint.tokenizer
            counted = suite.count(stage.model, tokenizer, watch, trainer.global_rank, trainer.world_size)
        except Exception as caught:
            error = caught
        if not self._went_well(trainer, suite, f"failed after step {trainer.global_step}", error):
            return
        sums = torch.tensor([[task.correct, task.count] for task in counted], device=trainer.strategy.root_device)
        sums = trainer.strategy.reduce(sums, reduce_op="sum")
        pairs = zip(counted, sums.tolist())
        tasks = [TaskScore(own.label, correct, count, own.baseline) for own, (correct, count) in pairs]
        try:
            self._record(trainer, suite.score(tasks), time.perf_counter() - started)
        except Exception as caught:
            _report(trainer, suite, f"could not be recorded after step {trainer.global_step}", caught)

    def _record(self, trainer: Trainer, score: SuiteScore, seconds: float) -> None:
        if not trainer.is_global_zero:
            return
        step, run = trainer.global_step, RunFolder(trainer.default_root_dir)
        for logger in trainer.loggers:
            logger.log_metrics(score.metrics(), step=step)
        facts = {
            "max_per_task": self._max_per_task,
            "device": trainer.strategy.root_device.type,
            "seconds": round(seconds, 2),
        }
        run.record_evaluation(score.suite, step, score.as_dict() | facts, score.row())
        run.record_event("evaluation", suite=score.suite, step=step, **score.row())
        parts = "".join(f", {task.label} {task.accuracy:.3f}" for task in score.tasks if len(score.tasks) > 1)
        value = f"{score.value:.4f} ± {score.standard_error:.4f}"
        log.info("step %d %s: %s %s%s (%.1f s)", step, score.suite, score.metric, value, parts, seconds)

    def _went_well(self, trainer: Trainer, suite: Suite, what: str, error: Exception | None) -> bool:
        """Whether no process met an error: all go on with the suite, or none does."""
        if error is not None:
            _report(trainer, suite, what, error)
        failed = torch.tensor(int(error is not None), device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(failed, reduce_op="sum")) == 0


class _Stopped(BaseException):
    """A signal came during an evaluation."""


def _stopping_on_signal(trainer: Trainer) -> Callable[[str, float], None]:
    """A watch that breaks an evaluation off when the training is asked to end; alone, for others would wait."""
    asked = [callback for callback in trainer.callbacks if isinstance(callback, SaveOnSignal)]  # type: ignore[attr-defined]

    def watch(label: str, share: float) -> None:
        if trainer.world_size == 1 and any(callback.is_asked for callback in asked):
            raise _Stopped

    return watch


def _report(trainer: Trainer, suite: Suite, what: str, error: Exception) -> None:
    known = hasattr(error, "exit_code")
    reason = str(error) if known else f"{type(error).__name__}: {error}"
    log.warning("The evaluation %s %s; training goes on. %s", suite.name, what, reason, exc_info=not known and error)
    with contextlib.suppress(OSError):
        run = RunFolder(trainer.default_root_dir)
        run.record_event("evaluation_failed", suite=suite.name, step=trainer.global_step, error=reason)
