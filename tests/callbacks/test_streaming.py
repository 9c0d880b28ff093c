"""What is measured of low-rank gradients, in real trainings and beside dense layers."""

import csv
from pathlib import Path

import pytest
import torch

from nanochat_pl.callbacks.streaming import Shadow, middle_layer
from nanochat_pl.models.contract import build_model
from nanochat_pl.models.depth import NanoChatSpec
from nanochat_pl.models.execution import Execution
from nanochat_pl.nn.molegrad import Streaming
from tests.processes import SMALL, train

STREAMED = ("streaming.enabled=true", "streaming.min_size=16", "callbacks.streaming.every_n_steps=4")


@pytest.mark.parametrize("target", ["ffn_only", "attention"])
def test_the_shadow_adds_up_the_gradients_of_a_dense_layer(target: str) -> None:
    config = NanoChatSpec(depth=2, n_embd=32, head_dim=16, sequence_len=16).config(64)
    streaming = Streaming(True, 4, target_layers=target, min_size=16)  # type: ignore[arg-type]
    streamed = build_model(config, "cpu", 0, Execution(streaming=streaming))
    dense = build_model(config, "cpu", 0)
    for model in (streamed, dense):
        for parameter in model.parameters():  # the projections begin as zeros, which would hide much
            parameter.data.add_(0.02)
    shadow = Shadow(*middle_layer(streamed))
    assert len(shadow.gradients) == (2 if target == "ffn_only" else 1)
    ids = torch.randint(64, (2, 2, 17), generator=torch.Generator().manual_seed(0))
    for micro_batch in ids:
        for model in (streamed, dense):
            model(micro_batch[:, :-1], micro_batch[:, 1:]).backward()
    for name, gradient in shadow.gradients.items():
        torch.testing.assert_close(gradient, dense.get_parameter(name).grad, rtol=1e-4, atol=1e-6)
        _, left, right = matrix = streamed.low_rank[name]
        gradient = gradient.mT if matrix.transposed else gradient
        torch.testing.assert_close(left.grad, gradient @ right, rtol=1e-4, atol=1e-6)
    before = {name: gradient.clone() for name, gradient in shadow.gradients.items()}
    shadow.remove()
    streamed(ids[0, :, :-1], ids[0, :, 1:]).backward()
    assert all(shadow.gradients[name].equal(gradient) for name, gradient in before.items())


@pytest.mark.slow
def test_the_measures_of_a_training(tmp_path: Path) -> None:
    part = measured(tmp_path, "part", "streaming.rank_k=8")
    assert [row["step"] for row in part] == ["4", "8", "12"]
    for row in part:
        for name in ("energy", "cosine", "drift"):
            assert 0.01 < float(row[f"streaming/{name}"]) < 0.99, name
        assert float(row["streaming/skipped"]) == 0
    whole = measured(tmp_path, "whole", "streaming.rank_k=32", "streaming.target_layers=attention")
    assert len(whole) == 3
    for row in whole:
        assert float(row["streaming/energy"]) == pytest.approx(1, abs=1e-4)
        assert float(row["streaming/drift"]) == pytest.approx(0, abs=1e-4)
        assert float(row["streaming/cosine"]) > 0.05


def measured(runs: Path, name: str, *arguments: str) -> list[dict[str, str]]:
    """The rows of metrics.csv that hold such measures, of a training in micro-batches."""
    options = ("horizon.steps=12", "hw.tokens_per_device=128", f"run.name={name}")
    code, output = train(*SMALL, *STREAMED, *options, *arguments, runs=runs)
    assert code == 0, output
    with (runs / name / "base" / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["streaming/energy"]]
