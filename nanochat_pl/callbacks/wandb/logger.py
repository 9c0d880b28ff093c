"""`logger=wandb`."""

import contextlib
import logging
import os
from dataclasses import dataclass
from typing import Annotated, Any, Self

from lightning.pytorch.utilities import rank_zero_only

from nanochat_pl.callbacks.metrics_csv import RunFolderLogger
from nanochat_pl.callbacks.optional import needed
from nanochat_pl.callbacks.wandb.account import Account
from nanochat_pl.callbacks.wandb.mirror import Mirror
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.core.spec import Positive, Spec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WandbSpec(Spec):
    """`logger=wandb`.

    Attributes:
        project: None: WANDB_PROJECT, else nanochat-pl.
        entity: the team or account; None: WANDB_ENTITY, else the account's own.
        group: of runs at W&B; None: WANDB_RUN_GROUP, else none.
        artifact: the model goes to W&B when the training has finished.
        wait_seconds: for W&B to answer at the beginning, and to take what is left at the end.
    """

    project: str | None = None
    entity: str | None = None
    group: str | None = None
    artifact: bool = True
    wait_seconds: Annotated[float, Positive] = 60.0

    def check(self) -> None:
        needed("wandb", "logger=wandb", extra="wandb")
        Account.here()

    def build(self, run: RunFolder, resumed_step: int | None) -> "WandbLogger":
        account = Account.here()
        if account.mode == "disabled":
            log.info("W&B is switched off. %s", account.why)
            return WandbLogger(None)
        project = self.project or os.environ.get("WANDB_PROJECT") or "nanochat-pl"
        options = {"project": project, "entity": self.entity, "group": self.group}
        return WandbLogger(Mirror(run, account, options, self.artifact, self.wait_seconds))


class WandbLogger(RunFolderLogger, contextlib.AbstractContextManager["WandbLogger"]):
    """Mirrors the run folder to W&B while inside; nothing is given to it directly.

    Args:
        mirror: None where W&B is switched off.
    """

    def __init__(self, mirror: Mirror | None):
        super().__init__()
        self._mirror = mirror

    def __enter__(self) -> Self:
        if self._mirror is not None:
            rank_zero_only(self._mirror.start)()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._mirror is not None:
            rank_zero_only(self._mirror.end)(error)
