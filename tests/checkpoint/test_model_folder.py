"""The portable model folder: what is written comes back, what is damaged is said."""

import json
from pathlib import Path

import pytest
import torch

from nanochat_pl.checkpoint.model_folder import load_model_folder, save_model_folder
from nanochat_pl.core.errors import UserError
from nanochat_pl.models.contract import build_model
from nanochat_pl.models.depth import NanoChatSpec
from nanochat_pl.tokenizers.specs import ByteSpec

CONFIG = NanoChatSpec(depth=2, n_embd=32, head_dim=16, sequence_len=16).config(265)
IDS = torch.arange(12).view(1, 12)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "run/base/model"
    facts = {"step": 7, "val_bpb": 1.25}
    save_model_folder(target, build_model(CONFIG, "cpu", seed=3), CONFIG, ByteSpec().build([]), facts)
    return target


def test_a_model_comes_back_from_every_way_to_name_it(folder: Path) -> None:
    expected = build_model(CONFIG, "cpu", seed=3)(IDS)
    for where in (folder, folder.parent, folder.parent.parent):
        loaded = load_model_folder(where)
        assert torch.equal(loaded.model(IDS), expected)
        assert loaded.facts == {"step": 7.0, "val_bpb": 1.25} and loaded.tokenizer.decode([104, 105]) == "hi"
    assert load_model_folder(folder, compute_dtype="bfloat16").model.config.compute_dtype == "bfloat16"


def test_new_weights_replace_the_old_ones(folder: Path) -> None:
    save_model_folder(folder, build_model(CONFIG, "cpu", seed=4), CONFIG, ByteSpec().build([]), {"step": 8})
    loaded = load_model_folder(folder)
    assert loaded.facts == {"step": 8.0}
    assert torch.equal(loaded.model(IDS), build_model(CONFIG, "cpu", seed=4)(IDS))
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors", "tokenizer"]


@pytest.mark.parametrize(
    ("name", "size"),
    [("n_layer", 10**9), ("n_embd", 10**9), ("vocab_size", 10**400), ("sequence_len", 10**12), ("n_layer", 1e9)],
)
def test_sizes_that_cannot_be_are_said_before_a_model_is_built(folder: Path, name: str, size: float) -> None:
    header = json.loads((folder / "model.json").read_text())
    header["config"][name] = size
    (folder / "model.json").write_text(json.dumps(header))
    with pytest.raises(UserError, match=name):
        load_model_folder(folder)


def test_what_cannot_be_loaded_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no model in"):
        load_model_folder(tmp_path / "nothing")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model.safetensors is missing or damaged"):
        load_model_folder(folder)
    header = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(header | {"format_version": 99}))
    with pytest.raises(UserError, match="version 99"):
        load_model_folder(folder)
    for text in ("{", "[]", '{"format": "other"}', "[" * 100_000):
        (folder / "model.json").write_text(text)
        with pytest.raises(UserError):
            load_model_folder(folder)
