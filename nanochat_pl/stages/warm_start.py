"""Beginning with what an earlier stage has made."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from nanochat_pl.checkpoint.parent import Parent, find_parent
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.core.spec import Spec


@dataclass(frozen=True)
class LaterStageSpec(Spec):
    """What every stage behind base can be told.

    Attributes:
        init_from: the model to begin with: a run, a stage of a run, or a model folder; None: the earlier stage's.
        momentum: begin with the optimizer's state too, where the earlier stage's last checkpoint is there.
    """

    name: str = ""
    init_from: str | None = None
    momentum: bool = False

    trains_on: ClassVar[str] = "conversations"

    def find_parent(self, run: RunFolder, recipe_name: str, overrides: Sequence[str]) -> Parent:
        """The model to begin with: the nearest earlier stage's in this run, or in the run that the recipe names.

        Raises:
            UserError: there is none.
        """
        kept = [override for override in overrides if not override.startswith(("stage=", "stage."))]
        command = shlex.join(["python", "train.py", *kept])
        return find_parent(self.name, list(dict.fromkeys((run.path.parent.name, recipe_name))), self.init_from, command)


def load_momentum(optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """Give an optimizer the state that another run's checkpoint holds; its own rates and decays stay.

    Raises:
        UserError: it is of another model.
    """
    own = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    optimizer.load_state_dict(saved["optimizer_states"][0])
    for group, values in zip(optimizer.param_groups, own, strict=True):
        group.update(values)
