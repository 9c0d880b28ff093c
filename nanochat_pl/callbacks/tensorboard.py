"""`logger=tensorboard`: the metrics as TensorBoard reads them, in the run folder's `tensorboard/`."""

from collections.abc import Mapping
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
    """Lightning's, whose readers forget, of an invocation before, the steps that are trained again."""

    def __init__(self, run: RunFolder, resumed_step: int | None):
        purge_step = 0 if resumed_step is None else resumed_step + 1
        super().__init__(run.path, name="tensorboard", version="", purge_step=purge_step)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The run folder's config.yaml and resolved.json hold them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)

    @rank_zero_only
    def save(self) -> None:
        self.experiment.flush()
