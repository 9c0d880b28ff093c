"""What Lightning and torch must know of the precision; the model itself casts, so there is no autocast."""

import contextlib
from collections.abc import Iterator

import torch
from lightning.pytorch.plugins import MixedPrecision, Precision, TransformerEnginePrecision

from nanochat_pl.core.hardware import Hardware
from nanochat_pl.nn.float8 import use_transformer_engine

TOKEN_SCALE = 16.0
"""First factor of one token's loss in float16: gradients of activations then lie in the middle of its range."""


class Float16(MixedPrecision):
    """Lightning's float16: the scaled loss, gradients unscaled before they are clipped, and no step, but half the
    scale, where one of them is not finite. The scale is part of the checkpoint.

    Asking for that costs a host sync at every step.
    """

    def __init__(self, device: str, first_scale: float):
        super().__init__("16-mixed", device, torch.amp.GradScaler(device, init_scale=first_scale))

    @contextlib.contextmanager
    def forward_context(self) -> Iterator[None]:
        yield


class TransformerEngine(TransformerEnginePrecision):
    """Lightning's float8 by NVIDIA's TransformerEngine, with weights in float32 and all else in bfloat16.

    Lightning itself would put TransformerEngine's layers in the place of ours, which then could not answer or be
    evaluated outside of a step, and whose history of scales would stand in the checkpoints as a pickle. So they stand
    in for ours in training alone, and a run that goes on begins that history anew.
    """

    def __init__(self) -> None:
        super().__init__(weights_dtype=torch.float32, fallback_compute_dtype=torch.bfloat16, replace_layers=False)

    def convert_module(self, module: torch.nn.Module) -> torch.nn.Module:
        use_transformer_engine(module.get_submodule("model.blocks"))
        return module


def set_float32_products(accelerator: str) -> None:
    """How a GPU multiplies what is left in float32, and all of a float32 run: in TF32, 10 bits of mantissa at up to 8
    times the speed; and sums of float16 products stay float32.
    """
    if accelerator == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


def precision_plugins(hardware: Hardware, total_batch_tokens: int) -> list[Precision]:
    """Lightning's plugins for `hw.precision`.

    Args:
        total_batch_tokens: of a step; the loss is their mean, whose gradients a large batch makes small.
    """
    if hardware.precision == "transformer-engine":
        return [TransformerEngine()]
    if hardware.precision != "float16":
        return []
    return [Float16(hardware.accelerator, TOKEN_SCALE * total_batch_tokens / hardware.world_size)]
