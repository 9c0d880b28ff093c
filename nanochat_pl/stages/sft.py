"""Midtraining and supervised fine-tuning: conversations, after base pretraining."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from nanochat_pl.core.types import StepBatch
from nanochat_pl.stages.base import BaseStage
from nanochat_pl.stages.stage import Blueprint, Stage
from nanochat_pl.stages.warm_start import LaterStageSpec


class MidStage(BaseStage):
    """Base's objective on conversations; the BOS between two of them is not learned."""

    every_target_counts = False
    is_chat = True


class SFTStage(Stage):
    """The loss on what the assistant says; conversations that share a row don't see each other."""

    every_target_counts = False
    is_chat = True

    def loss(self, batch: StepBatch) -> Tensor:
        return self.model(batch.inputs, batch.targets, documents=self._conversations(batch))

    def token_losses(self, batch: StepBatch) -> Tensor:
        documents = self._conversations(batch)
        return self.model.forward(batch.inputs, batch.targets, documents=documents, reduction="none")

    def _conversations(self, batch: StepBatch) -> Tensor:
        """(B, T) the number of each token's conversation in its row; padding is a conversation a token."""
        return (batch.inputs == self.blueprint.tokenizer.bos_id).cumsum(dim=1)


@dataclass(frozen=True)
class MidStageSpec(LaterStageSpec):
    """`stage=mid`."""

    name: Literal["mid"] = "mid"
    momentum: bool = True

    def build(self, blueprint: Blueprint) -> MidStage:
        return MidStage(blueprint)


@dataclass(frozen=True)
class SFTStageSpec(LaterStageSpec):
    """`stage=sft`."""

    name: Literal["sft"] = "sft"

    def build(self, blueprint: Blueprint) -> SFTStage:
        return SFTStage(blueprint)
