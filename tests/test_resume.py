"""Runs that are killed and started again equal those that were left alone, bit for bit."""

import functools
import random
import shlex
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.processes import SMALL, losses, start_fork, start_training, train

ACCUMULATE = ("hw.tokens_per_device=64",)  # 2 rows a micro-batch, 4 micro-batches a step
SAMPLES = ("callbacks.samples.prompts=[a,bc]",)
STREAMED = ("streaming.enabled=true", "streaming.rank_k=4", "streaming.min_size=16", "streaming.target_layers=all")
EPOCHS = ("data.num_documents=96",)  # about 13 steps an epoch


def killed_at(micro_batch: int, signal_name: str = "SIGKILL") -> tuple[str, ...]:
    return (
        "+callbacks.kill._target_=tests.faults.Kill",
        f"+callbacks.kill.micro_batch={micro_batch}",
        f"+callbacks.kill.signal_name={signal_name}",
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folder of the run with these options that was left alone; one serves all tests that compare with it."""

    @functools.cache
    def trained(*options: str) -> Path:
        runs = tmp_path_factory.mktemp("whole")
        code, output = train(*options, runs=runs)
        assert code == 0, output
        return runs / "test/base"

    return trained


def assert_same_training(one: Path, other: Path) -> None:
    expected = losses(one)
    assert len(expected) >= 24 and all("train/loss" in row for row in expected.values())
    assert losses(other) == expected
    weights, others = load_file(one / "model/model.safetensors"), load_file(other / "model/model.safetensors")
    assert weights.keys() == others.keys() and all(weights[name].equal(others[name]) for name in weights)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "kills"),
    [
        (ACCUMULATE, (4 * 13 + 2,)),
        (EPOCHS, (12, 19)),
        ((*EPOCHS, *ACCUMULATE), (4 * 10 + 3, 4 * 17 + 1)),
        (("callbacks.checkpoints.every_n_steps=5",), (8, 16)),
        (SAMPLES, (13,)),
        ((*STREAMED, *ACCUMULATE), (4 * 13 + 2,)),
        (("optim=torch_muon", "schedule=cosine", "schedule.warmup_steps=5"), (13,)),
    ],
    ids=[
        "mid-accumulation",
        "epochs-twice",
        "all-at-once",
        "own-cadence",
        "with-samples",
        "streamed",
        "torchs-optimizers",
    ],
)
def test_killed_and_resumed_equals_uninterrupted(
    tmp_path: Path, whole: Callable[..., Path], options: tuple[str, ...], kills: tuple[int, ...]
) -> None:
    small = SMALL if options != SAMPLES else tuple(option for option in SMALL if option != "callbacks.samples=null")
    for micro_batch in kills:
        code, output = train(*small, *options, *killed_at(micro_batch), runs=tmp_path / "killed")
        assert code == -9, output
    code, output = train(*small, *options, runs=tmp_path / "killed")
    assert code == 0 and "Going on from step" in output, output
    expected, killed = whole(*small, *options), tmp_path / "killed/test/base"
    assert_same_training(expected, killed)
    if options == SAMPLES:
        assert (killed / "samples.txt").read_text() == (expected / "samples.txt").read_text()


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written(tmp_path: Path, whole: Callable[..., Path]) -> None:
    kill = ("+callbacks.kill._target_=tests.faults.KillInSave", "+callbacks.kill.checkpoint=2")
    assert train(*SMALL, *kill, runs=tmp_path / "killed")[0] == -9
    run = tmp_path / "killed/test/base"
    assert len(list(run.rglob(".*.tmp"))) == 1  # what the kill left
    code, output = train(*SMALL, runs=tmp_path / "killed")
    assert code == 0 and "Going on from step 8" in output and "damaged" not in output, output
    assert not list(run.rglob(".*.tmp"))
    assert_same_training(whole(*SMALL), run)


@pytest.mark.slow
def test_killed_at_any_moment_loses_the_steps_since_the_last_checkpoint(tmp_path: Path) -> None:
    """Moments of the clock: in a step, a validation, an export or a save.

    One of the killed is no fork: its sets are in another order too.
    """
    options = (*SMALL, "horizon.steps=80", "trainer.validate_every_n_steps=3")
    assert train(*options, runs=tmp_path / "whole")[0] == 0
    run = tmp_path / "killed/test/base"
    rng, reached = random.Random(0), 0
    for start in (start_training, start_fork, start_fork, start_fork):
        process = start(*options, runs=tmp_path / "killed")
        try:
            deadline = time.monotonic() + 120
            while last_step(run) <= reached:
                assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.2))
        finally:
            process.kill()
            process.communicate()
        assert last_step(run) >= reached
        reached = last_step(run)
    code, output = train(*options, runs=tmp_path / "killed")
    assert code == 0 and f"Going on from step {reached}" in output, output
    assert_same_training(tmp_path / "whole/test/base", run)


def last_step(run: Path) -> int:
    return max((int(path.stem[5:]) for path in run.glob("checkpoints/step-*.ckpt")), default=0)


@pytest.mark.slow
def test_checkpoints_by_the_clock(tmp_path: Path) -> None:
    cadence = ("callbacks.checkpoints.every_n_steps=1000", "callbacks.checkpoints.every_n_minutes=0.000001")
    assert train(*SMALL, *cadence, *killed_at(21), runs=tmp_path)[0] == -9
    names = sorted(path.name for path in (tmp_path / "test/base/checkpoints").glob("step-*"))
    assert names == [f"step-{step:08d}.ckpt" for step in (18, 19, 20)]  # every step was late, the last three are kept


@pytest.mark.slow
def test_a_signal_saves_at_the_step_boundary(tmp_path: Path, whole: Callable[..., Path]) -> None:
    for name, code, step in (("SIGTERM", 143, 12), ("SIGINT", 130, 18)):
        found, output = train(*SMALL, *ACCUMULATE, *killed_at(4 * (step - 1) + 2, name), runs=tmp_path / "stopped")
        assert found == code and f"after step {step}" in output and "Traceback" not in output, output
        assert (tmp_path / f"stopped/test/base/checkpoints/step-{step:08d}.ckpt").exists()
    assert "Going on from step 12" in output, output
    found, output = train(*SMALL, *ACCUMULATE, runs=tmp_path / "stopped")
    assert found == 0 and "Going on from step 18" in output, output
    assert_same_training(whole(*SMALL, *ACCUMULATE), tmp_path / "stopped/test/base")


@pytest.mark.slow
def test_a_signal_before_a_validation_waits_for_it(tmp_path: Path, whole: Callable[..., Path]) -> None:
    code, output = train(*SMALL, *killed_at(16, "SIGTERM"), runs=tmp_path / "stopped")
    assert code == 143 and "after step 16" in output, output
    code, output = train(*SMALL, *killed_at(24, "SIGTERM"), runs=tmp_path / "stopped")
    assert code == 0 and "Trained 24 steps" in output, output  # the last step: nothing is left to stop
    assert_same_training(whole(*SMALL), tmp_path / "stopped/test/base")


@pytest.mark.slow
@pytest.mark.parametrize("before", [1, 2])
def test_resumed_with_another_micro_batch_trains_on_the_same_rows(
    tmp_path: Path, whole: Callable[..., Path], before: int
) -> None:
    cut = (f"hw.tokens_per_device={256 // before}", "callbacks.checkpoints.every_n_steps=5")
    assert train(*SMALL, *cut, *killed_at(13 * before), runs=tmp_path / "killed")[0] == -9
    code, output = train(*SMALL, *ACCUMULATE, "callbacks.checkpoints.every_n_steps=5", runs=tmp_path / "killed")
    assert code == 0 and "Going on from step 10" in output, output
    expected, found = losses(whole(*SMALL)), losses(tmp_path / "killed/test/base")
    assert expected.keys() == found.keys()
    for step, row in expected.items():
        assert float(found[step]["train/loss"]) == pytest.approx(float(row["train/loss"]), rel=2e-4)


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path: Path, whole: Callable[..., Path]) -> None:
    assert train(*SMALL, *killed_at(20), runs=tmp_path / "killed")[0] == -9
    run = tmp_path / "killed/test/base"
    newest = run / "checkpoints/step-00000016.ckpt"
    newest.write_bytes(newest.read_bytes()[:-1000])
    code, output = train(*SMALL, runs=tmp_path / "killed")
    assert code == 0 and "is damaged" in output and "Going on from step 8" in output, output
    assert_same_training(whole(*SMALL), run)


@pytest.mark.slow
def test_a_finished_run_says_so_and_can_be_extended(tmp_path: Path) -> None:
    small = [option for option in SMALL if not option.startswith(("run.name", "horizon.steps"))]
    named = (*small, "run.name='a,b=c'", "horizon.steps=11")  # a name that needs quoting
    assert train(*named, runs=tmp_path)[0] == 0
    code, output = train(*named, runs=tmp_path)
    assert code == 0 and "is finished" in output, output
    run = tmp_path / "a,b=c/base"
    assert (run / "checkpoints/step-00000011.ckpt").exists()
    assert "val/bpb" in losses(run)["11"], "the last step is validated whatever the cadence"

    longer = next(line for line in output.splitlines() if "train it longer" in line).partition("   (")[0]
    arguments = shlex.split(longer)[2:]
    assert 'run.name="a,b=c"' in arguments and "horizon.steps=22" in arguments
    code, output = train(*arguments, runs=tmp_path)
    assert code == 0 and "Going on from step 11" in output, output
    assert list(losses(run))[-1] == "22" and len(losses(run)) == 22

    code, output = train(*arguments, "model.n_embd=64", runs=tmp_path)
    assert code == 2 and "model.n_embd was 32 and is now 64" in output, output
    others = ("model.n_embd=64", "run.fresh=true", "trainer.validate_every_n_steps=4")
    code, output = train(*arguments, *others, runs=tmp_path)
    assert code == 0, output
    assert len(losses(run)) == 22 and "Trained 22 steps" in (run / "train.log").read_text()
    aside = next(run.parent.glob("base.before-*"))
    assert (aside / "metrics.csv").exists() and "Trained 11 steps" in (aside / "train.log").read_text()
