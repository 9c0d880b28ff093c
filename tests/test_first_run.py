"""What a new user does: the default recipe, shortened, then the commands that it names."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forks import REPOSITORY, run_program
from tests.processes import train, train_anew


def sample(run: Path) -> str:
    prompt = ("--max-new-tokens", "12", "--prompt", "One sunny morning,")
    result = run_program("-m", "nanochat_pl", "sample", str(run), *prompt)
    assert result.returncode == 0, result.stderr
    return result.stdout


def command(*arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=True
    )
    return result.stdout


@pytest.mark.slow
def test_the_default_run_and_the_next_commands(tmp_path: Path) -> None:
    code, output = train_anew("run.name=first", "horizon.steps=25", "hw.threads=1", runs=tmp_path)
    assert code == 0, output
    assert "Trained 25 steps, 51,200 tokens" in output and "Next:" in output
    run = tmp_path / "first/base"
    names = ("config.yaml", "resolved.json", "plan.txt", "train.log", "metrics.csv", "events.jsonl", "loss.png",
             "invocations.jsonl", "samples.txt", "summary.json", "model/model.json")  # fmt: skip
    assert [name for name in names if not (run / name).exists()] == []
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["step"] == 25 and summary["tokens"] == 25 * 2048
    assert 0.5 < summary["val_bpb"] < 3.0 and summary["parameters"] > 1e6 and summary["world_size"] == 1
    assert {"versions", "git_commit", "seconds_to_first_step", "peak_memory_bytes"} <= summary.keys()
    text = sample(tmp_path / "first")
    assert text.startswith("One sunny morning,") and len(text) > 25
    assert sample(tmp_path / "first") == text, "the same seed gives the same text"


@pytest.mark.slow
def test_a_sweep_over_seeds_and_the_experiment_on_real_text(tmp_path: Path, test_data: Path) -> None:
    text = test_data / "text" / "tinyshakespeare.txt"
    options = ("experiment=shakespeare_char", f"data.path={text}", "horizon.steps=6", "callbacks.samples=null")
    code, output = train("-m", *options, "seed=1,2", "hw.threads=1", runs=tmp_path)
    assert code == 0, output
    assert "mean of 2 seeds" in output
    sweep = json.loads(next(tmp_path.glob("sweeps/*/sweep.json")).read_text())
    assert [run["status"] for run in sweep["runs"]] == ["finished", "finished"]
    assert sweep["spread"][0]["seeds"] == 2 and sweep["spread"][0]["val_bpb"]["standard_deviation"] > 0
    assert len(list(tmp_path.glob("shakespeare_char,*seed=[12]/base/model/model.json"))) == 2


def test_help_and_plan_answer() -> None:
    assert "python train.py" in command("train.py", "--help")
    assert "sample" in command("-m", "nanochat_pl", "--help")
    plan = command("-m", "nanochat_pl", "plan", "model.depth=6", "hw=cpu")
    assert "6 layers, width 128" in plan and "440 steps x 2,048 tokens" in plan and "memory" in plan
