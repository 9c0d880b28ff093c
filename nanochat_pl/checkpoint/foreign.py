"""Models of other programs, made into model folders of ours."""

import dataclasses
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat_pl.checkpoint.model_folder import save_model_folder
from nanochat_pl.checkpoint.weight_map import WeightMap, check_weights, resized, shapes_of
from nanochat_pl.core.errors import UserError
from nanochat_pl.models.contract import build_model
from nanochat_pl.tokenizers.base import Tokenizer

MOST_PADDING = 1024
"""Rows that a table has at most for tokens that its tokenizer lacks."""


@dataclass(frozen=True)
class ForeignModel:
    """What was read.

    Attributes:
        config: ours.
        weights: theirs by name.
        names: theirs and ours; None: they are the same.
        stage: that trained it last: base, mid, sft or rl.
        facts: numbers that are known of it, such as step.
    """

    config: Any
    weights: Mapping[str, Tensor]
    names: WeightMap | None
    stage: str = "base"
    facts: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path, tokenizer: Tokenizer, where: str) -> None:
        """Write the model folder.

        Where the tokenizer has special tokens that the model lacks, it stays as it is, exactly, until a stage learns
        conversations; only a token that begins documents is added at once. What the tokenizer lacks is left out.

        Args:
            where: it came from.

        Raises:
            UserError: the weights are of another model, or the tokenizer is.
            MachineError: the disk is full.
        """
        config, known = self.config, self.config.vocab_size
        if tokenizer.n_ordinary > known or tokenizer.vocab_size < known - MOST_PADDING:
            raise UserError(
                f"{where} knows {known:,} tokens, but the tokenizer has {tokenizer.vocab_size:,}: it is of another "
                "model. Name the one that it was trained with."
            )
        model = build_model(config, "cpu", seed=None)
        tables, shapes, weights = model.vocabulary_tables(), shapes_of(model), dict(self.weights)
        if self.names is not None:
            weights = self.names.imported(weights, shapes)
        rows = config.padded_vocab_size
        weights |= {n: resized(weights[n], rows) for n in tables if n in weights and known <= len(weights[n]) <= rows}
        check_weights(shapes, {name: tuple(weight.shape) for name, weight in weights.items()}, where, self.weights)
        size = min(known, tokenizer.vocab_size) if tokenizer.bos_id < known else tokenizer.vocab_size
        if size != known:
            model = build_model(dataclasses.replace(config, vocab_size=size), "cpu", seed=None)
            rows = model.config.padded_vocab_size
            weights |= {name: resized(weights[name][:known][:size], rows, size) for name in tables}
        model.load_state_dict(weights)
        save_model_folder(folder, model, model.config, tokenizer, self.facts, self.stage)


def read_pickled(path: Path) -> dict[str, Any]:
    """What torch.save wrote, if it is tensors and plain values alone.

    Raises:
        UserError: it is damaged, or holds what could run a program.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise UserError(
            f"{path} is damaged, or holds more than tensors and plain values, and nothing else is read: a pickle could "
            f"run any program. ({str(error).splitlines()[0][:200]}) If you trust it, load it where it was made, and "
            "save its state_dict alone."
        ) from error
