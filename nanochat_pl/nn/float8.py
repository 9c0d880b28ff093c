"""Matrix products in float8 while training: input and weight in e4m3, the gradient in e5m2 (arXiv:2209.05433).

By torchao, with one scale for each tensor, found anew at each product, or by NVIDIA's TransformerEngine. The library's
own layer shares the weight of ours, whose name in checkpoints stays, and which computes by itself where the model does
not train.
"""

import importlib.util
from collections.abc import Callable
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
LIBRARIES = {
    "float8": ("torchao", "'nanochat-pl[fp8]'"),
    "transformer-engine": ("transformer_engine", "--no-build-isolation 'transformer_engine[pytorch]'"),
}
"""hw.precision -> the package that multiplies, and what pip is told to install it."""


def check_float8(accelerator: str, precision: str = "float8") -> None:
    """Raise `UserError` where one of LIBRARIES cannot multiply in float8 here."""
    instead = "Leave hw.precision out, or set hw.precision=bfloat16."
    package, install = LIBRARIES[precision]
    if accelerator != "cuda":
        raise UserError(
            f"hw.precision={precision} needs an NVIDIA GPU, but this run computes on {accelerator}. {instead}"
        )
    capability = torch.cuda.get_device_capability()
    if capability < (8, 9):
        raise UserError(
            f"hw.precision={precision} needs a chip of compute capability 8.9 (RTX 40, H100) or newer, but "
            f"{torch.cuda.get_device_name()} has {'.'.join(map(str, capability))}. {instead}"
        )
    try:
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"there is no {package}")
        if package == "transformer_engine":  # whose parts are installed one by one
            importlib.import_module(f"{package}.pytorch")
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError(
            f"hw.precision={precision} needs {package} ({str(error)[:200]}): pip install {install}. {instead}"
        ) from error


def use_float8(model: nn.Module) -> list[str]:
    """Let torchao multiply those matrices that gain by it in training; the names of these.

    To be called when the weights are where they stay. On a CPU float8 is emulated, which is slow.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    def fast(layer: Linear) -> Any:
        config: Any = Float8LinearConfig(emulate=layer.weight.device.type == "cpu")
        converted = convert_to_float8_training(layer, config=config)
        converted.bias = None  # which `layer` adds
        return converted

    return _stand_in(model, lambda layer: layer.out_features > FAST_OUTPUTS or layer.in_features > FAST_INPUTS, fast)


def use_transformer_engine(model: nn.Module) -> list[str]:
    """Let TransformerEngine multiply in training, within its `fp8_autocast`; the names of the matrices.

    To be called when the weights are where they stay.
    """
    import transformer_engine.pytorch as te

    def fast(layer: Linear) -> Any:
        converted = te.Linear(layer.in_features, layer.out_features, bias=False)
        converted.weight = layer.weight
        return converted

    return _stand_in(model, lambda layer: True, fast)


def _stand_in(model: nn.Module, gains: Callable[[Linear], bool], fast: Callable[[Linear], Any]) -> list[str]:
    """Let `fast(layer)` take the place of each layer that float8 can take and that gains, in training."""
    names = []
    for name, layer in model.named_modules():
        if isinstance(layer, Linear) and not any(side % MULTIPLE_OF for side in layer.weight.shape) and gains(layer):
            layer.in_training = (_WhereItFits(fast(layer)),)
            names.append(name)
    return names


class _WhereItFits(nn.Module):
    """A float8 layer, which computes in the input's dtype where it cannot take the number of tokens."""

    def __init__(self, layer: Any):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() % (MULTIPLE_OF * self.layer.in_features):
            return F.linear(x, self.layer.weight.to(x.dtype))
        return self.layer(x)
