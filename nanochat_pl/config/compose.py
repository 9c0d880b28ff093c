"""The command line composed by Hydra, and the name of the run that it asks for."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.paths import runs_root

CONF_FOLDER = Path(__file__).resolve().parents[2] / "conf"

NOT_TRAINED = ("run", "hw", "stage", "recipe", "experiment", "trainer", "callbacks", "logger", "hydra")
"""Sections and groups that don't change what is trained, so that they don't show in the run's name."""
OF_BASE = ("stage.init_from", "stage.sequence_len", "stage.dropout")
"""Options that do for stage=base; a later stage belongs to the run of its base stage, whatever it begins with."""
HOW_LONG = ("horizon.steps", "horizon.epochs", "horizon.flops")
"""Options of which each says how long to train; where none is set, horizon.tokens_per_parameter does."""


def in_sweep() -> bool:
    """Whether Hydra runs this job as one of several."""
    return HydraConfig.initialized() and not OmegaConf.is_missing(HydraConfig.get().job, "num")


OmegaConf.register_new_resolver("runs_root", lambda: str(runs_root()), replace=True)
OmegaConf.register_new_resolver(
    "sweep_name", lambda: Path(HydraConfig.get().sweep.dir).name if in_sweep() else None, replace=True
)


LIGHTNINGS = {
    "trainer.devices=": "hw.devices=",
    "trainer.num_nodes=": "hw.nodes=",
    "trainer.accelerator=": "hw.accelerator=",
}
"""Options of Lightning's Trainer, and the ones that say the same here."""


def without_plus(arguments: Sequence[str]) -> list[str]:
    """`+hw=cpu` as `hw=cpu`: `hw` stands in the defaults list, where Hydra refuses the plus."""
    for theirs, ours in LIGHTNINGS.items():
        arguments = [
            ours + argument.removeprefix(theirs) if argument.startswith(theirs) else argument for argument in arguments
        ]
    return [argument[1:] if argument.startswith("+hw=") else argument for argument in arguments]


def compose(overrides: Sequence[str]) -> DictConfig:
    """The configuration of train.py for these overrides, without running anything.

    Args:
        overrides: `--config-dir FOLDER`, as Hydra takes it, may be among them.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    overrides, own = own_config(without_plus(overrides))
    if own is not None:
        overrides = [f"hydra.searchpath=['file://{own.resolve()}']", *overrides]
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF_FOLDER), version_base="1.3"):
        config = hydra.compose("train", overrides)
    settle_horizon(config, overrides)
    return config


def settle_horizon(config: DictConfig, overrides: Sequence[str]) -> None:
    """Let the command's way to say how long to train go before the recipe's, the stage's and the experiment's."""
    names = (*HOW_LONG, "horizon.tokens_per_parameter")
    plain = [override.lstrip("+") for override in overrides]
    given = dict(override.partition("=")[::2] for override in plain if override.startswith(names))
    if [value != "null" for value in given.values()].count(True) == 1:
        for option in set(HOW_LONG) - given.keys():
            OmegaConf.update(config, option, None)


def own_config(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """The arguments without `--config-dir FOLDER`, and that folder, whose groups stand beside those of conf.

    Raises:
        UserError: there is no such folder.
    """
    rest, folder, waiting = [], None, False
    for argument in arguments:
        name, is_given, value = argument.partition("=")
        if waiting:
            folder, waiting = Path(argument), False
        elif name in ("--config-dir", "-cd"):
            folder, waiting = Path(value) if is_given else None, not is_given
        else:
            rest.append(argument)
    if waiting or (folder is not None and not folder.is_dir()):
        raise UserError(f"--config-dir names no folder{f': there is no {folder}' if folder else ''}.")
    return rest, folder


def run_name(config: DictConfig, overrides: Sequence[str]) -> str:
    """`run.name`, else the experiment or recipe and the overrides that change what is trained."""
    if config.run.name is not None:
        return str(config.run.name)
    chosen = dict(override.lstrip("+~").partition("=")[::2] for override in own_config(overrides)[0])
    base = chosen.get("experiment") or config.recipe_name
    changes = [
        re.sub(r"[^\w.,=+-]+", "_", f"{key}={value.rpartition('/')[2]}")
        for key, value in sorted(chosen.items())
        if re.split(r"[./@]", key)[0] not in NOT_TRAINED or (key in OF_BASE and config.stage.get("name") == "base")
    ]
    name = ",".join([base, *changes])
    if len(name) <= 120:
        return name
    return f"{name[:100]},{hashlib.sha256(name.encode()).hexdigest()[:12]}"
