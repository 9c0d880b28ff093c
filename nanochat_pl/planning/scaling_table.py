"""What the scaling laws ask for at each depth: tokens, FLOPs and time, as rows and as a picture."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.hardware import Hardware
from nanochat_pl.core.picture import picture
from nanochat_pl.models.cost import ModelCost
from nanochat_pl.models.depth import ModelSpec
from nanochat_pl.nn.molegrad import DENSE, Streaming
from nanochat_pl.optim.contract import OptimizerSpec
from nanochat_pl.optim.muon import NANOCHAT
from nanochat_pl.optim.scaling import HorizonSpec, resolve_horizon
from nanochat_pl.planning.memory import fits, memory_bytes, state_bytes
from nanochat_pl.planning.speed import training_flops_per_second

DEEPEST = 200


@dataclass(frozen=True)
class Row:
    """One depth's training.

    Attributes:
        flops, seconds: of all of it.
        state_bytes: weights, gradients and optimizer on one device.
    """

    depth: int
    width: int
    parameters: int
    tokens: int
    batch_tokens: int
    steps: int
    flops: float
    seconds: float
    state_bytes: int


def scaling_rows(
    depths: Sequence[int],
    model: ModelSpec,
    horizon: HorizonSpec,
    vocab_size: int,
    hardware: Hardware,
    streaming: Streaming = DENSE,
    optimizer: OptimizerSpec = NANOCHAT,
) -> list[Row]:
    """A row a depth: what is set by hand in model and horizon beyond `tokens_per_parameter` is left to the laws."""
    reference = ModelCost(model.reference(vocab_size)).scaling_parameters
    laws = HorizonSpec(tokens_per_parameter=horizon.tokens_per_parameter)
    rows = []
    for depth in depths:
        config = model.of_depth(depth).config(vocab_size, hardware.compute_dtype)
        cost = ModelCost(config)
        resolved = resolve_horizon(
            laws,
            scaling_parameters=cost.scaling_parameters,
            reference_scaling_parameters=reference,
            flops_per_token=cost.training_flops_per_token,
            sequence_len=config.sequence_len,
            devices=hardware.world_size,
        )
        flops = cost.training_flops_per_token * resolved.tokens
        speed = training_flops_per_second(hardware, config.n_embd) * hardware.world_size
        state = sum(state_bytes(cost, hardware, streaming, optimizer).values())
        counts = resolved.tokens, resolved.total_batch_tokens, resolved.steps
        rows.append(Row(depth, config.n_embd, cost.parameters, *counts, flops, flops / speed, state))
    return rows


def largest_depth(
    model: ModelSpec,
    vocab_size: int,
    hardware: Hardware,
    streaming: Streaming = DENSE,
    optimizer: OptimizerSpec = NANOCHAT,
) -> int | None:
    """The deepest model whose training fits on the hardware, one row at a time; None: none does."""

    def is_too_large(depth: int) -> bool:
        config = model.of_depth(depth).config(vocab_size, hardware.compute_dtype)
        memory = memory_bytes(config, ModelCost(config), hardware, 1, 1, streaming=streaming, optimizer=optimizer)
        return not fits(memory, hardware)

    return bisect.bisect_left(range(1, DEEPEST + 1), True, key=is_too_large) or None


def parse_depths(text: str) -> list[int]:
    """ "4-48": every second depth from 4 to 48, whose widths are whole heads; "4,5,12": these."""
    try:
        if "-" in text:
            first, last = map(int, text.split("-"))
            depths = list(range(first, last + 1, 2))
        else:
            depths = sorted({int(part) for part in text.split(",")})
    except ValueError:
        depths = []
    if not depths or depths[0] < 1 or depths[-1] > DEEPEST:
        raise UserError(
            f"--depths is '{text}'; give a range such as 4-48 or a list such as 4,8,12, from 1 to {DEEPEST}."
        )
    return depths


def draw_scaling(rows: Sequence[Row], hardware: Hardware, path: Path) -> None:
    """Write the picture: tokens, FLOPs and hours over the depth, as PNG."""
    depths = [row.depth for row in rows]
    with picture(path, 12, 4, columns=3) as panels:
        panels[0].plot(depths, [row.tokens for row in rows], marker="o", markersize=4)
        panels[1].plot(depths, [row.flops for row in rows], marker="o", markersize=4)
        panels[2].plot(depths, [row.seconds / 3600 for row in rows], marker="o", markersize=4)
        for axes, name in zip(panels, ("tokens", "FLOPs", "hours")):
            axes.set(yscale="log", xlabel="depth", title=name)
            axes.grid(which="both", alpha=0.25)
        panels[0].figure.suptitle(f"By the scaling laws, on {where(hardware)}")


def where(hardware: Hardware) -> str:
    """The devices, in words."""
    return f"{hardware.world_size} x {hardware.chip.name}, {hardware.precision}"
