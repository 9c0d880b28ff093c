"""Which models are served, under which names."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat_pl.core.errors import UserError
from nanochat_pl.demo.models import find_models, name_of, read_model
from tests.demo.served_models import ALPHABET, SUM, TOKENIZER, lengthened, save_model


def test_models_are_named_by_their_run_and_stage_the_newest_first(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    folders = [root / name / "model" for name in ("tiny/base", "tiny,model.depth=6/sft", "tries/third/rl")]
    for age, folder in enumerate(reversed(folders)):
        save_model(folder, ALPHABET, 32, stage=folder.parent.name, step=age)
        os.utime(folder / "model.safetensors", (1000 - age, 1000 - age))
    models = find_models(root).models
    assert [model.name for model in models] == ["tries/third/rl", "tiny,model.depth=6/sft", "tiny/base"]
    assert [model.is_chat for model in models] == [True, True, False]
    newest = models[0]
    assert newest.facts == {"step": 0.0, "val_bpb": 1.25} and newest.context_tokens == 32 and newest.stage == "rl"
    assert newest.exported_seconds == 1000 and newest.tokenizer().decode([0]) == "\n"


def test_a_long_window_is_context_too(tmp_path: Path) -> None:
    save_model(tmp_path / "tiny/sft/model", ALPHABET, 32)
    longer = lengthened(tmp_path / "tiny/sft/model", tmp_path / "long/sft/model", long_window=99)
    assert read_model(longer, tmp_path).context_tokens == 100


def test_a_newer_export_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "tiny/sft/model"
    save_model(folder, ALPHABET, 32)
    before = read_model(folder, tmp_path)
    save_model(folder, SUM, 32, step=2)
    after = read_model(folder, tmp_path)
    assert before.version != after.version and (before.facts["step"], after.facts["step"]) == (1, 2)


def test_a_model_elsewhere_is_served_too(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    save_model(root / "tiny/sft/model", ALPHABET, 32)
    save_model(elsewhere / "mine/model", SUM, 32)
    save_model(elsewhere / "export", SUM, 32)
    assert [name_of(elsewhere / name, root) for name in ("mine/model", "export")] == ["mine", "export"]
    names = {model.name: model.folder for model in find_models(root, elsewhere / "export").models}
    assert names == {"tiny/sft": root / "tiny/sft/model", "export": elsewhere / "export"}
    again = find_models(root, root / "tiny/../tiny/sft/model").models
    assert [model.name for model in again] == ["tiny/sft"]


def test_what_is_no_model_of_ours_is_left_out_and_told_by_name(tmp_path: Path) -> None:
    ours, foreign, newer, cut, pickled, endless = (tmp_path / f"{name}/sft/model" for name in "abcdef")
    for folder in (ours, foreign, newer, cut, pickled, endless):
        save_model(folder, ALPHABET, 32)
    header = json.loads((ours / "model.json").read_text())
    (foreign / "model.json").write_text(json.dumps({"model_type": "llama", "config": {}}))
    (newer / "model.json").write_text(json.dumps(header | {"format_version": 99}))
    (endless / "model.json").write_text(json.dumps(header | {"config": header["config"] | {"n_layer": 10**9}}))
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    (pickled / "model.safetensors").write_bytes(pickle.dumps({"embedding.weight": [1.0]}))
    found = find_models(tmp_path)
    assert [model.name for model in found.models] == ["a/sft"]
    assert sorted(found.problems) == ["b/sft", "c/sft", "d/sft", "e/sft", "f/sft"]
    for name, said in (
        ("b/sft", "format"),
        ("c/sft", "version 99"),
        ("d/sft", "damaged"),
        ("e/sft", "damaged"),
        ("f/sft", "n_layer"),
    ):
        assert said in found.problems[name]
    with pytest.raises(UserError, match="damaged"):
        read_model(pickled, tmp_path)


def test_a_damaged_tokenizer_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "tiny/sft/model"
    save_model(folder, ALPHABET, 32)
    model = read_model(folder, tmp_path)
    assert model.tokenizer().encode("ab") == TOKENIZER.encode("ab")
    (folder / "tokenizer/tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        model.tokenizer()


def test_the_web_process_needs_no_torch() -> None:
    program = (
        "import sys, nanochat_pl.demo.api, nanochat_pl.demo.gates, nanochat_pl.demo.server\n"
        "print([name for name in ('torch', 'lightning', 'hydra', 'omegaconf') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
