"""Every architecture through the stages, as train.py runs them."""

import json
from pathlib import Path

import pytest

from nanochat_pl.checkpoint.model_folder import load_model_folder
from tests.processes import SMALL, losses, train

FEW_STEPS = ("horizon.steps=3", "trainer.validate_every_n_steps=2")
CHATS = [[{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n + 1}."}] for n in range(60)]
MODELS = {
    "gpt2": ("model=gpt2", "model.dropout=0.1"),
    "llama": ("model=llama", "model.n_kv_head=1"),
    "hf": ("model=hf", "model.options={tie_word_embeddings:true}"),
}


def chats_file(folder: Path) -> Path:
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps(chat) + "\n" for chat in CHATS))
    return path


@pytest.mark.parametrize("architecture", MODELS)
def test_base_and_sft(architecture: str, tmp_path: Path) -> None:
    options = (*SMALL, *MODELS[architecture], *FEW_STEPS)
    code, output = train(*options, runs=tmp_path)
    assert code == 0, output
    resolved = json.loads((tmp_path / "test/base/resolved.json").read_text())
    assert resolved["architecture"] == architecture
    measured = [float(row["train/loss"]) for row in losses(tmp_path / "test/base").values() if "train/loss" in row]
    assert len(measured) == 3 and measured[2] < measured[0]
    base = tmp_path / "test/base"
    later = [option for option in options if not option.startswith(("tokenizer", "model", "data"))]
    chats = (
        "stage=sft",
        "tasks=custom",
        f"tasks.path={chats_file(tmp_path)}",
        "data.streams=4",
        "callbacks.evaluate=null",
    )
    code, output = train(*later, *chats, f"stage.init_from={base}", runs=tmp_path)
    assert code == 0, output
    loaded = load_model_folder(tmp_path / "test")
    assert loaded.stage == "sft" and type(loaded.model).__name__.lower() == architecture


@pytest.mark.slow
def test_a_model_of_transformers_goes_on_where_it_was(tmp_path: Path) -> None:
    options = (*SMALL, *MODELS["hf"], "schedule=constant", "trainer.validate_every_n_steps=3")
    for folder, steps in (("whole", (6,)), ("parts", (3, 6))):
        for n in steps:
            code, output = train(*options, f"horizon.steps={n}", "optim.lr=0.01", runs=tmp_path / folder)
            assert code == 0, output
    whole, parts = (losses(tmp_path / folder / "test/base") for folder in ("whole", "parts"))
    assert len(whole) >= 6 and parts["6"] == whole["6"]
