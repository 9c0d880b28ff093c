"""What a model folder says of its model, read without building it and without torch."""

import contextlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat_pl.core.errors import UserError

FORMAT = "nanochat_pl"
FORMAT_VERSION = 1
STAGES = ("rl", "sft", "mid", "base")
"""The latest first."""
MAX_CONTEXT_TOKENS = 1 << 22
"""Of a model: its tables of positions are made for so many before its weights are read."""


@dataclass(frozen=True)
class ModelHeader:
    """The content of model.json.

    Attributes:
        stage: that trained it last: base, mid, sft or rl.
    """

    architecture: str
    config: dict[str, Any]
    stage: str


def find_model_folder(where: Path | str) -> Path:
    """The model folder for a path to it or to a run (its latest stage) or a stage of a run.

    Raises:
        UserError: there is none.
    """
    where = Path(where)
    if where.is_file():
        raise UserError(
            f"{where} is a file, but a model is a folder with model.json and model.safetensors in it. Other files, "
            "pickles (.pt, .pth, .ckpt, .bin) above all, are not loaded: they could run any program."
        )
    candidates = [where, where / "model", *(where / stage / "model" for stage in STAGES)]
    for folder in candidates:
        if (folder / "model.json").exists():
            return folder
    raise UserError(
        f"There is no model in {where} (looked for model.json there, in model/ and in the stages' folders). "
        "`python train.py` makes one under runs/; give a run such as runs/tiny, a stage of it, or a model folder."
    )


def read_header(folder: Path) -> ModelHeader:
    """The folder's model.json.

    Raises:
        UserError: it is damaged, not one of nanochat_pl's, or of a newer format.
    """
    try:
        header = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        version = header["format_version"] if header.get("format") == FORMAT else None
        config = dict(header["config"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{folder}/model.json is damaged or not one of {FORMAT}'s: {error}.") from error
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise UserError(
            f"{folder} has format {header.get('format')!r}, version {version}; this program reads {FORMAT} up to "
            f"version {FORMAT_VERSION}. Update nanochat_pl, or export the model again."
        )
    return ModelHeader(str(header.get("architecture")), config, str(header.get("stage", "base")))


def check_sizes(folder: Path, config: dict[str, Any]) -> None:
    """See that a model of these sizes can be in the folder's weights file, before one is built.

    That the weights fit exactly is seen when they are loaded; a damaged model.json must not cost hours or all memory.

    Raises:
        UserError: model.json tells of more than there is, or the weights are damaged.
    """
    with _weights(folder) as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 (not a dict)
    values = sum(map(math.prod, shapes))
    n_layer, n_embd, vocab_size, sequence_len = (
        _whole(config.get(name)) for name in ("n_layer", "n_embd", "vocab_size", "sequence_len")
    )
    for size, is_possible in (
        (f"n_layer={n_layer}", len(shapes) >= n_layer),
        (f"n_embd={n_embd}", values >= n_layer * n_embd**2),
        (f"vocab_size={vocab_size}", values >= vocab_size * n_embd),
        (f"sequence_len={sequence_len}", sequence_len <= MAX_CONTEXT_TOKENS),
    ):
        if not is_possible:
            raise UserError(
                f"{folder}/model.json is damaged: it says {size[:60]}, but model.safetensors has {len(shapes)} tensors "
                f"of {values:,} values, and no context is longer than {MAX_CONTEXT_TOKENS:,} tokens. Export it again."
            )


def read_facts(folder: Path) -> dict[str, float]:
    """The numbers in the header of the folder's weights file, such as step, tokens, val_bpb.

    Raises:
        UserError: the file is missing, damaged, or no safetensors file (a pickle, for one).
    """
    with _weights(folder) as file:
        return facts_of(file.metadata())


def facts_of(metadata: dict[str, str] | None) -> dict[str, float]:
    """The finite numbers among a weights file's metadata."""
    facts = {}
    for name, value in (metadata or {}).items():
        with contextlib.suppress(ValueError):
            if math.isfinite(number := float(value)):
                facts[name] = number
    return facts


def _whole(size: Any) -> int:
    """A size of a config; 1 for what is none, of which the config itself says what is wrong."""
    return int(size) if isinstance(size, int) or (isinstance(size, float) and size.is_integer()) else 1


@contextlib.contextmanager
def _weights(folder: Path) -> Iterator[Any]:
    """The folder's weights file, of which only the header is read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / "model.safetensors", framework="numpy") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder}/model.safetensors is missing or damaged: {error}.") from error
