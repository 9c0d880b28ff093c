"""What is in a checkpoint or a model folder, read without running anything of it; and whether all of it is sound."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat_pl.checkpoint.header import check_sizes, read_header
from nanochat_pl.checkpoint.saved import is_sound, step_checkpoints, step_of
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.run_folder import as_object
from nanochat_pl.models.contract import build_config, build_model

PREFIX = "model."
"""Of the weights' names in a checkpoint."""


@dataclass(frozen=True)
class Contents:
    """What was saved. The weights are mapped from the file: they take no memory until they are looked at.

    Attributes:
        path: a checkpoint, or a model folder.
        step: the optimizer step that it was saved after.
        config: of the model.
        weights: name -> weight.
        optimizer: name -> tensor of the optimizer's state; empty in a model folder.
        data: where the data stand; empty in a model folder.
        program: commit and versions of what saved it; empty where that was not recorded.
    """

    path: Path
    step: int
    architecture: str
    config: dict[str, Any]
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    program: dict[str, Any] = field(default_factory=dict)

    def expected(self) -> Any:
        """The model that the weights are of, without weights.

        Raises:
            UserError: there is no such model.
        """
        return build_model(build_config(self.architecture, self.config), "meta", seed=None)

    def roles(self) -> dict[str, str]:
        """The role of each parameter by name.

        Raises:
            UserError: there is no such model.
        """
        return self.expected().param_roles()

    def wrong(self) -> Iterator[str]:
        """What makes it useless, in words; reads every value.

        Raises:
            UserError: there is no such model.
        """
        shapes = {name: tuple(weight.shape) for name, weight in self.expected().state_dict().items()}
        found = {name: tuple(weight.shape) for name, weight in self.weights.items()}
        for name in sorted(shapes.keys() | found.keys()):
            if shapes.get(name) != found.get(name):
                yield f"{name} has shape {found.get(name)}, its model {shapes.get(name)}"
        for what, tensors in (("weight", self.weights), ("optimizer's state of", self.optimizer)):
            for name, tensor in tensors.items():
                if tensor.is_floating_point() and not tensor.isfinite().all():
                    yield f"the {what} {name} is not finite"


def read_contents(path: Path) -> Contents:
    """Read a checkpoint (a file) or a model folder.

    Raises:
        UserError: it is damaged, or not one of nanochat_pl's.
    """
    return _read_model_folder(path) if path.is_dir() else _read_checkpoint(path)


def fault_of(path: Path) -> str | None:
    """What is wrong with a checkpoint or a model folder, in words; None: it is whole, loadable and finite."""
    if not path.is_dir() and not is_sound(path):
        return "it is cut short or overwritten (a checksum is wrong)"
    try:
        contents = read_contents(path)
        wrong = list(contents.wrong())
    except UserError as error:
        return str(error)
    if path in step_checkpoints(path.parent) and contents.step != step_of(path):
        wrong.insert(0, f"it holds step {contents.step}, not what its name says")
    return "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "") or None


def _read_checkpoint(path: Path) -> Contents:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        header, state = saved["nanochat_pl"], saved["state_dict"]
        optimizer, _ = saved["optimizer_states"][0], saved["loops"]
        names = [name for group in optimizer["param_groups"] for name in group["param_names"]]
        indices = [index for group in optimizer["param_groups"] for index in group["params"]]
        name_of = dict(zip(indices, names, strict=True))
        return Contents(
            path=path,
            step=int(saved["global_step"]),
            architecture=header["architecture"],
            config=dict(header["model"]),
            weights={name.removeprefix(PREFIX): x for name, x in state.items() if name.startswith(PREFIX)},
            optimizer={
                f"{name_of[index]}.{key}": value
                for index, values in optimizer["state"].items()
                for key, value in values.items()
                if isinstance(value, Tensor)
            },
            data=next((part for name, part in saved.items() if name.endswith("DataModule")), {}),
            program=as_object(header.get("program")),
        )
    except Exception as error:  # whatever an overwritten byte in the middle of it leads to
        reason = str(error).split(". ")[0].splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"The checkpoint {path} is damaged or not one of nanochat_pl's: {reason}.") from error


def _read_model_folder(folder: Path) -> Contents:
    from safetensors import SafetensorError, safe_open

    header = read_header(folder)
    check_sizes(folder, header.config)
    try:
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            step = int(float((file.metadata() or {}).get("step", 0)))
    except (SafetensorError, OSError, ValueError, OverflowError) as error:
        raise UserError(f"{folder}/model.safetensors is missing or damaged: {error}.") from error
    return Contents(folder, step, header.architecture, header.config, weights)
