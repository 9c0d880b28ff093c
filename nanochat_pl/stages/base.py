"""Base pretraining: every token of a document is predicted from those before it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from nanochat_pl.checkpoint.parent import Parent
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.core.types import StepBatch
from nanochat_pl.stages.stage import Blueprint, Stage
from nanochat_pl.stages.warm_start import LaterStageSpec


class BaseStage(Stage):
    """Next-token prediction; every target counts the same.

    Args:
        mask_documents: documents that share a row don't see each other.
    """

    def __init__(self, blueprint: Blueprint, mask_documents: bool = False):
        super().__init__(blueprint)
        self.mask_documents = mask_documents

    def on_train_start(self) -> None:
        super().on_train_start()
        self.every_target_counts = not self.trainer.datamodule.marks_learned  # type: ignore[attr-defined]

    def loss(self, batch: StepBatch) -> Tensor:
        return self.model(batch.inputs, batch.targets, documents=self._documents(batch))

    def token_losses(self, batch: StepBatch) -> Tensor:
        return self.model.forward(batch.inputs, batch.targets, documents=self._documents(batch), reduction="none")

    def _documents(self, batch: StepBatch) -> Tensor | None:
        """(B, T) the number of each token's document in its row, if they are to be told apart.

        What stands before a row's first BOS is one, and so is the padding, which is a BOS many times over.
        """
        if not self.mask_documents:
            return None
        begins = batch.inputs == self.blueprint.tokenizer.bos_id
        begins[:, 1:] &= ~begins[:, :-1]
        return begins.cumsum(dim=1)


@dataclass(frozen=True)
class BaseStageSpec(LaterStageSpec):
    """`stage=base`.

    Attributes:
        init_from: None: nothing.
        mask_documents: documents that share a row don't see each other; nanochat lets them.
    """

    name: Literal["base"] = "base"
    mask_documents: bool = False

    trains_on: ClassVar[str] = "text"

    def check(self) -> None:
        if self.init_from is None and (given := self.changes()):
            options = ", ".join(f"stage.{name}={value}" for name, value in given.items())
            raise UserError(
                f"{options} changes the model that stage.init_from names, and none is named. For a new model give "
                f"{', '.join(f'model.{name}' for name in given)} instead (dropout is an option of model=gpt2), or name "
                "one with stage.init_from=RUN_OR_FOLDER."
            )

    def find_parent(
        self, run: RunFolder, recipe_name: str, overrides: Sequence[str], resumed: bool = False
    ) -> Parent | None:
        """The first stage begins with nothing, unless it is told to go on from a model."""
        return super().find_parent(run, recipe_name, overrides, resumed) if self.init_from else None

    def build(self, blueprint: Blueprint) -> BaseStage:
        return BaseStage(blueprint, self.mask_documents)
