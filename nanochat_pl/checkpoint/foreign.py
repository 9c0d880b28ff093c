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

        Of our special tokens that the tokenizer has beyond its own vocabulary the model gets the one that begins
        documents, where that is not there yet; the others when a stage learns conversations, unless it was trained
        with all. What the tokenizer lacks, such as the padding of nanoGPT's 50,304 tokens, is left out.

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
        model = build_model(config, "meta", seed=None)  # until the weights are known to be of these sizes
        tables, shapes, weights = model.vocabulary_tables(), shapes_of(model), dict(self.weights)
        if self.names is not None:
            weights = self.names.imported(weights, shapes)
        rows = config.padded_vocab_size
        found = {name: weights[name] for name in tables if name in weights and weights[name].ndim == len(shapes[name])}
        weights |= {name: resized(table, rows) for name, table in found.items() if known <= len(table) <= rows}
        check_weights(shapes, {name: tuple(weight.shape) for name, weight in weights.items()}, where, self.weights)
        of_text_and_bos = max(tokenizer.n_ordinary, tokenizer.bos_id + 1)
        size = known if known == tokenizer.vocab_size else of_text_and_bos
        model = build_model(dataclasses.replace(config, vocab_size=size), "cpu", seed=None)
        if size != known:
            rows = model.config.padded_vocab_size
            weights |= {name: resized(weights[name][:known][:size], rows, size) for name in tables}
        model.load_state_dict(weights)
        save_model_folder(folder, model, model.config, tokenizer, self.facts, self.stage)


def tensors_by_name(found: Any, where: Path) -> dict[str, Tensor]:
    """What a file holds as a model's weights.

    Raises:
        UserError: it is something else.
    """
    if isinstance(found, Mapping):
        others = ((name, x) for name, x in found.items() if not (isinstance(name, str) and _is_dense(x)))
        wrong = next((f"under {name!r:.80} is a {type(x).__name__}" for name, x in others), None)
    else:
        wrong = f"they are a {type(found).__name__}"
    if wrong:
        raise UserError(f"The weights in {where} are no dense tensors by name: {wrong}. Save the model's state_dict.")
    return dict(found)


def _is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_quantized


def read_pickled(path: Path) -> Any:
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
