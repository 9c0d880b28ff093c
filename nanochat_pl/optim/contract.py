"""What the stages and the plan ask of an optimizer's recipe."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from torch import nn
from torch.distributed import ProcessGroup
from torch.optim import Optimizer

from nanochat_pl.core.types import LowRank


class OptimizerSpec(Protocol):
    """A section `optim` as an object.

    The optimizer's groups have a `role`, no two the same, their parameters' names, `lr` and `weight_decay`. Where it
    says `momentum_follows_schedule`, the schedule sets `momentum` and `weight_decay` of the groups with a momentum.

    Attributes:
        is_sharded: the processes of a process group share out work and state; else each does and holds all.
    """

    @property
    def is_sharded(self) -> bool: ...

    def build(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        roles: Mapping[str, str],
        *,
        width: int,
        batch_lr_scale: float = 1.0,
        weight_decay_scale: float = 1.0,
        process_group: ProcessGroup | None = None,
        low_rank: Mapping[str, LowRank] | None = None,
        low_rank_values: Mapping[str, Any] | None = None,
    ) -> Optimizer:
        """The optimizer of these parameters; `low_rank` holds those that have sketches of their gradient only."""

    def state_bytes(self, parameters_by_role: Mapping[str, int], world_size: int) -> int:
        """Of the state that each process keeps."""
