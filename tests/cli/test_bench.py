"""`bench` as a user calls it: a real training of a few steps, its figures and its trace."""

import json
import math
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from nanochat_pl.cli import app
from nanochat_pl.core.errors import UserError
from nanochat_pl.training.bench import run_bench
from tests.processes import SMALL

FEW = ["horizon.steps=50", "data.num_documents=256"]


def test_figures_agree_with_each_other(tmp_path: Path) -> None:
    plan, measured, trace = run_bench([*SMALL, *FEW], warmup=1, steps=3, traced=2, synthetic=False)
    assert trace == tmp_path / "runs" / "test" / "bench" / "trace.json"
    assert measured.tokens == 256 and measured.seconds > 0 and measured.peak_memory_bytes > 1e7
    assert measured.flops == pytest.approx(measured.tokens / measured.seconds * plan.cost.training_flops_per_token)
    assert measured.mfu is None, "a CPU's peak is not known"
    phases = measured.phases["host"]
    assert list(measured.phases) == ["host"] and set(phases) == {"forward", "backward", "optimizer", "loader", "host"}
    assert math.isclose(sum(phases.values()), measured.seconds, rel_tol=1e-6)
    assert all(phases[name] > 0 for name in ("forward", "backward", "optimizer"))
    calls = {name: calls for name, calls, _ in measured.operators}
    assert calls["aten::mm"] > 10 and calls["Optimizer.step#MuonAdamW.step"] == 1
    times = [seconds for _, _, seconds in measured.operators]
    assert times == sorted(times, reverse=True) and times[-1] > 0
    names = [event.get("name") for event in json.loads(trace.read_text())["traceEvents"]]
    assert names.count("Optimizer.step#MuonAdamW.step") == 2
    assert [file.name for file in trace.parent.iterdir() if not file.is_dir()] == ["trace.json"]


def test_without_any_data(tmp_path: Path) -> None:
    absent = ("tokenizer=tiktoken", "data=fineweb_edu", "hw.tokens_per_device=64")
    few = ["--synthetic", "--steps", "1", "--warmup", "1", "--traced", "1", "--operators", "2"]
    small = [option for option in SMALL if not option.startswith(("data.", "tokenizer="))]
    result = CliRunner().invoke(app, ["bench", *small, *absent, *few], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "vocabulary 50,265" in result.output and "peak unknown" in result.output
    for row in ("forward", "backward", "optimizer", "loader", "Trace: "):
        assert row in result.output
    assert not list((tmp_path / "cache").rglob("*.parquet"))


def test_mistakes_are_those_of_a_training() -> None:
    with pytest.raises(UserError, match="did you mean"):
        run_bench(["model.dept=3"], 1, 1, 1, False)
    with pytest.raises(UserError, match="stage=rl makes its own data"):
        run_bench(["stage=rl"], 1, 1, 1, True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(tmp_path: Path) -> None:
    small = [option for option in SMALL if not option.startswith("hw")]
    _, measured, _ = run_bench([*small, *FEW], warmup=2, steps=3, traced=2, synthetic=True)
    assert set(measured.phases) == {"host", "device"} and measured.operators
