"""Trainings on several processes: the same as on one, and as hard to break."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.processes import SMALL, losses, train, train_together

STEPS = 20
OPTIONS = (
    *(option for option in SMALL if not option.startswith("horizon.steps")), f"horizon.steps={STEPS}",
    # What makes whole steps of rounding: AdamW of the smallest gradients (in two layers backout has no other), and a
    # decay that is there or not.
    "optim.eps=1e-3", "model.backout=false", "optim.cautious=false", "optim.lr=0.02",
)  # fmt: skip
TWO_ROWS = ("hw.tokens_per_device=64",)
CHATS = [
    [{"role": "user", "content": "b" * (n % 9)}, {"role": "assistant", "content": "ab" * (n % 7 + 1)}]
    for n in range(200)
]


def together(world_size: int, *arguments: str, runs: Path) -> Path:
    """The run's folder."""
    if world_size == 1:
        code, output = train(*arguments, runs=runs)
        assert code == 0, output
    else:
        for code, output in train_together(world_size, *arguments, runs=runs):
            assert code == 0, output
    return runs / "test"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished base stage that later stages begin with."""
    return together(1, *OPTIONS, runs=tmp_path_factory.mktemp("base")) / "base"


@pytest.fixture(scope="module")
def arguments_of(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[str, ...]]:
    """The command line of a stage."""
    chats = tmp_path_factory.mktemp("data") / "chats.jsonl"
    chats.write_text("".join(json.dumps(chat) + "\n" for chat in CHATS))
    mine = ("tokenizer=", "model.", "data.")
    later = (
        *(option for option in OPTIONS if not option.startswith(mine)), f"stage.init_from={base}",
        "schedule.warmup_steps=0", "callbacks.evaluate=null",
    )  # fmt: skip
    chat = ("tasks=custom", f"tasks.path={chats}", "data.streams=4")
    vowels = ("data._target_=tests.stages.vowels.VowelsSpec", "stage.max_new_tokens=8", "data.samples_per_prompt=2")
    stages = {
        "base": OPTIONS,
        "mid": (*later, "stage=mid", *chat),
        "sft": (*later, "stage=sft", *chat),
        "rl": (*later, "stage=rl", *vowels),
    }
    return stages.__getitem__


@pytest.fixture(scope="module")
def alone(
    arguments_of: Callable[[str], tuple[str, ...]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The folder of a stage that one process has trained, without accumulation."""

    @functools.cache
    def trained(stage: str) -> Path:
        return together(1, *arguments_of(stage), runs=tmp_path_factory.mktemp("alone")) / stage

    return trained


def assert_same(one: Path, other: Path) -> None:
    expected, found = losses(one), losses(other)
    assert len(expected) >= STEPS and expected.keys() == found.keys()
    for step, row in expected.items():
        assert row.keys() == found[step].keys()
        for name, value in row.items():
            assert float(found[step][name]) == pytest.approx(float(value), rel=1e-5, abs=1e-5), (step, name)
    weights, others = load_file(one / "model/model.safetensors"), load_file(other / "model/model.safetensors")
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight, rtol=1e-5, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "world_size", "options"),
    [
        ("base", 2, TWO_ROWS),
        ("base", 4, ()),
        ("mid", 2, ()),
        ("sft", 2, TWO_ROWS),
        ("sft", 4, ()),
        ("rl", 2, ()),
    ],
    ids=lambda value: str(value) if not isinstance(value, tuple) else ("accumulating" if value else "at-once"),
)
def test_any_number_of_processes_trains_alike(
    tmp_path: Path,
    arguments_of: Callable[[str], tuple[str, ...]],
    alone: Callable[[str], Path],
    stage: str,
    world_size: int,
    options: tuple[str, ...],
) -> None:
    run = together(world_size, *arguments_of(stage), *options, runs=tmp_path) / stage
    assert_same(alone(stage), run)
    assert json.loads((run / "summary.json").read_text())["world_size"] == world_size
