"""Depth is the one dial: width, heads, horizon, batch, rates and weight decay follow from it by nanochat's laws."""

import math
from dataclasses import dataclass

from nanochat_pl.core.errors import UserError, nearest_multiples
from nanochat_pl.core.spec import Spec

REFERENCE_BATCH_TOKENS = 2**19
"""The best batch of the reference model (d12), measured by nanochat's author."""
BATCH_EXPONENT = 0.383
"""Best batch ~ horizon^0.383: Bergsma et al., "Power Lines" (arXiv 2505.13738)."""


def width_for_depth(depth: int, aspect_ratio: int = 64, head_dim: int = 128) -> int:
    """depth x aspect_ratio, rounded up to a multiple of the head size."""
    return math.ceil(depth * aspect_ratio / head_dim) * head_dim


def heads_for_width(width: int, head_dim: int = 128) -> int:
    """The number of heads.

    Raises:
        UserError: the head size does not divide the width; names the nearest widths that it divides.
    """
    if width % head_dim:
        below = width // head_dim * head_dim
        legal = " or ".join(str(value) for value in (below, below + head_dim) if value)
        raise UserError(f"The width {width} is not a multiple of the head size {head_dim}; choose {legal}.")
    return width // head_dim


@dataclass(frozen=True)
class HorizonSpec(Spec):
    """How long to train, in which batches. What is None follows from the laws.

    Attributes:
        steps: optimizer steps.
        epochs: passes over the conversations or questions.
        flops: training FLOPs to spend.
        tokens_per_parameter: tokens for each parameter of matrices and head, where none of these is set; sets the
            nominal horizon, from which batch and weight decay follow in any case.
        total_batch_tokens: tokens of one optimizer step over all devices.
        lr_scale: factor on all learning rates.
        weight_decay_scale: factor on the matrices' weight decay.
    """

    steps: int | None = None
    epochs: float | None = None
    flops: float | None = None
    tokens_per_parameter: float = 12.0
    total_batch_tokens: int | None = None
    lr_scale: float | None = None
    weight_decay_scale: float | None = None

    def check(self) -> None:
        given = [name for name in ("steps", "epochs", "flops") if getattr(self, name) is not None]
        if len(given) > 1:
            raise UserError(
                f"horizon.{given[0]} and horizon.{given[1]} are both set, and each says how long to train; leave one "
                f"of them out, or set it to null (horizon.{given[0]}=null)."
            )
        for name in ("steps", "epochs", "flops", "tokens_per_parameter", "total_batch_tokens", "lr_scale"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"horizon.{name} is {value}; it must be above 0, or null to follow the scaling laws.")
        if self.weight_decay_scale is not None and self.weight_decay_scale < 0:
            raise UserError(f"horizon.weight_decay_scale is {self.weight_decay_scale}; it must be 0 or more, or null.")


@dataclass(frozen=True)
class Horizon:
    """What follows from a HorizonSpec for one model.

    Attributes:
        steps, total_batch_tokens: of the run.
        nominal_tokens: `tokens_per_parameter` times the scaling parameters.
        lr_scale: sqrt(batch / 2^19).
        weight_decay_scale: sqrt(batch / 2^19) x reference horizon / nominal horizon, which keeps
            T_epoch = batch / (rate x decay x horizon) constant (Wang and Aitchison, arXiv 2405.13698).
    """

    steps: int
    total_batch_tokens: int
    nominal_tokens: int
    lr_scale: float
    weight_decay_scale: float

    @property
    def tokens(self) -> int:
        """Tokens of the whole run."""
        return self.steps * self.total_batch_tokens


def resolve_horizon(
    spec: HorizonSpec,
    *,
    scaling_parameters: int,
    reference_scaling_parameters: int,
    flops_per_token: float,
    sequence_len: int,
    devices: int = 1,
    epoch_tokens: int | None = None,
) -> Horizon:
    """Apply the laws where `spec` leaves values open.

    Args:
        scaling_parameters: parameters of matrices and head of this model.
        reference_scaling_parameters: those of d12 with the same vocabulary.
        flops_per_token: training FLOPs.
        sequence_len: the batch is a whole number of rows of this length.
        devices: the rows of a batch are a multiple of it.
        epoch_tokens: of one pass over the data; needed where `spec.epochs` is set.

    Raises:
        UserError: the given batch cannot be divided so (names the nearest that can), or `flops` is less than a step.
    """
    nominal_tokens = int(spec.tokens_per_parameter * scaling_parameters)
    reference_tokens = spec.tokens_per_parameter * reference_scaling_parameters
    unit = sequence_len * devices
    batch = spec.total_batch_tokens or _best_batch(nominal_tokens / reference_tokens, sequence_len, devices)
    if batch % unit:
        rows = f"{sequence_len} tokens x {devices} devices" if devices > 1 else f"{sequence_len} tokens, one row"
        raise UserError(
            f"horizon.total_batch_tokens is {batch}, which is not a multiple of {unit} ({rows}). "
            f"Nearest legal values: {nearest_multiples(batch, unit)}."
        )
    lr_scale = math.sqrt(batch / REFERENCE_BATCH_TOKENS)
    return Horizon(
        steps=_steps(spec, nominal_tokens, batch, flops_per_token, epoch_tokens),
        total_batch_tokens=batch,
        nominal_tokens=nominal_tokens,
        lr_scale=lr_scale if spec.lr_scale is None else spec.lr_scale,
        weight_decay_scale=(
            lr_scale * reference_tokens / nominal_tokens if spec.weight_decay_scale is None else spec.weight_decay_scale
        ),
    )


def _best_batch(horizon_ratio: float, sequence_len: int, devices: int) -> int:
    """Tokens of the batch: a power of two rows, at least one row a device."""
    predicted = REFERENCE_BATCH_TOKENS * horizon_ratio**BATCH_EXPONENT
    rows = 2 ** max(0, round(math.log2(predicted / sequence_len)))
    return math.ceil(rows / devices) * devices * sequence_len


def _steps(spec: HorizonSpec, nominal_tokens: int, batch: int, flops_per_token: float, epoch_tokens: int | None) -> int:
    if spec.steps is not None:
        return spec.steps
    if spec.epochs is not None:
        assert epoch_tokens is not None
        return math.ceil(spec.epochs * epoch_tokens / batch)
    if spec.flops is None:
        return max(1, nominal_tokens // batch)
    steps = round(spec.flops / (flops_per_token * batch))
    if steps < 1:
        raise UserError(
            f"horizon.flops={spec.flops:g} is less than one step, which takes {flops_per_token * batch:.3g} FLOPs; "
            "raise it, or make horizon.total_batch_tokens smaller."
        )
    return steps
