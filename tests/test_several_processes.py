"""Trainings on several processes: the same as on one, and as hard to break."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.diagnosis import stuck
from tests.processes import SMALL, losses, train, train_together

STEPS = 20
OPTIONS = (
    *(option for option in SMALL if not option.startswith("horizon.steps")), f"horizon.steps={STEPS}",
    # What makes whole steps of rounding: AdamW of the smallest gradients (in two layers backout has no other), and a
    # decay that is there or not.
    "optim.eps=1e-3", "model.backout=false", "optim.cautious=false", "optim.lr=0.02",
)  # fmt: skip
TWO_ROWS = ("hw.tokens_per_device=64",)
STREAMED = ("streaming.enabled=true", "streaming.rank_k=4", "streaming.min_size=16", "streaming.target_layers=all")
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
        ("mid", 2, TWO_ROWS),
        ("sft", 2, TWO_ROWS),
        ("sft", 4, ()),
        ("rl", 2, TWO_ROWS),
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


@pytest.mark.slow
def test_the_default_optimizer_too(tmp_path: Path) -> None:
    """As far as its rounding allows: AdamW makes whole steps of the smallest gradients."""
    one, two = (together(size, *SMALL, runs=tmp_path / str(size)) / "base" for size in (1, 2))
    expected, found = losses(one), losses(two)
    assert expected.keys() == found.keys()
    for step, row in expected.items():
        assert float(found[step]["train/loss"]) == pytest.approx(float(row["train/loss"]), rel=1e-3), step


@pytest.mark.slow
def test_sketches_of_gradients_too(tmp_path: Path) -> None:
    """Of matrices that DDP does not know (streaming)."""
    alone = together(1, *OPTIONS, *STREAMED, runs=tmp_path / "alone") / "base"
    assert_same(alone, together(2, *OPTIONS, *TWO_ROWS, *STREAMED, runs=tmp_path / "two") / "base")


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "idle"), [("base", ()), ("rl", ("+callbacks.watch.idle_step=2",))])
def test_gradients_have_no_other_place_than_the_buckets(
    tmp_path: Path, arguments_of: Callable[[str], tuple[str, ...]], stage: str, idle: tuple[str, ...]
) -> None:
    options = (*arguments_of(stage), *TWO_ROWS, "horizon.steps=4", "trainer.validate_every_n_steps=2")
    watch = "+callbacks.watch._target_=tests.callbacks.watching.Buckets"
    for code, output in train_together(2, *options, watch, *idle, runs=tmp_path):
        assert code == 0 and ("Nothing was learned." in output) == bool(idle), output


def fault(rank: int, micro_batch: int, what: str, name: str = "fault") -> tuple[str, ...]:
    return (
        f"+callbacks.{name}._target_=tests.faults.OnOneRank", f"+callbacks.{name}.rank={rank}",
        f"+callbacks.{name}.micro_batch={micro_batch}", f"+callbacks.{name}.what={what}",
    )  # fmt: skip


@pytest.mark.slow
def test_killed_and_resumed_on_other_numbers_of_processes(tmp_path: Path, alone: Callable[[str], Path]) -> None:
    """Two processes, one of which is killed; then one; then four."""
    options = (*OPTIONS, "callbacks.checkpoints.every_n_steps=3")
    killed = train_together(2, *options, *fault(1, 8, "kill"), runs=tmp_path)
    assert killed[1][0] == -9
    assert killed[0][0] == 3 and "has lost another process" in killed[0][1], killed[0]
    assert "Traceback" not in killed[0][1]
    code, output = train(*options, *fault(0, 14, "kill"), runs=tmp_path)
    assert code == -9 and "Going on from step 6" in output, output
    results = train_together(4, *options, runs=tmp_path)
    assert [code for code, _ in results] == [0] * 4 and "Going on from step 12" in results[0][1], results
    assert_same(alone("base"), tmp_path / "test/base")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("hang", "Rank 1 is busy with something else, and the others wait for it."),
        ("stop", "Rank 1 did not answer at all"),
    ],
)
def test_a_process_that_hangs_is_named(tmp_path: Path, what: str, words: str) -> None:
    ending = [0] if what == "stop" else [0, 1]
    results = train_together(2, *OPTIONS, *fault(1, 5, what), "hw.timeout_seconds=6", runs=tmp_path, joined=ending)
    output = "".join(text for _, text in results)  # the first that has waited long enough tells it
    assert [code for code, _ in results] == [3] * len(ending) and output.count(words) == 1, output
    assert "after step 4" in output and "Traceback" not in output
    run = tmp_path / "test/base"
    dumped = {path.name for path in (run / "stacks").iterdir()}
    assert dumped == ({"rank-0.txt", "rank-1.txt"} if what == "hang" else {"rank-0.txt"})
    if what == "hang":
        assert "faults.py" in output and "faults.py" in (run / "stacks/rank-1.txt").read_text()
    assert json.loads((run / "summary.json").read_text())["status"] == "failed"
    hung = stuck.diagnose(RunFolder(run)).findings[0].what
    assert ("rank 1 is in a callback, and the others wait" if what == "hang" else "rank 1 wrote no stacks") in hung


@pytest.mark.slow
def test_a_process_that_hangs_ends_where_the_others_cannot_be_asked(tmp_path: Path) -> None:
    """The first one, which keeps what they tell each other, is gone."""
    faults = (*fault(0, 5, "kill"), *fault(1, 5, "hang", name="other"))
    _, (code, output) = train_together(2, *OPTIONS, *faults, "hw.timeout_seconds=4", runs=tmp_path)
    assert code == 3 and "could not ask the others" in output and "Traceback" not in output, output


@pytest.mark.slow
def test_a_slow_disk_is_no_hang(tmp_path: Path) -> None:
    slow = ("+callbacks.disk._target_=tests.faults.SlowSave", "+callbacks.disk.seconds=7.5")
    few = [option for option in OPTIONS if not option.startswith("horizon.steps")]
    results = train_together(2, *few, *slow, "horizon.steps=4", "hw.timeout_seconds=6", runs=tmp_path)
    assert [code for code, _ in results] == [0, 0], results
    assert len(list((tmp_path / "test/base/checkpoints").glob("step-*.ckpt"))) == 1


@pytest.mark.slow
def test_an_error_on_any_rank_is_told_once_with_its_exit_code(tmp_path: Path) -> None:
    spoiled = train_together(2, *OPTIONS, *fault(1, 5, "spoil"), runs=tmp_path / "spoiled")
    assert [code for code, _ in spoiled] == [4, 4]
    assert sum("The training loss is nan at step 5" in output for _, output in spoiled) == 1
    failed = train_together(2, *OPTIONS, *fault(1, 5, "fail"), runs=tmp_path / "failed")
    assert failed[1][0] == 1 and "ValueError: a mishap on one rank" in failed[1][1]
    assert failed[0][0] == 1 and "Traceback" not in failed[0][1]


@pytest.mark.slow
def test_processes_that_differ_are_refused(tmp_path: Path) -> None:
    results = train_together(2, *OPTIONS, runs=tmp_path, only_rank={1: ("horizon.steps=21",)})
    outputs = [output for _, output in results]
    assert [code for code, _ in results] == [2, 2], outputs
    told = [output for output in outputs if "would train something else than rank 0" in output]
    assert len(told) == 1 and "horizon.steps is 21 there, 20 here" in told[0]
    assert not list(tmp_path.rglob("config.yaml"))
