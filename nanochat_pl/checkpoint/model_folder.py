"""`model/`: model.json, model.safetensors and tokenizer/; readable anywhere, no pickle.

The weights file is replaced at once, with the step in its own header, so that a reader sees one step or the next.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nanochat_pl.checkpoint.header import FORMAT, FORMAT_VERSION, check_sizes, facts_of, find_model_folder, read_header
from nanochat_pl.checkpoint.weight_map import check_weights, resized, shapes_of
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.paths import replacing, write_text
from nanochat_pl.models.contract import architecture_of, build_config, build_model
from nanochat_pl.tokenizers.base import Tokenizer
from nanochat_pl.tokenizers.load import load_tokenizer


@dataclass(frozen=True)
class LoadedModel:
    """A model that came from a folder.

    Attributes:
        model: the network with its weights, in evaluation mode.
        facts: what was known at its export: step, tokens, val_bpb where measured.
        stage: that trained it last: base, mid, sft or rl.
    """

    model: Any
    tokenizer: Tokenizer
    facts: dict[str, float]
    stage: str

    @property
    def is_chat(self) -> bool:
        """Whether it has learned the form of a conversation; a base model only continues text."""
        return self.stage != "base"


def save_model_folder(
    folder: Path, model: nn.Module, config: Any, tokenizer: Tokenizer, facts: dict[str, Any], stage: str = "base"
) -> None:
    """Write or replace the portable folder.

    Args:
        facts: numbers to keep with the weights, such as step, tokens, val_bpb.
        stage: that trained it.

    Raises:
        MachineError: the disk is full; the earlier weights are untouched.
    """
    from safetensors.torch import save_file

    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "stage": stage,
        "architecture": architecture_of(config),
        "config": config.as_dict(),
    }
    if not (folder / "tokenizer").exists():
        tokenizer.save(folder / "tokenizer")
    text = json.dumps(header, indent=2) + "\n"
    description = folder / "model.json"
    if not description.exists() or description.read_text(encoding="utf-8") != text:
        write_text(description, text)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(folder / "model.safetensors") as temporary:
        save_file(weights, temporary, metadata={name: str(value) for name, value in facts.items()})


def load_model_folder(where: Path | str, device: str = "cpu", compute_dtype: str | None = None) -> LoadedModel:
    """Build the model of a folder on `device` and load its weights.

    Args:
        where: a model folder, a run, or a stage of a run.
        compute_dtype: None keeps the dtype it was trained in.

    Raises:
        UserError: no model there, a damaged or foreign folder, a newer format.
    """
    folder = find_model_folder(where)
    header = read_header(folder)
    check_sizes(folder, header.config)
    values = header.config | ({"compute_dtype": compute_dtype} if compute_dtype else {})
    model = build_model(build_config(header.architecture, values), device, seed=None)
    facts = load_weights(model, folder, device)
    return LoadedModel(model.eval(), load_tokenizer(folder / "tokenizer"), facts, header.stage)


def load_weights(model: nn.Module, folder: Path, device: torch.device | str) -> dict[str, float]:
    """Set a model's weights, which are on `device`, to those of a model folder; returns the facts kept with them.

    Raises:
        UserError: the file is missing or damaged, or of another architecture.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / "model.safetensors", framework="pt", device=str(device)) as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            facts = facts_of(file.metadata())
    except (SafetensorError, OSError, RuntimeError) as error:
        raise UserError(f"{folder}/model.safetensors is missing or damaged: {error}.") from error
    shapes = shapes_of(model)
    weights |= _fitted(model, weights, read_header(folder).config)
    check_weights(shapes, {name: tuple(weight.shape) for name, weight in weights.items()}, str(folder))
    model.load_state_dict(weights, assign=False)
    return facts


def _fitted(model: Any, weights: dict[str, Tensor], before: dict[str, Any]) -> dict[str, Tensor]:
    """What a shorter context or a larger vocabulary makes of a model's tables."""
    config, fitted = model.config, {}
    if config.vocab_size > before["vocab_size"]:
        tables = [name for name in model.vocabulary_tables() if name in weights]
        fitted = {
            name: resized(weights[name][: before["vocab_size"]], config.padded_vocab_size, config.vocab_size)
            for name in tables
        }
    if config.position == "learned" and config.sequence_len < before["sequence_len"]:
        fitted |= {name: weights[name][: config.sequence_len] for name in ("position.weight",) if name in weights}
    return fitted
