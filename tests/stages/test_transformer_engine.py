"""hw.precision=transformer-engine under Lightning's Trainer, with a stand-in for the library, which needs a GPU."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins.precision import transformer_engine as fabric
from lightning_utilities.core.imports import RequirementCache

from nanochat_pl.callbacks.checkpoints import Checkpoints
from nanochat_pl.models.llama import LlamaSpec
from tests.stages.test_precision import fit
from tests.stages.test_sft import CONFIG, T

LIBRARY = {
    "transformer_engine/__init__.py": "",
    "transformer_engine/common/__init__.py": "",
    "transformer_engine/common/recipe.py": "class DelayedScaling:\n    pass\n",
    "transformer_engine/pytorch.py": """
import contextlib
import torch

calls, within = [], []

@contextlib.contextmanager
def fp8_autocast(enabled, fp8_recipe):
    within.append(fp8_recipe)
    yield
    within.pop()

class Linear(torch.nn.Module):
    def __init__(self, in_features, out_features, bias=True):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = torch.nn.Parameter(torch.full((out_features, in_features), torch.nan))
        assert not bias

    def forward(self, x):
        assert within and type(within[0]).__name__ == "DelayedScaling"
        calls.append(self)
        rounded = x + (x.to(torch.float8_e4m3fn).to(x.dtype) - x).detach()
        return torch.nn.functional.linear(rounded, self.weight.to(x.dtype))
""",
    "transformer_engine-2.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: transformer_engine\nVersion: 2.0\n",
}


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, text in LIBRARY.items():
        (tmp_path / "library" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "library" / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "library")
    monkeypatch.setattr(fabric, "_TRANSFORMER_ENGINE_AVAILABLE", RequirementCache("transformer_engine>=0.11.0"))
    yield
    for name in [name for name in sys.modules if name.startswith("transformer_engine")]:
        del sys.modules[name]


@pytest.mark.usefixtures("library")
@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_its_layers_multiply_in_a_step_and_the_model_stays_as_it_is(tmp_path: Path) -> None:
    llama = LlamaSpec(depth=2, n_embd=32, head_dim=16, sequence_len=T).config(CONFIG.vocab_size)
    plain = fit(tmp_path / "plain", "bfloat16", 3, config=llama)
    watch = fit(tmp_path / "fast", "transformer-engine", 3, Checkpoints(every_n_steps=3), config=llama)
    calls = sys.modules["transformer_engine.pytorch"].calls
    layers = 2 * 7  # query, key, value, proj; gate, fc, proj
    assert len(set(map(id, calls))) == layers and len(calls) == layers * 3 * 2  # steps, micro-batches
    assert watch.losses != plain.losses and watch.losses == pytest.approx(plain.losses, rel=0.02)
    assert watch.losses[-1] < watch.losses[0]

    saved = torch.load(tmp_path / "fast" / "checkpoints" / "step-00000003.ckpt", weights_only=True)
    names = set(saved["state_dict"])
    assert "model.blocks.1.mlp.gate.weight" in names and not any("extra_state" in name for name in names)
    trained = torch.cat([saved["state_dict"][f"model.{name}"].flatten() for name in watch.roles])
    assert trained.dtype == torch.float32 and torch.equal(trained, watch.weights[-1])
    assert watch.roles == plain.roles and watch.roles["blocks.1.mlp.gate.weight"] == "matrix"
