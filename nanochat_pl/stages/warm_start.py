"""Beginning with what an earlier stage has made."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from nanochat_pl.checkpoint.parent import Parent, find_parent
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.core.spec import Spec
from nanochat_pl.models.contract import build_config

OWN_MODEL = ("model.", "model=", "tokenizer.", "tokenizer=")
"""Overrides by which a run has another model than its recipe's run."""
OF_EVERY_STAGE = ("recipe=", "experiment=", "hw.", "hw=", "streaming.", "seed=", "run.name=")
MAY_DIFFER = ("compute_dtype", "vocab_size", "sequence_len", "dropout")
"""Options of a model's config that a stage may change of the model that it begins with."""
MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")
"""What optimizers keep in the shape of the parameter."""


@dataclass(frozen=True)
class LaterStageSpec(Spec):
    """What every stage can be told that begins with a model.

    Attributes:
        init_from: the model to begin with: a run, a stage of a run, a model folder, or a model of Hugging Face
            (hf:REPOSITORY or its folder); None: the earlier stage's.
        sequence_len: of the context; None: the model's own.
        dropout: likewise.
        momentum: begin with the optimizer's state too, where the earlier stage's last checkpoint is there.
    """

    name: str = ""
    init_from: str | None = None
    sequence_len: int | None = None
    dropout: float | None = None
    momentum: bool = False

    trains_on: ClassVar[str] = "conversations"

    def changes(self) -> dict[str, Any]:
        """Of the model's config."""
        given = {"sequence_len": self.sequence_len, "dropout": self.dropout}
        return {name: value for name, value in given.items() if value is not None}

    def find_parent(
        self, run: RunFolder, recipe_name: str, overrides: Sequence[str], resumed: bool = False
    ) -> Parent | None:
        """The model to begin with: the nearest earlier stage's in this run, or in that of the experiment or recipe.

        Args:
            resumed: the run goes on; it needs nothing but its own model then, where that is there.

        Raises:
            UserError: there is none.
        """
        if resumed and (run.model / "model.json").exists():
            return Parent(run.model, self.name, resumed=True, changes=self.changes())
        named = [override.removeprefix("experiment=") for override in overrides if override.startswith("experiment=")]
        names = [run.path.parent.name]
        if not any(override.startswith(OWN_MODEL) for override in overrides):
            names += named or [recipe_name]
        kept = [override for override in overrides if override.startswith((*OWN_MODEL, *OF_EVERY_STAGE))]
        stages = ["-m", "stage=base,sft"] if self.name == "rl" else []
        command = shlex.join(["python", "train.py", *stages, *kept])
        return find_parent(self.name, list(dict.fromkeys(names)), self.init_from, command, self.changes())


def load_momentum(optimizer: torch.optim.Optimizer, checkpoint: Path, model: Any) -> None:
    """Give an optimizer the state that another run's checkpoint holds; its own rates and decays stay.

    Tables may have gained or lost rows, of tokens or positions: the moments of new ones are zeros.

    Args:
        model: the config of the optimizer's model.

    Raises:
        UserError: the checkpoint is of another model, or of other matrices with low-rank gradients.
    """
    own = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    before = build_config(saved["nanochat_pl"]["architecture"], saved["nanochat_pl"]["model"])
    if type(before) is not type(model):
        differing = ["architecture"]
    else:
        both = zip(before.as_dict().items(), model.as_dict().values())
        differing = [key for (key, old), new in both if key not in MAY_DIFFER and old != new]
    if differing:
        raise UserError(
            f"{checkpoint} holds the optimizer's state of another model than lies beside it: they differ in "
            f"{', '.join(differing)}. Begin without it: stage.momentum=false."
        )
    state = saved["optimizer_states"][0]
    names, saved_names = (
        {name for group in groups for name in group["param_names"]} for groups in (own, state["param_groups"])
    )
    if names != saved_names:
        raise UserError(
            f"{checkpoint} holds the optimizer's state of other parameters: streaming.enabled, streaming.target_layers "
            f"or streaming.min_size were others (it differs in {', '.join(sorted(names ^ saved_names)[:3])}). Take "
            "those of the stage before, or begin without its momentum: stage.momentum=false."
        )
    shapes = {
        name: p.shape for group in optimizer.param_groups for name, p in zip(group["param_names"], group["params"])
    }
    for group in state["param_groups"]:
        for index, name in zip(group["params"], group["param_names"]):
            moments = state["state"].get(index, {})
            moments |= {key: _of_rows(moments[key], shapes[name]) for key in MOMENTS if key in moments}
    optimizer.load_state_dict(state)
    for group, values in zip(optimizer.param_groups, own, strict=True):
        group.update(values)


def _of_rows(moment: Tensor, shape: torch.Size) -> Tensor:
    """With as many rows as `shape`: some less, or more of zeros."""
    if moment.shape == shape or moment.shape[1:] != shape[1:]:
        return moment
    rows = min(len(moment), shape[0])
    return torch.cat((moment[:rows], moment.new_zeros(shape[0] - rows, *shape[1:])))
