"""What a model computes how changes nothing of what it computes: compiled, recomputed."""

import dataclasses
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch._dynamo.utils import counters

from nanochat_pl.core.hardware import Hardware
from nanochat_pl.core.paths import cache_root, keep_compiled_kernels
from nanochat_pl.inference.generate import generate
from nanochat_pl.inference.sampling import Sampling
from nanochat_pl.models.contract import build_model
from nanochat_pl.models.execution import Execution
from nanochat_pl.nn.compiled import compiled
from nanochat_pl.nn.molegrad import Streaming
from nanochat_pl.optim.muon import MuonAdamWSpec
from nanochat_pl.optim.scaling import Horizon
from nanochat_pl.optim.schedules import ScheduleSpec
from nanochat_pl.stages.fit import TrainerSpec
from nanochat_pl.stages.sft import MidStage
from nanochat_pl.stages.stage import Blueprint
from tests.models.test_nanochat import TINY, batch, randomized
from tests.stages.test_sft import CONFIG, ROWS, TOKENIZER, T, data_module


def loss_gradients_and_saved_bytes(recompute: bool) -> tuple[Tensor, list[Tensor], int]:
    model = randomized(dataclasses.replace(TINY, n_layer=8))
    model.execution = Execution(recompute=recompute)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(*batch(TINY))
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters()], sum(saved.values())


def test_recomputing_blocks_changes_nothing_but_what_is_kept():
    loss, gradients, kept = loss_gradients_and_saved_bytes(recompute=False)
    again, same, little = loss_gradients_and_saved_bytes(recompute=True)
    assert torch.equal(loss, again)
    assert all(torch.equal(a, b) for a, b in zip(gradients, same, strict=True))
    inputs = 8 * 2 * TINY.sequence_len * TINY.n_embd * 4  # of the eight blocks, held for the second time
    assert little + inputs < 0.2 * kept


class Graphs(Callback):
    """Generates after each validation; counts after each step the graphs that were compiled so far."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, stage: Any, *rest: Any) -> None:
        self.counts.append(counters["stats"]["unique_graphs"])
        self.losses.append(float(stage.step_loss))

    def on_validation_end(self, trainer: Trainer, stage: Any) -> None:
        assert len(generate(stage.model, [[1, 2, 3], [4]], Sampling(3, 1.0))) == 2
        self.keys = list(stage.model.state_dict())


def fit(folder: Path, execution: Execution, n_layer: int) -> Graphs:
    torch._dynamo.reset()
    counters.clear()
    graphs = Graphs()
    config = dataclasses.replace(CONFIG, n_layer=n_layer)
    blueprint = Blueprint(
        config, MuonAdamWSpec(), ScheduleSpec(warmup_steps=0), Horizon(4, ROWS * T, 1, 0.1, 0.1), 1, TOKENIZER, 0,
        execution=execution,
    )  # fmt: skip
    TrainerSpec(validate_every_n_steps=2).build(
        Hardware("cpu", "float32", ROWS * T), folder=folder, steps=4, accumulation=1, callbacks=[graphs], loggers=[]
    ).fit(MidStage(blueprint), datamodule=data_module(ROWS))
    return graphs


@pytest.fixture
def quickly_compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The graphs are the same with every backend; this one generates no code."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    compiled.cache_clear()
    yield
    compiled.cache_clear()


@pytest.mark.slow
@pytest.mark.usefixtures("quickly_compiled")
@pytest.mark.parametrize("recompute", [False, True])
def test_each_kind_of_block_is_compiled_once_and_never_again(tmp_path: Path, recompute: bool):
    """Short windows in the even layers, value embeddings in the odd ones: two kinds, and the model's ends."""
    eager = fit(tmp_path, Execution(), n_layer=8)
    graphs = fit(tmp_path, Execution(compile=True, recompute=recompute), n_layer=8)
    assert eager.counts == [0] * 4 and graphs.counts == [4] * 4
    assert not counters["graph_break"]
    assert graphs.losses == pytest.approx(eager.losses, rel=1e-4) and graphs.losses[3] < graphs.losses[0]
    assert graphs.keys == eager.keys


@pytest.mark.slow
@pytest.mark.usefixtures("quickly_compiled")
def test_low_rank_gradients_are_the_same_compiled_or_recomputed():
    found = []
    for change in ({}, {"recompute": True}, {"compile": True}):
        torch._dynamo.reset()
        counters.clear()
        streaming = Streaming(True, 4, target_layers="all", min_size=16)
        model = build_model(TINY, "cpu", 0, Execution(streaming=streaming, **change))
        for parameter in model.parameters():
            parameter.data.add_(0.02)
        loss = model(*batch(TINY))
        loss.backward()
        assert len(model.low_rank) > 4 and not counters["graph_break"]
        sketches = {name: (matrix.left.grad, matrix.right.grad) for name, matrix in model.low_rank.items()}
        full = {name: parameter.grad for name, parameter in model.named_parameters() if name not in sketches}
        found.append((loss.detach(), sketches, full))
    assert counters["stats"]["unique_graphs"] > 0
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@torch._inductor.config.patch(compile_threads=1)  # each further one is a process that imports torch
def test_a_compiled_model_under_ddp_is_the_same(tmp_path: Path):
    """One block and the model's ends, by the backend that generates code: the C++ compiler takes its time."""
    config = dataclasses.replace(TINY, n_layer=1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        losses = []
        for execution in (Execution(), Execution(compile=True)):
            model = randomized(config)
            model.execution = execution
            parallel = torch.nn.parallel.DistributedDataParallel(model)
            loss = parallel(*batch(config))
            loss.backward()
            losses.append((loss.detach(), [parameter.grad for parameter in model.parameters()]))
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-5)


def test_compiled_kernels_are_kept_in_our_cache(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "so that it is put back")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    keep_compiled_kernels()
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) == cache_root() / "compiled"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/chosen")
    keep_compiled_kernels()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/chosen"
