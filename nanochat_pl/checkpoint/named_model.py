"""A model by the name that a user gives: a run, a stage of it, either at a step, a model folder; or the newest."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nanochat_pl.checkpoint.header import STAGES, find_model_folder
from nanochat_pl.checkpoint.saved import step_checkpoints, step_of
from nanochat_pl.core.errors import UserError, nearest
from nanochat_pl.core.hub_file import ON_HUB
from nanochat_pl.core.paths import runs_root
from nanochat_pl.core.run_folder import RunFolder

if TYPE_CHECKING:
    from nanochat_pl.checkpoint.model_folder import LoadedModel


@dataclass(frozen=True)
class NamedModel:
    """Where a model is.

    Attributes:
        name: how it is called: runs/tiny/base, or runs/tiny/base@200.
        path: its model folder, or the checkpoint of a step.
    """

    name: str
    path: Path

    @property
    def folder(self) -> Path:
        """The model folder: of a checkpoint its run's, which has its description and its tokenizer."""
        return self.path if self.path.is_dir() else self.path.parent.parent / "model"

    def load(self, device: str = "cpu") -> "LoadedModel":
        """The model on `device`.

        Raises:
            UserError: it is damaged, foreign or of a newer format.
        """
        from nanochat_pl.checkpoint.model_folder import load_model_folder

        return load_model_folder(self.path, device) if self.path.is_dir() else _load_checkpoint(self.path, device)


def find_named_model(name: str | None = None) -> NamedModel:
    """Find a model without loading it (or torch).

    Args:
        name: a run (its latest stage), a stage of a run, either of them with @STEP for a checkpoint of that step, a
            model folder, or a model of Hugging Face (hf:REPOSITORY or its folder); a run under the runs root may be
            named without the root. None: the newest under the runs root.

    Raises:
        UserError: there is none; the message says how to make one, or which steps there are.
    """
    if name is None:
        return _newest()
    where, at, step = name.rpartition("@")
    if at and step.isdecimal() and not Path(name).exists():
        path = _find_checkpoint(_path_of(where), int(step))
        return NamedModel(f"{path.parent.parent}@{int(step)}", path)
    return NamedModel(name, folder_of(name)) if is_hf(name) else _named(folder_of(name))


def folder_of(name: str) -> Path:
    """The model folder of a run, a stage of it, a model folder, or a model of Hugging Face, which is fetched and made
    into one first: hf:REPOSITORY, or a folder with its config.json.

    Raises:
        UserError: there is none.
        MachineError: it cannot be fetched.
    """
    if is_hf(name):
        from nanochat_pl.checkpoint.hf_import import hf_folder

        return hf_folder(name)
    return find_model_folder(_path_of(name))


def is_hf(name: str) -> bool:
    """Whether a name of a model means one of Hugging Face."""
    path = Path(name).expanduser()
    return name.startswith(ON_HUB) or ((path / "config.json").is_file() and not (path / "model.json").exists())


def find_saved(name: str) -> Path:
    """Find what was saved, a checkpoint or a model folder: by the names above, or a checkpoint by its file.

    A run, or a stage of it, stands for its newest checkpoint.

    Raises:
        UserError: there is none.
    """
    path = _path_of(name)
    if path.is_file() and path.suffix == ".ckpt":
        return path
    for folder in (path / "checkpoints", *(path / stage / "checkpoints" for stage in STAGES)):
        if newest := next(iter(step_checkpoints(folder)), None):
            return newest
    return find_named_model(name).path


def find_stages(name: str) -> list[RunFolder]:
    """The stages of a run that have saved something, in the order of training; of a stage itself, that one.

    Raises:
        UserError: there are none.
    """
    where = _path_of(name)
    found = [
        run
        for run in map(RunFolder, [*(where / stage for stage in reversed(STAGES)), where])
        if step_checkpoints(run.checkpoints) or (run.model / "model.safetensors").is_file()
    ]
    if not found:
        root = runs_root()
        names = [path.name for path in root.iterdir()] if root.is_dir() and not where.exists() else []
        raise UserError(
            f"There are no checkpoints in {where}{nearest(name, names)} Name a run such as runs/tiny, or a stage of it."
        )
    return found


def model_folders(root: Path) -> list[Path]:
    """All model folders under a folder of runs; those whose weights were written last come first.

    What cannot be read, or goes while it is looked at, is left out.
    """
    found = []
    for place, _, names in os.walk(root):
        if "model.json" in names and "model.safetensors" in names:
            folder = Path(place)
            with contextlib.suppress(OSError):
                found.append(((folder / "model.safetensors").stat().st_mtime, folder))
    return [folder for _, folder in sorted(found, key=lambda one: one[0], reverse=True)]


def _newest() -> NamedModel:
    root = runs_root()
    folders = model_folders(root)
    if not folders:
        raise UserError(
            f"There is no model under {root} yet. Train one with `python train.py`, which needs no download and takes "
            "minutes on a CPU, and run this again; or name a model folder."
        )
    return _named(folders[0])


def _named(folder: Path) -> NamedModel:
    return NamedModel(str(folder.parent if folder.name == "model" else folder), folder)


def _path_of(name: str) -> Path:
    path = Path(name).expanduser()
    under_runs = runs_root() / path
    return under_runs if under_runs.exists() and not path.exists() else path


def _find_checkpoint(where: Path, step: int) -> Path:
    steps: list[str] = []
    for folder in (where, *(where / stage for stage in STAGES)):
        path = folder / "checkpoints" / f"step-{step:08d}.ckpt"
        if path.is_file():
            return path
        steps += [f"{folder}@{step_of(path)}" for path in reversed(step_checkpoints(folder / "checkpoints"))]
    there = f"There are {', '.join(steps)}." if steps else "There are none at all."
    raise UserError(
        f"There is no checkpoint of step {step} in {where}. {there} A training keeps the last ones: "
        "callbacks.checkpoints.keep_last says how many."
    )


def _load_checkpoint(path: Path, device: str) -> "LoadedModel":
    """The model in a training's checkpoint; its tokenizer is in the run's model folder."""
    import pickle

    import torch

    from nanochat_pl.checkpoint.model_folder import LoadedModel
    from nanochat_pl.models.contract import build_config, build_model
    from nanochat_pl.tokenizers.load import load_tokenizer

    run = path.parent.parent
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        header = checkpoint["nanochat_pl"]
        config = build_config(header["architecture"], header["model"])
        prefix = "model."
        weights = {name[len(prefix) :]: x for name, x in checkpoint["state_dict"].items() if name.startswith(prefix)}
        model = build_model(config, device, seed=None)
        model.load_state_dict(weights)
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, OSError, EOFError) as error:
        raise UserError(f"The checkpoint {path} is damaged or not one of nanochat_pl's: {error}.") from error
    stage = run.name if run.name in STAGES else "base"
    tokenizer = load_tokenizer(run / "model" / "tokenizer")
    return LoadedModel(model.eval(), tokenizer, {"step": float(checkpoint["global_step"])}, stage)
