"""Midtraining and supervised fine-tuning: conversations, after base pretraining."""

from dataclasses import dataclass
from typing import Literal

from nanochat_pl.stages.base import BaseStage
from nanochat_pl.stages.stage import Blueprint
from nanochat_pl.stages.warm_start import LaterStageSpec


class MidStage(BaseStage):
    """Base's objective on conversations; the BOS between two of them is not learned."""

    is_chat = True


class SFTStage(BaseStage):
    """The loss on what the assistant says; conversations that share a row don't see each other."""

    is_chat = True

    def __init__(self, blueprint: Blueprint):
        super().__init__(blueprint, mask_documents=True)


@dataclass(frozen=True)
class MidStageSpec(LaterStageSpec):
    """`stage=mid`.

    Attributes:
        mask_documents: conversations that share a row don't see each other; nanochat lets them.
    """

    name: Literal["mid"] = "mid"
    momentum: bool = True
    mask_documents: bool = False

    def build(self, blueprint: Blueprint) -> MidStage:
        return MidStage(blueprint, self.mask_documents)


@dataclass(frozen=True)
class SFTStageSpec(LaterStageSpec):
    """`stage=sft`."""

    name: Literal["sft"] = "sft"

    def build(self, blueprint: Blueprint) -> SFTStage:
        return SFTStage(blueprint)
