"""How fast a device trains: from the table of chips, else measured."""

import time

from nanochat_pl.core.chips import TYPICAL_MFU
from nanochat_pl.core.hardware import Hardware


def training_flops_per_second(hardware: Hardware, width: int) -> float:
    """FLOPs (`ModelCost.training_flops_per_token`) per second that training is expected to reach on one device.

    Args:
        width: of the model; where the chip is not in the table, products of this width are measured.
    """
    known = hardware.chip.training_flops(hardware.precision)
    if known is not None:
        return known
    return measured_matmul_flops_per_second(hardware.accelerator, hardware.compute_dtype, width) * TYPICAL_MFU


def measured_matmul_flops_per_second(accelerator: str, compute_dtype: str, width: int) -> float:
    """The speed of matrix products of the model's width on this device, measured for a few hundredths of a second."""
    import torch

    device, dtype = torch.device(accelerator), getattr(torch, compute_dtype)
    work = 2**25 if accelerator == "cpu" else 2**29
    rows = max(64, work // width**2)  # the same work at every width
    a, b = torch.ones(rows, width, device=device, dtype=dtype), torch.ones(width, 4 * width, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        (a @ b).sum().item()
        best = min(best, time.perf_counter() - started)
    return 2 * rows * width * 4 * width / best
