"""float8 through torchao, emulated: near bfloat16 in training, the same as bfloat16 elsewhere."""

import dataclasses
import importlib.util

import pytest
import torch

from nanochat_pl.core.errors import UserError
from nanochat_pl.models.contract import build_model
from nanochat_pl.models.execution import Execution
from nanochat_pl.nn.float8 import check_float8
from tests.models.test_nanochat import TINY, batch, randomized

WIDE = dataclasses.replace(TINY, n_embd=272, n_head=2, n_kv_head=1, n_layer=2, compute_dtype="bfloat16")


def twins():
    """The same weights twice: computed in bfloat16, and in float8."""
    pytest.importorskip("torchao.float8")
    plain = randomized(WIDE)
    low = build_model(WIDE, "cpu", None, Execution(float8=True))
    low.load_state_dict(plain.state_dict())
    return plain, low


@pytest.mark.slow
def test_training_is_near_bfloat16_and_evaluation_is_bfloat16():
    plain, low = twins()
    ids, targets = batch(WIDE)
    assert [name for name, layer in low.named_modules() if getattr(layer, "in_training", ())] == [
        "blocks.0.mlp.fc", "blocks.1.mlp.fc"
    ]  # fmt: skip
    assert list(low.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in low.named_parameters()] == [name for name, _ in plain.named_parameters()]

    losses = [model(ids, targets) for model in (plain, low)]
    assert losses[0] != losses[1]
    torch.testing.assert_close(losses[1], losses[0], rtol=0.01, atol=0)
    for loss in losses:
        loss.backward()
    for (name, ours), theirs in zip(low.named_parameters(), plain.parameters(), strict=True):
        assert ours.grad.dtype == theirs.grad.dtype, name
        if ours.ndim == 2:
            assert (ours.grad - theirs.grad).norm() < 0.15 * theirs.grad.norm(), name
    assert low.blocks[0].mlp.fc.weight.grad.dtype == torch.float32

    with torch.no_grad():
        assert torch.equal(low(ids), plain(ids))
    assert torch.equal(low.eval()(ids, targets), plain.eval()(ids, targets))


def test_a_number_of_tokens_that_float8_cannot_take_is_computed_in_bfloat16():
    plain, low = twins()
    ids = torch.arange(5)[None]
    assert torch.equal(low(ids, ids), plain(ids, ids))


def test_without_a_chip_for_it_float8_is_refused():
    with pytest.raises(UserError, match=r"float8 needs an NVIDIA GPU, but this run computes on cpu.*bfloat16"):
        check_float8("cpu")
    with pytest.raises(UserError, match=r"transformer-engine needs an NVIDIA GPU, but this run computes on cpu"):
        check_float8("cpu", "transformer-engine")


@pytest.mark.skipif(importlib.util.find_spec("transformer_engine") is not None, reason="it is installed")
def test_without_its_library_it_is_refused_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    with pytest.raises(UserError, match=r"pip install --no-build-isolation 'transformer_engine\[pytorch\]'\. Leave"):
        check_float8("cuda", "transformer-engine")
