"""Trainings by MuonAdamW that one process, or the ranks of a process group, can do alike."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat_pl.core.types import LowRank
from nanochat_pl.optim.muon import MuonAdamWSpec
from nanochat_pl.optim.schedules import ScheduleSpec

RANKS = 4
GROUPS = ([0], [2, 1], [1, 2, 3], [0, 1, 2, 3])
"""Ranks of the whole, in the order that they have in each group."""
Shapes = dict[str, tuple[str, tuple[int, ...]]]
MANY: Shapes = {
    **{f"square{index}": ("matrix", (24, 24)) for index in range(5)},
    **{f"wide{index}": ("matrix", (8, 32)) for index in range(3)},
    **{f"tall{index}": ("matrix", (96, 24)) for index in range(2)},
    **{f"gate{index}": ("matrix", (2, 12)) for index in range(7)},
    "in_blocks": ("matrix", (200, 193)),
    "wte": ("embedding", (1031, 16)),
    "ve0": ("value_embedding", (517, 32)),
    "ve1": ("value_embedding", (517, 32)),
    "small": ("value_embedding", (40, 16)),
    "head": ("unembedding", (1031, 24)),
    "resid": ("resid_scalar", (4,)),
    "x0": ("x0_scalar", (4,)),
    "smear": ("gate", (1,)),
}
"""Shapes and numbers that no number of ranks divides."""
FEW: Shapes = {"only": ("matrix", (12, 20)), "flat": ("embedding", (3, 8192)), "resid": ("resid_scalar", (2,))}
"""Fewer matrices and rows than ranks."""
SKIPPED = {1: ("square1", "wte", "resid", "only"), 2: ("square1", "square3", "wide0", "wide1", "wide2")}
"""step -> parameters without gradient."""


@dataclass(frozen=True)
class Case:
    """A training of six steps with a schedule."""

    name: str
    shapes: Shapes = field(default_factory=lambda: MANY)
    dtype: torch.dtype = torch.float32
    options: dict[str, Any] = field(default_factory=dict)
    streamed: tuple[tuple[int, int], ...] = ()  # matrices with sketches of rank 4, every second of which follows
    scaled: bool = False  # gradients by a GradScaler, those of step 3 not finite


CASES = (
    Case("many"),
    Case("few", FEW),
    Case("streamed", FEW, streamed=((24, 16), (24, 16), (16, 24), (24, 16), (40, 12))),
    Case("bfloat16", dtype=torch.bfloat16),
    Case("clipped", options={"grad_clip": 3.0, "param_clip": 1.5}),
    Case("plain", options={"variance_normalize": False, "cautious": False, "weight_decay": 0.0}),
    Case("scaled", scaled=True),
)
STEPS = 6


class Training:
    """Parameters, their optimizer and schedule."""

    def __init__(self, case: Case, group: dist.ProcessGroup | None = None):
        self.case, self.group = case, group
        generator = torch.Generator().manual_seed(0)
        self.parameters = {
            name: nn.Parameter(torch.randn(shape, generator=generator).to(case.dtype))
            for name, (_, shape) in case.shapes.items()
        }
        roles = {name: role for name, (role, _) in case.shapes.items()}
        self.streamed = {f"streamed{index}": _streamed(index, *shape) for index, shape in enumerate(case.streamed)}
        spec = MuonAdamWSpec(**case.options)
        self.optimizer = spec.build(
            self.parameters.items(), roles, width=768, process_group=group, low_rank=self.streamed,
            low_rank_values={"scaling": "muon", "warm_start_decay": 0.9},
        )  # fmt: skip
        self.schedule = ScheduleSpec(warmup_steps=2, momentum_warmup_steps=3).build(self.optimizer, STEPS)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=256.0, enabled=case.scaled)
        self.scaler.scale(torch.zeros(()))

    def steps(self, steps: range) -> "Training":
        for step in steps:
            for index, (name, parameter) in enumerate(self.parameters.items()):
                generator = torch.Generator().manual_seed(1000 * step + index)
                gradient = torch.randn(parameter.shape, generator=generator) * self.scaler.get_scale()
                if self.case.scaled and step == 3 and name == "wte":
                    gradient[0, 0] = float("inf")
                parameter.grad = None if name in SKIPPED.get(step, ()) else gradient.to(parameter.dtype)
            for index, (_, left, right) in enumerate(self.streamed.values()):
                gradient = self._share(step, index, len(left), len(right))
                left.grad = (gradient @ right.detach()).mT.contiguous().mT  # autograd leaves them in any layout
                right.grad = gradient.mT @ left.detach() if index % 2 else None
            self.scaler.unscale_(self.optimizer)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.schedule.step()
        return self

    def _share(self, step: int, index: int, rows: int, cols: int) -> Tensor:
        """A gradient as this rank's batch has it: the ranks' mean is the same however many they are."""
        generator = torch.Generator().manual_seed(7000 + 1000 * step + index)
        mean, apart = (torch.randn(rows, cols, generator=generator) for _ in range(2))
        rank, size = (0, 1) if self.group is None else (self.group.rank(), self.group.size())
        return mean + (rank - (size - 1) / 2) * apart

    def values(self) -> dict[str, Tensor]:
        values = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        for name, tensors in self.streamed.items():
            values |= {f"{name}.{part}": tensor.detach().clone() for part, tensor in zip(LowRank._fields, tensors)}
        return values

    def state_bytes(self) -> int:
        return sum(value.nbytes for state in self.optimizer.state.values() for value in state.values())

    def save(self, path: Path, to: int = 0) -> None:
        """All ranks call this; the rank `to` writes."""
        self.optimizer.consolidate_state_dict(to)
        if dist.get_rank(self.group) == to:
            torch.save({"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict(),
                        "parameters": self.values()}, path)  # fmt: skip

    def load(self, path: Path) -> "Training":
        saved = torch.load(path, weights_only=True, mmap=True)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(saved["parameters"][name])
            for name, (weight, _, _) in self.streamed.items():
                weight.copy_(saved["parameters"][f"{name}.weight"])
        return self


def _streamed(index: int, rows: int, cols: int) -> LowRank:
    generator = torch.Generator().manual_seed(50 + index)
    weight, left, right = (torch.randn(shape, generator=generator) for shape in ((rows, cols), (rows, 4), (cols, 4)))
    return LowRank(
        nn.Parameter(weight, requires_grad=False), *(nn.Parameter(torch.linalg.qr(basis)[0]) for basis in (left, right))
    )


def run(rank: int, folder: Path) -> None:
    """What each rank does: all cases in all groups, saving and loading between them; writes what came out."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    groups = [dist.new_group(ranks, sort_ranks=False) for ranks in GROUPS]
    found: dict[str, Any] = {}
    for ranks, group in zip(GROUPS, groups):
        if rank not in ranks:
            continue
        for case in CASES:
            training = Training(case, group).steps(range(STEPS))
            found[f"{case.name} on {len(ranks)}"] = training.values()
            found[f"bytes of {case.name} on {len(ranks)}"] = training.state_bytes()
    for case in CASES[:4]:
        through = folder / f"{case.name}.pt"
        if rank in GROUPS[1]:
            training = Training(case, groups[1]).steps(range(2))
            training.steps(range(2, 3)).save(through, to=1)
            found[f"{case.name} saved"] = training.steps(range(3, STEPS)).values()
        dist.barrier()
        for ranks, group in zip(GROUPS, groups):
            if rank in ranks:
                training = Training(case, group).load(through)
                found[f"bytes of {case.name} loaded on {len(ranks)}"] = training.state_bytes()
                found[f"{case.name} loaded on {len(ranks)}"] = training.steps(range(3, STEPS)).values()
    found["dropped"] = dropped(groups[3])
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def dropped(group: dist.ProcessGroup) -> list[str]:
    """Where the state is not there as a whole."""
    training = Training(CASES[0], group).steps(range(2))
    refused = []

    def try_to_save(when: str) -> None:
        try:
            training.optimizer.state_dict()
        except AssertionError:
            refused.append(when)

    try_to_save("never consolidated")
    training.optimizer.consolidate_state_dict()
    try_to_save("consolidated")
    try_to_save("saved")
    training.optimizer.consolidate_state_dict()
    training.steps(range(2, 3))
    try_to_save("stepped")
    return refused
