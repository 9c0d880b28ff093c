"""`model/`: model.json, model.safetensors and tokenizer/; readable anywhere, no pickle.

The weights file is replaced at once, with the step in its own header, so that a reader sees one step or the next.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.paths import replacing, write_text
from nanochat_pl.models.contract import architecture_of, build_config, build_model
from nanochat_pl.tokenizers.base import Tokenizer
from nanochat_pl.tokenizers.load import load_tokenizer

FORMAT_VERSION = 1


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
        "format": "nanochat_pl",
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


def find_model_folder(where: Path | str) -> Path:
    """The model folder for a path to it or to a run (its latest stage) or a stage of a run.

    Raises:
        UserError: there is none.
    """
    where = Path(where)
    candidates = [where, where / "model", *(where / stage / "model" for stage in ("rl", "sft", "mid", "base"))]
    for folder in candidates:
        if (folder / "model.json").exists():
            return folder
    raise UserError(
        f"There is no model in {where} (looked for model.json there, in model/ and in the stages' folders). "
        "`python train.py` makes one under runs/; give a run such as runs/tiny, a stage of it, or a model folder."
    )


def load_model_folder(where: Path | str, device: str = "cpu", compute_dtype: str | None = None) -> LoadedModel:
    """Build the model of a folder on `device` and load its weights.

    Args:
        where: a model folder, a run, or a stage of a run.
        compute_dtype: None keeps the dtype it was trained in.

    Raises:
        UserError: no model there, a damaged or foreign folder, a newer format.
    """
    from safetensors import SafetensorError, safe_open

    folder = find_model_folder(where)
    try:
        header = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        version = header["format_version"] if header.get("format") == "nanochat_pl" else None
        config_values = header["config"] | ({"compute_dtype": compute_dtype} if compute_dtype else {})
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{folder}/model.json is damaged or not one of nanochat_pl's: {error}.") from error
    if version is None or version > FORMAT_VERSION:
        raise UserError(
            f"{folder} has format {header.get('format')!r}, version {version}; this program reads nanochat_pl up to "
            f"version {FORMAT_VERSION}. Update nanochat_pl, or export the model again."
        )
    model = build_model(build_config(str(header.get("architecture")), config_values), device, seed=None)
    try:
        with safe_open(folder / "model.safetensors", framework="pt", device=device) as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            facts = {name: float(value) for name, value in (file.metadata() or {}).items()}
        model.load_state_dict(weights, assign=False)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise UserError(f"{folder}/model.safetensors is missing or damaged: {error}.") from error
    return LoadedModel(model.eval(), load_tokenizer(folder / "tokenizer"), facts, str(header.get("stage", "base")))
