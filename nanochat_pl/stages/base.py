"""Base pretraining: every token of a document is predicted from those before it."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from nanochat_pl.core.spec import Spec
from nanochat_pl.core.types import StepBatch
from nanochat_pl.stages.stage import Blueprint, Stage


class BaseStage(Stage):
    """Next-token prediction; every target counts the same."""

    def loss(self, batch: StepBatch) -> Tensor:
        return self.model(batch.inputs, batch.targets)


@dataclass(frozen=True)
class BaseStageSpec(Spec):
    """`stage=base`."""

    name: Literal["base"] = "base"

    trains_on: ClassVar[str] = "text"

    def find_parent(self, *_: object) -> None:
        """The first stage begins with nothing."""

    def build(self, blueprint: Blueprint) -> BaseStage:
        return BaseStage(blueprint)
