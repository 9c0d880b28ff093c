"""Matrix products in float8 while training, by torchao: one scale for each tensor, found anew at each product.

Input and weight in e4m3, the gradient in e5m2 (arXiv:2209.05433). torchao's own layer shares the weight of ours, whose
name in checkpoints stays, and which computes by itself where the model does not train.
"""

import importlib.util
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat_pl.core.errors import UserError
from nanochat_pl.nn.layers import Linear

MULTIPLE_OF = 16
"""Both sides of a matrix and the number of tokens, where a GPU multiplies in float8."""
FAST_OUTPUTS, FAST_INPUTS = 1024, 4096
"""A matrix needs more of one of them to be faster in float8 than in bfloat16 (torchao's tables, float8/README.md)."""


def check_float8(accelerator: str) -> None:
    """Raise `UserError` where float8 cannot be multiplied here."""
    instead = "Leave hw.precision out, or set hw.precision=bfloat16."
    if accelerator != "cuda":
        raise UserError(f"hw.precision=float8 needs an NVIDIA GPU, but this run computes on {accelerator}. {instead}")
    capability = torch.cuda.get_device_capability()
    if capability < (8, 9):
        raise UserError(
            f"hw.precision=float8 needs a chip of compute capability 8.9 (RTX 40, H100) or newer, but "
            f"{torch.cuda.get_device_name()} has {'.'.join(map(str, capability))}. {instead}"
        )
    if importlib.util.find_spec("torchao") is None:
        raise UserError(f"hw.precision=float8 needs torchao: pip install 'nanochat-pl[fp8]'. {instead}")


def use_float8(model: nn.Module) -> list[str]:
    """Let those matrices that gain by it multiply in float8 in training; the names of these.

    To be called when the weights are where they stay. On a CPU float8 is emulated, which is slow.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    converted = []
    for name, layer in model.named_modules():
        if isinstance(layer, Linear) and _gains(layer):
            config: Any = Float8LinearConfig(emulate=layer.weight.device.type == "cpu")
            fast = convert_to_float8_training(layer, config=config)
            fast.bias = None  # which `layer` adds
            layer.in_training = (_WhereItFits(fast),)
            converted.append(name)
    return converted


class _WhereItFits(nn.Module):
    """A float8 layer, which computes in the input's dtype where it cannot take the number of tokens."""

    def __init__(self, layer: Any):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() % (MULTIPLE_OF * self.layer.in_features):
            return F.linear(x, self.layer.weight.to(x.dtype))
        return self.layer(x)


def _gains(layer: Linear) -> bool:
    if layer.in_features % MULTIPLE_OF or layer.out_features % MULTIPLE_OF:
        return False
    return layer.out_features > FAST_OUTPUTS or layer.in_features > FAST_INPUTS
