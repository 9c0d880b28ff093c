"""Every hardware profile with every stage and recipe: composes anywhere, and plans anywhere."""

import itertools

import pytest

from nanochat_pl.config.compose import CONF_FOLDER, compose
from nanochat_pl.config.specs import Specs
from nanochat_pl.core.chips import CHIPS
from nanochat_pl.planning.plan import Plan

RECIPES = {
    "auto": "tiny", "cpu": "tiny", "mps": "tiny", "rtx4090": "d12", "rtx5090": "run10", "h100x1": "d12",
    "h200x1": "d20", "a100x8": "d20", "h100x8": "d24", "b200x8": "d24", "slurm": "d24",
}  # fmt: skip
STAGES = ("base", "mid", "sft", "rl")


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF_FOLDER / group).glob("*.yaml"))


def planned(*overrides: str) -> Plan:
    specs = Specs.of(compose(overrides))
    return specs.plan(specs.planned_vocab_size(), specs.hw.assume())


NAMED = {name: (chip.name, devices) for chip in CHIPS.values() for devices, name in chip.profiles}
"""The profiles that the table of chips knows."""


@pytest.mark.parametrize("hw", names("hw"))
def test_a_profile_names_its_recipe_and_the_table_of_chips_the_profile(hw: str) -> None:
    config = compose([f"+hw={hw}"])
    assert config.recipe_name == RECIPES[hw]
    if hw in NAMED:
        assert (config.hw.chip or "Apple M4", config.hw.devices or 1) == NAMED[hw]
    else:
        assert hw in ("auto", "cpu", "slurm")


def test_the_recipe_of_the_command_line_or_of_an_experiment_wins() -> None:
    assert compose(["hw=h100x8", "recipe=d12"]).recipe_name == "d12"
    chosen = compose(["hw=h100x8", "experiment=shakespeare_char"])
    assert chosen.recipe_name == "tiny" and chosen.model.depth == 4 and chosen.hw.devices == 8
    assert chosen.callbacks.evaluate.suites == []
    assert compose(["hw=h100x8", "model.depth=8"]).model.depth == 8


def test_what_the_stages_train_on_belongs_to_the_curriculum() -> None:
    assert compose(["hw=h100x8"]).data.repo == "HuggingFaceFW/fineweb-edu"
    sft = compose(["hw=h100x8", "stage=sft"])
    assert sft.data._target_.endswith("ChatDataSpec") and sft.callbacks.evaluate.suites == ["chat"]
    assert sft.data.tasks[2].name == "gsm8k" and sft.horizon.epochs == 1
    rl = compose(["recipe=d12", "stage=rl"])
    assert rl.data.task.name == "gsm8k" and rl.callbacks.evaluate.suites == ["tasks=gsm8k"]
    tiny = compose(["recipe=d12", "curriculum=tiny", "stage=rl"])
    assert tiny.data.task.name == "tiny_math" and tiny.model.depth == 12 and tiny.tokenizer.vocab_size == 1024


def test_slurm_says_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (compose(["hw=slurm"]).hw.nodes, compose(["hw=slurm"]).hw.devices) == (2, 8)
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "4")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")
    hw = Specs.of(compose(["hw=slurm"])).hw
    assert (hw.nodes, hw.devices) == (4, 2)


HARDWARE = itertools.cycle(names("hw"))
COMBINATIONS = [(next(HARDWARE), recipe, stage) for recipe in names("recipe") for stage in STAGES]


@pytest.mark.parametrize(("hw", "recipe", "stage"), COMBINATIONS)
def test_every_recipe_and_stage_plans_on_some_hardware(hw: str, recipe: str, stage: str) -> None:
    plan = planned(f"hw={hw}", f"recipe={recipe}", f"stage={stage}", "hw.tokens_per_device=8192")
    assert plan.micro_batch_rows * plan.accumulation * plan.hardware.world_size == plan.rows_per_step
    assert plan.seconds > 0


@pytest.mark.slow
@pytest.mark.parametrize("hw", names("hw"))
def test_every_recipe_and_every_stage_plans_on_all_hardware(hw: str) -> None:
    stages = itertools.cycle(STAGES)
    for recipe in names("recipe"):  # the stages of the profile's own, and of each other recipe the next stage
        for stage in STAGES if recipe == RECIPES[hw] else (next(stages),):
            assert planned(f"hw={hw}", f"recipe={recipe}", f"stage={stage}").seconds > 0


@pytest.mark.parametrize(("hw", "recipe"), [(hw, recipe) for hw, recipe in RECIPES.items() if recipe != "tiny"])
def test_the_recipe_of_a_profile_fits_on_its_device(hw: str, recipe: str) -> None:
    plan = planned(f"hw={hw}")
    assert plan.fits and plan.micro_batch_rows * plan.model.sequence_len >= 8192
    assert plan.hardware.compile is True
    assert f"x {plan.hardware.chip.name}" in plan.text()
