"""Weights of models that transformers computes: it reads and writes them, as files have them under other names."""

import tempfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from nanochat_pl.core.errors import UserError
from nanochat_pl.models.hf import HFConfig, read_config


def read_weights(folder: Path, config: HFConfig, where: str) -> dict[str, Tensor]:
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
            folder, config=read_config(config.values), local_files_only=True, dtype=torch.float32,
            ignore_mismatched_sizes=True, output_loading_info=True,
        )  # fmt: skip
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, ImportError, UnpicklingError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"The weights of {where} are damaged, or hold more than tensors: {reason}") from error
    net, found = loaded
    wrong = [f"{name} is missing" for name in sorted(found["missing_keys"])]
    wrong += [f"{name} is not in the model" for name in sorted(found["unexpected_keys"])]
    wrong += [f"{name} has another shape" for name in sorted({str(one[0]) for one in found["mismatched_keys"]})]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if wrong[3:] else ""
        raise UserError(
            f"{where} holds the weights of another model than its config.json says: {'; '.join(wrong[:3])}{more}."
        )
    tied = net.all_tied_weights_keys
    return {f"net.{name}": weight for name, weight in net.state_dict().items() if name not in tied}


def write_weights(folder: Path, model: Any) -> None:
    """Put a model's weights into a folder, in its compute dtype and without the vocabulary's padding.

    Raises:
        OSError: the disk is full or not writable.
    """
    config, tables = model.config, model.vocabulary_tables()
    weights = {
        name.removeprefix("net."): (weight[: config.vocab_size] if name in tables else weight).to("cpu", config.dtype)
        for name, weight in model.state_dict().items()
    }
    weights = {name: weight.contiguous() for name, weight in weights.items()}
    with tempfile.TemporaryDirectory(dir=folder) as written:
        model.net.save_pretrained(written, state_dict=weights)
        for stale in folder.glob("model*.safetensors*"):
            stale.unlink()
        for path in Path(written).glob("model*.safetensors*"):
            path.replace(folder / path.name)
