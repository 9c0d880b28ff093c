"""Evaluations in training; one that fails is reported, and training goes on."""

import contextlib
import logging
import os
import shlex
import signal
import time
from typing import Annotated, Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.seed import isolate_rng

from nanochat_pl.callbacks.cadence import finished
from nanochat_pl.callbacks.hang_watch import unwatched
from nanochat_pl.callbacks.metrics import LogMetrics
from nanochat_pl.callbacks.shutdown import SaveOnSignal
from nanochat_pl.core.errors import Interrupted, UserError
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.core.spec import AtLeast
from nanochat_pl.evals.scores import SuiteScore, TaskScore
from nanochat_pl.evals.suites import SUITES, Suite, build_suites

log = logging.getLogger(__name__)


class Evaluate(Callback):
    """Scores suites at the end of training, and every so many steps; what they need is fetched before the first step.

    Results go to metrics.csv (eval/NAME), evaluations.json and summary.json. Training is bit for bit what it is without
    them: the random state is given back, and no weight is touched. Each process takes its share of the questions. What
    falls on the same step, such as a validation and a checkpoint, comes first; a suite that has its result of the step
    is not scored again, so that a run that was killed in an evaluation gets what is missing when it goes on.

    Args:
        suites: core, chat, tiny, tasks=NAME,NAME...; bits per byte are measured in validation anyway.
        every_n_steps: None: at the end only.
        max_per_task: questions of each task at most; None: all.
        bundle: the folder of CORE's tasks; None: downloaded once.
        tasks_path: a folder with the tasks' data sets, laid out as on the hub; None: the hub.
        before_first_step: score the model that the stage begins with too, where its own run has no result.

    Raises:
        Interrupted: by a signal in the evaluation at the end; in another one, the training ends at its next step.
    """

    ends_training = True

    def __init__(
        self,
        suites: tuple[str, ...] = (),
        every_n_steps: Annotated[int | None, AtLeast(1)] = None,
        max_per_task: int | None = None,
        bundle: str | None = None,
        tasks_path: str | None = None,
        before_first_step: bool = False,
    ):
        if "bpb" in suites:
            raise UserError(
                "callbacks.evaluate.suites names bpb, which every validation measures (val/bpb). Leave it out here."
            )
        self._suites = build_suites(suites, max_per_task=max_per_task, bundle=bundle, tasks_path=tasks_path)
        self._every_n_steps, self._max_per_task, self._before = every_n_steps, max_per_task, before_first_step
        self._options = {"--max-per-task": max_per_task, "--bundle": bundle, "--tasks-path": tasks_path}
        self._seen_step = -1

    def on_fit_start(self, trainer: Trainer, stage: Any) -> None:
        """Fetch and check what the suites need; those that cannot be had are left out."""
        with isolate_rng():
            self._suites = [suite for suite in self._suites if self._is_prepared(trainer, suite)]

    def on_train_start(self, trainer: Trainer, stage: Any) -> None:
        if trainer.is_global_zero:
            RunFolder(trainer.default_root_dir).drop_evaluations(after=trainer.global_step)

    def on_train_batch_start(self, trainer: Trainer, stage: Any, batch: Any, batch_idx: int) -> None:
        step, before = trainer.global_step, self._seen_step
        self._seen_step = step
        is_due = self._before if step == 0 else self._every_n_steps is not None and step % self._every_n_steps == 0
        if is_due and step != before:
            self._evaluate(trainer, stage)

    def on_fit_end(self, trainer: Trainer, stage: Any) -> None:
        """Comes also where there was nothing left to train."""
        if not finished(trainer):
            return
        stage.model.to(trainer.strategy.root_device)  # which Lightning has taken it from
        asked = self._evaluate(trainer, stage)
        stage.model.cpu()
        if asked is not None:
            raise Interrupted(
                f"Stopped by {asked.name} in the evaluation after the last step, {trainer.global_step}. The model is "
                "trained and saved. Run the same command again for what is missing, or "
                f"`{self._command(trainer, stage)}`.",
                exit_code=128 + asked,
            )

    def _command(self, trainer: Trainer, stage: Any) -> str:
        """What makes the results that are missing."""
        arguments = ["python", "-m", "nanochat_pl", "eval", os.path.relpath(trainer.default_root_dir)]
        for name in self._missing(trainer, stage):
            arguments += ["--suite", name if name in SUITES else f"tasks={name}"]
        for option, value in self._options.items():
            arguments += [option, str(value)] if value is not None else []
        return shlex.join(arguments)

    def _is_prepared(self, trainer: Trainer, suite: Suite) -> bool:
        failed = 0
        try:
            suite.prepare()
        except Exception as error:
            failed = 1
            _report(trainer, suite, "is left out", error)
        return not _over_ranks(trainer, [failed], "max")[0]

    def _missing(self, trainer: Trainer, stage: Any) -> list[str]:
        """The suites that have no result of this step, as the first process finds it."""
        results, step = RunFolder(trainer.default_root_dir).read_evaluations(), str(trainer.global_step)
        missing = [suite.name for suite in self._suites if step not in results.get(suite.name, {})]
        if not trainer.global_step and stage.blueprint.parent:
            earlier = RunFolder(stage.blueprint.parent.parent).read_evaluations()
            missing = [name for name in missing if name not in earlier]
        return trainer.strategy.broadcast(missing)

    def _evaluate(self, trainer: Trainer, stage: Any) -> signal.Signals | None:
        """Score what is missing; returns the signal that broke it off."""
        started, was_training, missing = time.perf_counter(), stage.model.training, self._missing(trainer, stage)
        asked = None
        stage.model.eval()
        try:
            with isolate_rng(), unwatched(trainer):
                try:
                    for suite in self._suites:
                        if suite.name in missing:
                            self._score(trainer, stage, suite)
                except _Stopped as stopped:
                    asked = stopped.by
                    log.info("The evaluation after step %d was broken off by a signal.", trainer.global_step)
        finally:
            stage.model.train(was_training)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, LogMetrics):
                callback.leave_out(time.perf_counter() - started)
        return asked

    def _score(self, trainer: Trainer, stage: Any, suite: Suite) -> None:
        started, tasks = time.perf_counter(), []
        watch = _Watch(trainer)
        counting = suite.count(stage.model, stage.blueprint.tokenizer, watch, trainer.global_rank, trainer.world_size)
        while True:
            # Nothing of an error is kept but that there was one: its traceback would hold what the memory lacked.
            own, failed = None, 0
            try:
                own = next(counting, None)
            except _Stopped:
                pass
            except Exception as error:
                failed = 1
                _report(trainer, suite, f"failed after step {trainer.global_step}", error)
            failed, asked = _over_ranks(trainer, [failed, watch.asked or 0], "max")
            if asked:
                watch.pass_on(signal.Signals(asked))
                raise _Stopped(signal.Signals(asked))
            if failed:
                return
            if own is None:
                break
            correct, count = _over_ranks(trainer, [own.correct, own.count], "sum")
            tasks.append(TaskScore(own.label, correct, count, own.baseline))
        try:
            self._record(trainer, suite.score(tasks), time.perf_counter() - started)
        except Exception as error:
            _report(trainer, suite, f"could not be recorded after step {trainer.global_step}", error)

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
        run.record_evaluation(score.suite, step, score.as_dict() | facts)
        run.record_event("evaluation", suite=score.suite, step=step, value=score.value)
        parts = "".join(f", {task.label} {task.accuracy:.3f}" for task in score.tasks if len(score.tasks) > 1)
        value = f"{score.value:.4f} ± {score.standard_error:.4f}"
        log.info("step %d %s: %s %s%s (%.1f s)", step, score.suite, score.metric, value, parts, seconds)


