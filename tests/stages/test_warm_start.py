"""What a stage takes over from the one before, and which one that is."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat_pl.checkpoint.model_folder import save_model_folder
from nanochat_pl.checkpoint.parent import Parent
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.paths import runs_root
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.models.config import NanoChatConfig
from nanochat_pl.optim.muon import MuonAdamWSpec
from nanochat_pl.stages.sft import SFTStageSpec
from nanochat_pl.stages.warm_start import load_momentum
from nanochat_pl.tokenizers.byte import ByteTokenizer
from tests.models.test_nanochat import TINY, randomized

TOKENIZER = ByteTokenizer()


def save(name: str, stage: str, vocab_size: int = TOKENIZER.vocab_size, step: int = 7) -> Path:
    """A model of a run."""
    config = dataclasses.replace(TINY, vocab_size=vocab_size)
    folder = runs_root() / name / stage / "model"
    save_model_folder(folder, randomized(config), config, TOKENIZER, {"step": step}, stage=stage)
    return folder


def header(config: NanoChatConfig) -> dict[str, Any]:
    """What a checkpoint says of its model."""
    return {"architecture": "nanochat", "model": config.as_dict()}


def parent_of(run: str, *overrides: str, resumed: bool = False) -> Parent:
    return SFTStageSpec().find_parent(RunFolder.of(run, "sft"), "tiny", overrides, resumed)


def test_the_nearest_earlier_stage_of_the_run_else_of_its_recipe_or_experiment() -> None:
    tiny = save("tiny", "base")
    assert parent_of("mine", "horizon.steps=5") == Parent(tiny, "base")
    assert parent_of("tiny").origin() == {"path": str(tiny.resolve()), "stage": "base", "step": 7}
    mid = save("mine", "mid")
    assert parent_of("mine") == Parent(mid, "mid")
    for own in ("model.depth=6", "tokenizer=byte", "model=other", "experiment=shakespeare_char"):
        with pytest.raises(UserError, match=f"Train one with `python train.py {own}`"):
            parent_of("other", own, "horizon.steps=5")
    assert parent_of("x", "experiment=mine", "data=chats") == Parent(mid, "mid")


def test_what_goes_on_needs_its_own_model_alone() -> None:
    own = save("mine", "sft")
    origin = {"path": "/gone", "stage": "base", "step": 9}
    (own.parent / "resolved.json").write_text(json.dumps({"parent": origin, "lr_scale": 0.5}))
    parent = parent_of("mine", resumed=True)
    assert parent == Parent(own, "sft", resumed=True)
    assert parent.origin() == origin and parent.resolved()["lr_scale"] == 0.5
    with pytest.raises(UserError, match="there is none in"):
        parent_of("mine")


def test_an_earlier_stage_that_has_not_ended_is_told(caplog: pytest.LogCaptureFixture) -> None:
    folder = save("tiny", "base")
    (folder.parent / "summary.json").write_text(json.dumps({"status": "interrupted"}))
    with caplog.at_level(logging.WARNING):
        parent_of("tiny")
    assert "has not been trained to its end (it is interrupted)" in caplog.text


def test_a_tokenizer_of_another_vocabulary_is_told() -> None:
    save("tiny", "base", vocab_size=300)
    with pytest.raises(UserError, match=r"tokenizer of 265 tokens, but its model knows 300"):
        parent_of("tiny").tokenizer()


def test_the_momentum_arrives_and_the_rates_stay(tmp_path: Path) -> None:
    model = randomized(TINY)

    def build(lr: float) -> torch.optim.Optimizer:
        spec = MuonAdamWSpec(lr=lr)
        return spec.build(
            model.named_parameters(), model.param_roles(), width=TINY.n_embd, batch_lr_scale=1.0, weight_decay_scale=0.5
        )

    before, after = build(0.5), build(0.25)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    before.step()
    checkpoint = tmp_path / "last.ckpt"
    torch.save({"nanochat_pl": header(TINY), "optimizer_states": [before.state_dict()]}, checkpoint)
    rates = [group["lr"] for group in after.param_groups]
    load_momentum(after, checkpoint, TINY)
    assert [group["lr"] for group in after.param_groups] == rates
    assert after.state and after.state.keys() == before.state.keys()
    for p, values in before.state.items():
        for name, value in values.items():
            torch.testing.assert_close(after.state[p][name], value, rtol=0, atol=0)
    other = {"nanochat_pl": header(dataclasses.replace(TINY, n_layer=9)), "optimizer_states": []}
    torch.save(other, checkpoint)
    with pytest.raises(UserError, match="of another model than lies beside it: they differ in n_layer"):
        load_momentum(after, checkpoint, TINY)
