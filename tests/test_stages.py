"""All four stages as a user runs them: real processes, one after the other, stopped and started again."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from nanochat_pl.tokenizers.load import load_tokenizer
from tests.processes import train

SMALL = (
    "model.depth=2", "model.n_embd=64", "horizon.total_batch_tokens=1024", "horizon.steps=4", "hw=cpu", "hw.threads=1",
    "trainer.validate_every_n_steps=2", "callbacks.metrics.every_n_steps=1", "callbacks.evaluate.max_per_task=2",
    "run.name=test",
)  # fmt: skip
CUSTOM = [
    [{"role": "user", "content": f"What follows {n}?"}, {"role": "assistant", "content": f"{n + 1}."}]
    for n in range(40)
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tokenizer of all that train on the tiny world is trained once."""
    return {"NANOCHAT_PL_CACHE": str(tmp_path_factory.mktemp("cache"))}


def summary(runs: Path, stage: str) -> dict:
    return json.loads((runs / "test" / stage / "summary.json").read_text())


@pytest.mark.slow
def test_four_stages_in_one_command(tmp_path: Path, cache: dict[str, str]) -> None:
    code, output = train("-m", "stage=base,mid,sft,rl", *SMALL, "task=tiny_sums", runs=tmp_path, environment=cache)
    assert code == 0, output
    weights = {}
    for stage in ("base", "mid", "sft", "rl"):
        assert summary(tmp_path, stage)["status"] == "finished"
        assert json.loads((tmp_path / "test" / stage / "model/model.json").read_text())["stage"] == stage
        weights[stage] = load_file(tmp_path / "test" / stage / "model/model.safetensors")["embedding.weight"]
    tokenizers = {load_tokenizer(tmp_path / "test" / stage / "model/tokenizer").fingerprint for stage in weights}
    assert len(tokenizers) == 1
    # Each begins where the one before it ended: a few small steps away.
    for earlier, later in (("base", "mid"), ("mid", "sft"), ("sft", "rl")):
        moved = (weights[later] - weights[earlier]).norm() / weights[earlier].norm()
        # No answer of such a model is right, and where all are worth the same, nothing is learned from them.
        assert moved == 0 if later == "rl" else 0 < moved < 0.5, (later, moved)
        resolved = json.loads((tmp_path / "test" / later / "resolved.json").read_text())
        assert resolved["parent"] == {"path": str(tmp_path / "test" / earlier / "model"), "stage": earlier, "step": 4}
    samples = (tmp_path / "test/sft/samples.txt").read_text()
    assert "What is 12 plus 30? -> " in samples


@pytest.mark.slow
def test_an_experiment_that_is_a_whole_pipeline(tmp_path: Path, cache: dict[str, str]) -> None:
    shape = ("model.head_dim=32", "model.sequence_len=128", "curriculum=tiny", "callbacks.evaluate=null")
    streaming = ("streaming.enabled=true", "streaming.rank_k=8", "streaming.min_size=16")
    arguments = ("experiment=run10", *SMALL, *shape, *streaming)
    code, output = train(*arguments, runs=tmp_path, environment=cache)
    assert code == 0, output
    for stage in ("base", "mid", "sft"):
        assert summary(tmp_path, stage)["status"] == "finished"
        assert "low-rank gradients (k=8, 4 of " in (tmp_path / "test" / stage / "plan.txt").read_text()
    assert f"Report: {tmp_path / 'test/report.html'}" in output
    assert (tmp_path / "test/report.html").stat().st_size > 10_000
    dense = ("stage=mid", "streaming.enabled=false", "run.fresh=true")
    code, output = train(*arguments, *dense, runs=tmp_path, environment=cache)
    assert code == 2 and "other parameters" in output and "stage.momentum=false" in output, output
    code, output = train(*arguments, "stage=sft", "run.name=alone", runs=tmp_path, environment=cache)
    assert code == 2 and "begins with the model of an earlier stage" in output, output


