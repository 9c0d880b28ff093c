"""`logger=tensorboard`: the metrics as TensorBoard reads them, in the run folder's `tensorboard/`."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from nanochat_pl.callbacks.optional import needed
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.core.spec import Spec


@dataclass(frozen=True)
class TensorBoardSpec(Spec):
    """`logger=tensorboard`."""

    def check(self) -> None:
        needed("tensorboard", "logger=tensorboard", extra="tensorboard")

    def build(self, run: RunFolder, resumed_step: int | None) -> "TensorBoard":
        return TensorBoard(run, resumed_step)


class TensorBoard(TensorBoardLogger):
    """Lightning's, whose readers forget, of an invocation before, the steps that are trained again.

    What a full disk has no room for is kept, and written to another file at the next checkpoint.
    """

    def __init__(self, run: RunFolder, resumed_step: int | None):
        purge_step = 0 if resumed_step is None else resumed_step + 1
        super().__init__(run.path, name="tensorboard", version="", purge_step=purge_step)
        self._unsaved: list[tuple[dict[str, float], int | None]] = []
        self._has_failed = False

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The run folder's config.yaml and resolved.json hold them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        figures = {name: value for name, value in metrics.items() if name != "epoch"}
        self._unsaved.append((figures, step))
        if not self._has_failed:
            with self._writing():
                super().log_metrics(figures, step)

    @rank_zero_only
    def save(self) -> None:
        with self._writing():
            if self._has_failed:
                for figures, step in self._unsaved:
                    super().log_metrics(figures, step)
            self.experiment.flush()
        self._unsaved.clear()
        self._has_failed = False

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            cause = error.__cause__ or error  # which Lightning wraps
            if isinstance(cause, OSError):  # TensorBoard's writer never recovers from it
                self._experiment, self._has_failed = None, True
                self._kwargs["purge_step"] = self._unsaved[0][1] if self._unsaved else None
            raise cause from None
