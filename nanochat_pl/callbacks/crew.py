"""The guard around callbacks and loggers: one that fails is switched off, loudly, and the training goes on."""

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers.logger import Logger

from nanochat_pl.core.errors import DivergedError, Interrupted, MachineError, UserError
from nanochat_pl.core.findings import Finding, announce
from nanochat_pl.core.paths import is_disk_error
from nanochat_pl.core.run_folder import RunFolder

log = logging.getLogger(__name__)

LOGGER_CALLS = ("log_metrics", "log_hyperparams", "log_graph", "save", "after_save_checkpoint", "finalize")
CALLBACK_CALLS = [name for name in dir(Callback) if name.startswith("on_")]
CALLBACK_CALLS += ["setup", "teardown", "state_dict", "load_state_dict"]
BEFORE_TRAINING = ("setup", "on_fit_start", "on_train_start", "log_hyperparams", "load_state_dict")
VERDICTS = (DivergedError, Interrupted)
"""What a callback says about the training, not a fault of its own."""

Part = TypeVar("Part", bound=Callback | Logger)


def guarded(part: Part, run: RunFolder) -> Part:
    """The same callback or logger, whose errors no longer end the training.

    After an error it is switched off; not after one of the disk, which may have room again at the next call. What it
    says about the training goes through, and a user's mistake, until the first step. A callback whose class has
    `ends_training = True`, a safety check, is left as it is.
    """
    if not getattr(part, "ends_training", False):
        guard = _Guard(type(part).__name__, run)
        for name in CALLBACK_CALLS if isinstance(part, Callback) else LOGGER_CALLS:
            inherited = getattr(Callback if isinstance(part, Callback) else Logger, name, None)
            if getattr(type(part), name, None) is not inherited:
                setattr(part, name, guard.around(getattr(part, name)))
    return part


class _Guard:
    def __init__(self, name: str, run: RunFolder):
        self._name, self._run, self._step = name, run, 0
        self._is_off = False
        self._is_inside = False  # one hook may call another: the error belongs to the outer one
        self._disk_failed_in: str | None = None

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """A call that returns None where it fails, or is switched off."""

        @functools.wraps(call)
        def guarded_call(*args: Any, **kwargs: Any) -> Any:
            if self._is_inside:
                return call(*args, **kwargs)
            if self._is_off:
                return None
            if args and isinstance(args[0], Trainer):
                self._step = args[0].global_step
            elif isinstance(kwargs.get("step"), int):
                self._step = kwargs["step"]
            self._is_inside = True
            try:
                result = call(*args, **kwargs)
            except VERDICTS:
                raise
            except Exception as error:
                if isinstance(error, UserError) and call.__name__ in BEFORE_TRAINING:
                    raise
                self._failed(call.__name__, error)
                return None
            finally:
                self._is_inside = False
            if self._disk_failed_in == call.__name__:
                self._disk_failed_in = None
            return result

        return guarded_call

    def _failed(self, call: str, error: Exception) -> None:
        if _is_of_disk(error):
            if self._disk_failed_in is None:
                self._disk_failed_in = call
                announce(self._run, disk_full(self._name, self._step, error))
            return
        self._is_off = True
        known = hasattr(error, "exit_code")
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        if not known:
            log.warning("%s failed in %s:", self._name, call, exc_info=error)
        announce(
            self._run,
            Finding(
                "callback_disabled",
                self._step,
                f"{self._name} failed in {call} and is switched off; the training goes on without it.",
                "Correct it, or leave it out with callbacks.NAME=null (logger.NAME=null); it is on again when the run "
                "is resumed.",
                severity="error",
                evidence={"callback": self._name, "error": reason},
            ),
        )


def disk_full(name: str, step: int, error: Exception) -> Finding:
    """That something could not be written, and is tried again."""
    return Finding(
        "disk_full",
        step,
        f"{name} could not write; the training goes on, and it is tried again.",
        "Free some space; a checkpoint that cannot be written ends the training.",
        severity="error",
        evidence={"callback": name, "error": str(error)},
    )


def _is_of_disk(error: Exception) -> bool:
    if isinstance(error, MachineError) and isinstance(error.__cause__, Exception):
        return is_disk_error(error.__cause__)
    return is_disk_error(error)
