"""Which attention backend runs on a machine: the one that is asked for, or the fastest."""

import functools
from collections.abc import Sequence

import torch

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.hardware import AttentionBackend
from nanochat_pl.nn.attention.backend import Backend
from nanochat_pl.nn.attention.blocked import Blocked
from nanochat_pl.nn.attention.flash import Flash, Flash2, Flash3, Flash4
from nanochat_pl.nn.attention.flex import Flex
from nanochat_pl.nn.attention.sdpa import SDPA

BACKENDS: dict[AttentionBackend, type[Backend]] = {
    backend.name: backend for backend in (Flash3, Flash4, Flash2, Flash, Flex, SDPA, Blocked)
}
"""All backends; on GPUs the fastest first."""


def choose(
    name: AttentionBackend | None,
    device: torch.device | str,
    dtype: torch.dtype,
    head_dim: int = 128,
    slopes: Sequence[float] | None = None,
) -> Backend:
    """The backend of this name, or (None) the first that runs with such heads on the device.

    On "meta", where nothing is computed, it is always the CPU's.

    Args:
        slopes: of each head, for ALiBi.

    Raises:
        UserError: the named one does not run here, or cannot have slopes.
    """
    device = torch.device(device)
    falling = None if slopes is None else torch.tensor(slopes, dtype=torch.float32, device=device)
    if device.type == "meta" or (device.type == "cpu" and name is None):
        return Blocked(falling)
    if name is None:
        backends = (kind(falling) for kind in BACKENDS.values() if kind.takes_slopes or falling is None)
        return next(backend for backend in backends if backend.why_not(device, dtype, head_dim) is None)
    best = functools.partial(choose, None, device, dtype, head_dim, slopes)
    if falling is not None and not BACKENDS[name].takes_slopes:
        able = ", ".join(other for other, kind in BACKENDS.items() if kind.takes_slopes)
        raise UserError(
            f"hw.attention={name} does not compute model.position=alibi, whose scores fall with the distance; {able} "
            f"do. The fastest of them that runs here is hw.attention={best().name}, which hw.attention=null takes."
        )
    backend = BACKENDS[name](falling)
    if reason := backend.why_not(device, dtype, head_dim):
        raise UserError(
            f"hw.attention={name} does not run here: {reason}. The fastest that does is hw.attention={best().name}, "
            "which hw.attention=null takes by itself."
        )
    return backend


def advice(backend: Backend, windows: Sequence[int]) -> str:
    """A line for the plan of a model whose layers have windows that are slow on this backend; else empty.

    Which layers have one is the model's, so that a run is the same on every machine: it is advised, not changed.
    """
    if backend.has_fast_windows or len(set(windows)) == 1:
        return ""
    return f"windows are slow with {backend.name}, which masks the whole context: model.window_pattern=L is faster here"
