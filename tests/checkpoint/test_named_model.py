"""Every way to name a model, and what is said of names that are none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nanochat_pl.checkpoint.model_folder import save_model_folder
from nanochat_pl.checkpoint.named_model import find_named_model, model_folders
from nanochat_pl.core.errors import UserError
from nanochat_pl.models.contract import architecture_of, build_model
from nanochat_pl.models.depth import NanoChatSpec
from nanochat_pl.tokenizers.specs import ByteSpec
from tests.processes import SMALL, train

CONFIG = NanoChatSpec(depth=2, n_embd=32, head_dim=16, sequence_len=16).config(265)
IDS = torch.arange(12).view(1, 12)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Runs `old` (base, sft) and `new` (base); of the latter the checkpoint of step 40, with other weights."""
    root = tmp_path / "runs"
    for seed, (place, stage) in enumerate({"old/base": "base", "old/sft": "sft", "new/base": "base"}.items()):
        folder = root / place / "model"
        save_model_folder(folder, build_model(CONFIG, "cpu", seed), CONFIG, ByteSpec().build(), {"step": 50}, stage)
        os.utime(folder / "model.safetensors", (1e9 + seed, 1e9 + seed))
    write_checkpoint(root / "new/base/checkpoints/step-00000040.ckpt", seed=9)
    return root


def write_checkpoint(path: Path, seed: int) -> None:
    path.parent.mkdir(exist_ok=True)
    weights = {f"model.{name}": weight for name, weight in build_model(CONFIG, "cpu", seed).state_dict().items()}
    header = {"architecture": architecture_of(CONFIG), "model": CONFIG.as_dict()}
    torch.save({"state_dict": weights, "nanochat_pl": header, "global_step": 40}, path)


def logits(seed: int) -> torch.Tensor:
    return build_model(CONFIG, "cpu", seed)(IDS)


def test_runs_stages_and_folders_are_found(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (runs / "old", runs / "old/sft", runs / "old/sft/model", "old", "old/sft"):
        model = find_named_model(str(name))
        assert model.name == str(runs / "old/sft")
        loaded = model.load()
        assert torch.equal(loaded.model(IDS), logits(seed=1)) and loaded.stage == "sft"
    monkeypatch.chdir(runs)
    assert find_named_model("old/base").name == "old/base"


def test_the_newest_model_is_the_default(runs: Path) -> None:
    assert find_named_model().name == str(runs / "new/base")
    os.utime(runs / "old/sft/model/model.safetensors")
    assert find_named_model().name == str(runs / "old/sft")
    assert [folder.parent.name for folder in model_folders(runs)] == ["sft", "base", "base"]


def test_what_goes_while_models_are_looked_for_is_left_out(runs: Path) -> None:
    weights = runs / "old/sft/model/model.safetensors"
    weights.unlink()
    weights.symlink_to(runs / "gone")  # it is in its folder, and cannot be looked at
    assert [folder.parent.name for folder in model_folders(runs)] == ["base", "base"]
    assert model_folders(runs / "gone") == []


def test_a_step_is_its_checkpoint(runs: Path) -> None:
    for name in (runs / "new", runs / "new/base", "new"):
        model = find_named_model(f"{name}@40")
        assert model.name == f"{runs}/new/base@40"
        loaded = model.load()
        assert torch.equal(loaded.model(IDS), logits(seed=9)) and not loaded.model.training
        assert loaded.facts == {"step": 40.0} and loaded.stage == "base" and loaded.tokenizer.vocab_size == 265


def test_a_name_with_an_at_sign_is_a_name_first(runs: Path) -> None:
    (runs / "new").rename(runs / "new@40")
    assert find_named_model(str(runs / "new@40")).name == str(runs / "new@40/base")
    assert find_named_model(str(runs / "new@40@40")).name == str(runs / "new@40/base@40")


def test_what_is_not_there_is_said(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="There is no model in nothing"):
        find_named_model("nothing")
    with pytest.raises(UserError, match=rf"no checkpoint of step 7 in .*There are {runs}/new/base@40\."):
        find_named_model(str(runs / "new@7"))
    with pytest.raises(UserError, match="There are none at all"):
        find_named_model("old@7")
    with pytest.raises(UserError, match="is a file"):
        find_named_model(str(runs / "new/base/checkpoints/step-00000040.ckpt"))
    monkeypatch.setenv("NANOCHAT_PL_RUNS", str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"no model under .*empty yet\. Train one with `python train.py`"):
        find_named_model()


class RunsAProgram:
    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.trace,)


def test_damaged_and_hostile_checkpoints_are_refused(runs: Path, tmp_path: Path) -> None:
    path = runs / "new/base/checkpoints/step-00000040.ckpt"
    content = path.read_bytes()
    torch.save({"state_dict": RunsAProgram(tmp_path / "trace")}, path)
    with pytest.raises(UserError, match="damaged or not one of nanochat_pl's"):
        find_named_model("new@40").load()
    assert not (tmp_path / "trace").exists()
    for damaged in (content[: len(content) // 2], b"", b"no archive"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="damaged or not one of nanochat_pl's"):
            find_named_model("new@40").load()
    torch.save({"state_dict": {}}, path)
    with pytest.raises(UserError, match="damaged or not one of nanochat_pl's"):
        find_named_model("new@40").load()


def test_finding_needs_no_torch(runs: Path) -> None:
    program = (
        "import sys; from nanochat_pl.checkpoint.named_model import find_named_model; find_named_model()\n"
        "print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


@pytest.mark.slow
def test_steps_of_a_real_training(tmp_path: Path) -> None:
    code, output = train(*SMALL, runs=tmp_path)
    assert code == 0, output
    run = tmp_path / "test"
    last, before = find_named_model(f"{run}@24").load(), find_named_model(f"{run}/base@16").load()
    exported = find_named_model(str(run)).load()
    assert torch.equal(last.model(IDS), exported.model(IDS)) and not torch.equal(last.model(IDS), before.model(IDS))
    assert exported.facts["step"] == last.facts["step"] == 24 and before.facts["step"] == 16
    assert last.tokenizer.fingerprint == exported.tokenizer.fingerprint and last.stage == exported.stage == "base"