@pytest.mark.slow
def test_a_stage_that_fails_stops_those_behind_it(tmp_path: Path, cache: dict[str, str]) -> None:
    broken = "tasks.train=[{name: custom, path: nowhere.jsonl}]"
    options = (*SMALL, "callbacks.samples=null", "callbacks.evaluate=null", broken)
    code, output = train("-m", "stage=base,sft,rl", *options, runs=tmp_path, environment=cache)
    assert code == 2 and "nowhere.jsonl" in output, output
    assert summary(tmp_path, "base")["status"] == "finished"
    assert not (tmp_path / "test/rl").exists()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, cache: dict[str, str]) -> Path:
    runs = tmp_path_factory.mktemp("base")
    code, output = train(*SMALL, "callbacks.samples=null", runs=runs, environment=cache)
    assert code == 0, output
    return runs / "test/base"


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_a_stage_that_is_killed_goes_on_exactly(tmp_path: Path, base: Path, stage: str) -> None:
    chats = tmp_path / "chats.jsonl"
    chats.write_text("".join(json.dumps(chat) + "\n" for chat in CUSTOM))
    small = (*SMALL, "callbacks.samples=null")
    shutil.copytree(base, tmp_path / "base")
    begin = [f"stage.init_from={tmp_path}/base", f"stage={stage}", "horizon.steps=6", *small[:3], *small[4:]]
    if stage == "sft":
        begin += ["tasks=custom", f"tasks.path={chats}"]
    else:
        begin += ["data._target_=tests.stages.vowels.VowelsSpec", "stage.max_new_tokens=16"]
    code, output = train(*begin, runs=tmp_path / "whole")
    assert code == 0, output
    kill = ("+callbacks.kill._target_=tests.faults.Kill", "+callbacks.kill.micro_batch=4")
    assert train(*begin, *kill, runs=tmp_path / "killed")[0] == -9
    (tmp_path / "base").rename(tmp_path / "gone")  # what goes on needs nothing of the model it began with
    code, output = train(*begin, runs=tmp_path / "killed")
    assert code == 0 and "Going on from step" in output, output
    folders = (tmp_path / "whole/test" / stage, tmp_path / "killed/test" / stage, tmp_path / "gone")
    one, other, begun = (load_file(folder / "model/model.safetensors") for folder in folders)
    assert all(one[name].equal(other[name]) for name in one)
    assert not all(one[name].equal(begun[name]) for name in one)


@pytest.mark.slow
def test_the_stages_on_real_data(tmp_path: Path, test_data: Path) -> None:
    hub = test_data / "hub"
    small = (
        "hw=cpu", "hw.threads=1", "run.name=test", "horizon.steps=3", "horizon.total_batch_tokens=4096",
        "trainer.validate_every_n_steps=3", "callbacks.samples=null", "callbacks.metrics.every_n_steps=1",
    )  # fmt: skip
    shape = ("model.depth=2", "model.n_embd=64", "model.head_dim=32", "model.sequence_len=512", "data.val_tokens=4096")
    text = ("data=fineweb_edu", f"data.path={hub}/HuggingFaceFW/fineweb-edu")
    code, output = train(*small, *shape, *text, runs=tmp_path)
    assert code == 0, output
    assert """python train.py stage=sft hw=cpu hw.threads=1 'run.name="test"'   (teach it to answer)""" in output
    code, output = train(
        "-m", "stage=mid,sft,rl", *small, "tasks=chat_sft", f"tasks.path={hub}", "task=gsm8k", f"task.path={hub}",
        "task.val.stop=2", "callbacks.evaluate.suites=[chat]",
        "callbacks.evaluate.max_per_task=1", f"callbacks.evaluate.tasks_path={hub}", runs=tmp_path,
    )  # fmt: skip
    assert code == 0, output
    for stage in ("base", "mid", "sft", "rl"):
        assert (summary(tmp_path, stage)["status"], summary(tmp_path, stage)["step"]) == ("finished", 3)
    for stage in ("mid", "sft"):
        assert 0.5 < summary(tmp_path, stage)["val_bpb"] < 6
    evaluations = json.loads((tmp_path / "test/rl/evaluations.json").read_text())
    labels = {task["label"] for task in evaluations["chat"]["3"]["tasks"]}
    assert labels == {"arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval", "spelling_bee"}
