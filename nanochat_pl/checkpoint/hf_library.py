"""Weights of models that transformers computes: it reads and writes them, as files have them under other names."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat_pl.core.errors import UserError


def read_weights(folder: Path, where: str) -> dict[str, Tensor]:
    """All weights of the model in a folder, by the names of ours.

    Args:
        where: it came from.

    Raises:
        UserError: they are damaged, or of another model than its config.json says.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"The weights of {where} are damaged, or of another model than its config.json: {reason}"
        ) from error
    net, found = loaded
    wrong = [f"{name} is missing" for name in sorted(found["missing_keys"])]
    wrong += [f"{name} is not in the model" for name in sorted(found["unexpected_keys"])]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if wrong[3:] else ""
        raise UserError(
            f"{where} holds the weights of another model than its config.json says: {'; '.join(wrong[:3])}{more}."
        )
    tied = net.all_tied_weights_keys
    return {f"net.{name}": weight for name, weight in net.state_dict().items() if name not in tied}


def write_weights(folder: Path, model: Any) -> None:
    """Put a model's weights into a folder, in its compute dtype.

    Raises:
        OSError: the disk is full or not writable.
    """
    weights = {name: weight.to("cpu", model.config.dtype) for name, weight in model.net.state_dict().items()}
    with tempfile.TemporaryDirectory(dir=folder) as written:
        model.net.save_pretrained(written, state_dict=weights)
        for path in Path(written).glob("model*.safetensors*"):
            path.replace(folder / path.name)
