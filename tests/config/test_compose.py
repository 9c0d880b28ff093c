"""The configuration as files: complete, every choice composes, and the name that a run gets."""

import dataclasses
import inspect
from pathlib import Path

import pytest
from hydra.utils import get_object
from omegaconf import DictConfig

from nanochat_pl.config.compose import CONF_FOLDER, compose, run_name, without_plus
from nanochat_pl.config.specs import Specs


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF_FOLDER / group).glob("*.yaml"))


def targets(config: DictConfig, prefix: str = "") -> list[tuple[str, DictConfig]]:
    found = [(prefix, config)] if "_target_" in config else []
    for name, value in config.items():
        if isinstance(value, DictConfig):
            found += targets(value, f"{prefix}.{name}".strip("."))
    return found


GROUPS = ["model", "tokenizer", "data", "optim", "schedule", "recipe", "hw", "stage", "callbacks", "logger", "trainer"]


@pytest.mark.parametrize("choice", [f"{group}={name}" for group in [*GROUPS, "experiment"] for name in choices(group)])
def test_every_choice_composes_and_shows_every_option(choice: str) -> None:
    config = compose([choice])
    parts = targets(config)
    assert len(parts) > 10
    for name, section in parts:
        target = get_object(section["_target_"])
        options, listed = set(inspect.signature(target).parameters), set(map(str, section)) - {"_target_"}
        if target.__module__.startswith("torch."):  # an optimizer as it stands, which keeps its other defaults
            assert listed <= options | {"grad_clip", "others"}, f"{name}: {target} has no such options"
        else:
            assert listed == options, f"{name} does not list the options of {target}"
    if choice not in ("data=text", "data=tokens", "data=hub"):  # these want to be told where
        assert dataclasses.is_dataclass(Specs.of(config))


def test_how_long_to_train_is_what_the_command_line_says_of_it() -> None:
    horizon = compose(["stage=sft", "horizon.steps=9"]).horizon
    assert (horizon.steps, horizon.epochs, horizon.flops) == (9, None, None)
    assert compose(["experiment=lr_range_test", "horizon.flops=1e15"]).horizon.steps is None
    assert compose(["horizon.steps=null", "horizon.epochs=2"]).horizon.epochs == 2
    assert compose(["horizon.epochs=null"]).horizon.steps == compose([]).horizon.steps > 0
    assert compose(["stage=sft", "++horizon.steps=9"]).horizon.epochs is None
    assert compose(["horizon.tokens_per_parameter=3"]).horizon.steps is None
    assert compose(["horizon.tokens_per_parameter=3", "horizon.steps=5"]).horizon.steps == 5


def test_the_plus_before_hw_is_dropped() -> None:
    assert without_plus(["+hw=cpu", "+x=1"]) == ["hw=cpu", "+x=1"]
    assert compose(["+hw=cpu"]).hw.accelerator == compose(["hw=cpu"]).hw.accelerator == "cpu"
    assert compose([]).hw.accelerator is None


def test_a_recipe_changes_what_is_trained_and_the_command_line_wins() -> None:
    assert compose([]).model.depth == 4
    assert compose(["model.depth=6"]).model.depth == 6
    assert compose(["experiment=shakespeare_char"]).data["_target_"].endswith("ShakespeareDataSpec")


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "tiny"),
        (["hw=cpu", "trainer.validate_every_n_steps=5", "callbacks.samples=null"], "tiny"),
        (["seed=2", "model.depth=6"], "tiny,model.depth=6,seed=2"),
        (["experiment=shakespeare_char"], "shakespeare_char"),
        (["experiment=shakespeare_char", "data.path=/a/b/text.txt"], "shakespeare_char,data.path=text.txt"),
        (["run.name=mine", "seed=2"], "mine"),
        (["stage.init_from=hf:org/small", "stage.sequence_len=64"], "tiny,stage.init_from=small,stage.sequence_len=64"),
        (["stage=sft", "stage.init_from=hf:gpt2"], "tiny"),
    ],
)
def test_the_name_of_a_run(overrides: list[str], name: str) -> None:
    assert run_name(compose(overrides), overrides) == name


def test_a_long_name_is_shortened_to_one_of_its_own() -> None:
    long = [f"optim.embedding.lr=0.{i}" + "0" * 100 for i in (1, 2)]
    names = {run_name(compose([override]), [override]) for override in long}
    assert len(names) == 2 and all(len(name) <= 120 and Path(name).name == name for name in names)