class _Stopped(BaseException):
    """A signal came during an evaluation."""

    def __init__(self, by: signal.Signals):
        self.by = by


class _Watch:
    """Breaks an evaluation off when this process is asked to end; the others learn of it after the task."""

    def __init__(self, trainer: Trainer):
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        self._asked = [callback for callback in callbacks if isinstance(callback, SaveOnSignal)]

    @property
    def asked(self) -> signal.Signals | None:
        """The signal, where one came."""
        return next((callback.received for callback in self._asked if callback.received), None)

    def pass_on(self, received: signal.Signals) -> None:
        """What another process received ends this one too, at the same step."""
        for callback in self._asked:
            callback.received = received

    def __call__(self, label: str, share: float) -> None:
        if self.asked is not None:
            raise _Stopped(self.asked)


def _over_ranks(trainer: Trainer, numbers: list[int], operation: str) -> list[int]:
    """Each number's sum or maximum over all processes."""
    tensor = torch.tensor(numbers, device=trainer.strategy.root_device)
    return trainer.strategy.reduce(tensor, reduce_op=operation).tolist()


def _report(trainer: Trainer, suite: Suite, what: str, error: Exception) -> None:
    known = hasattr(error, "exit_code")
    reason = str(error) if known else f"{type(error).__name__}: {error}"
    so = "" if finished(trainer) else "; training goes on"
    log.warning("The evaluation %s %s%s. %s", suite.name, what, so, reason, exc_info=not known and error)
    with contextlib.suppress(OSError):
        run = RunFolder(trainer.default_root_dir)
        run.record_event("evaluation_failed", suite=suite.name, step=trainer.global_step, error=reason)
