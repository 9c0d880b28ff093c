"""doctor checkpoint on real files, whole and damaged."""

import zipfile
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from nanochat_pl.checkpoint.model_folder import save_model_folder
from nanochat_pl.checkpoint.saved import resume_point
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.diagnosis import checkpoint
from nanochat_pl.models.config import NanoChatConfig
from nanochat_pl.models.contract import build_model
from nanochat_pl.tokenizers.specs import ByteSpec

CONFIG = NanoChatConfig(vocab_size=265, sequence_len=16, n_layer=2, n_head=2, n_kv_head=2, n_embd=32)


def save(run: RunFolder, step: int, **other: object) -> Path:
    """A checkpoint of an untrained model, with what a training goes on from."""
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    path = run.checkpoints / f"step-{step:08d}.ckpt"
    weights = {f"model.{name}": weight for name, weight in build_model(CONFIG, "cpu", seed=3).state_dict().items()}
    content = {
        "nanochat_pl": {"architecture": "nanochat", "model": CONFIG.as_dict()}, "state_dict": weights, "loops": {},
        "optimizer_states": [{"param_groups": [], "state": {}}], "global_step": step,
    }  # fmt: skip
    torch.save(content | other, path)
    return path


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "x/base")
    for step in (8, 16, 24):
        save(run, step)
    (run.checkpoints / "last.ckpt").symlink_to("step-00000024.ckpt")
    (run.path / ".lock").touch()
    return run


def everything(run: RunFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and not path.is_symlink()}


def said(diagnosis: checkpoint.Diagnosis) -> str:
    return "\n".join(f"{finding.severity}: {finding.what}" for finding in diagnosis.findings)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """One byte within the weights' data."""
    raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
    raw[largest.header_offset + 200 + largest.file_size // 2] ^= 1
    path.write_bytes(bytes(raw))


def test_a_sound_run_is_left_as_it_is(run: RunFolder) -> None:
    before = everything(run)
    diagnosis = checkpoint.diagnose(run)
    assert diagnosis.sound, said(diagnosis)
    assert said(diagnosis).count("is sound") == 3 and "last.ckpt points to step-00000024.ckpt" in said(diagnosis)
    assert everything(run) == before


@pytest.mark.parametrize("damage", [cut, flip, lambda path: path.write_bytes(b""), lambda path: path.write_text("x")])
def test_damage_is_found_and_last_repaired(run: RunFolder, damage: object) -> None:
    damage(run.checkpoints / "step-00000024.ckpt")  # type: ignore[operator]
    before = everything(run)
    diagnosis = checkpoint.diagnose(run)
    assert not diagnosis.sound and "error: step-00000024.ckpt: it is cut short or overwritten" in said(diagnosis)
    assert f"The newest sound checkpoint: {run.checkpoints / 'step-00000016.ckpt'}" in said(diagnosis)
    assert "Repaired: last.ckpt was pointing to step-00000024.ckpt; now it points to step-00000016.ckpt" in said(
        diagnosis
    )
    assert (run.checkpoints / "last.ckpt").readlink() == Path("step-00000016.ckpt")
    assert everything(run) == before


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"global_step": 3}, "it holds step 3"),
        ({"state_dict": {"model.a": torch.full((4,), float("nan"))}}, "a has shape (4,), its model None"),
        ({"loops": None, "optimizer_states": []}, "damaged or not one of nanochat_pl's"),
    ],
)
def test_what_a_training_would_wrongly_go_on_from_is_put_aside(
    run: RunFolder, other: dict[str, object], words: str
) -> None:
    """A resume looks at checksums alone, and takes the newest file where they are right."""
    path = save(run, 24, **other)
    assert words in said(checkpoint.diagnose(run, repair=False)) and path.exists()
    diagnosis = checkpoint.diagnose(run)
    assert not diagnosis.sound and words in said(diagnosis)
    assert not path.exists() and path.with_suffix(".damaged").exists()
    assert resume_point(run.checkpoints) == run.checkpoints / "step-00000016.ckpt"
    assert checkpoint.diagnose(run).sound


def test_another_zip_and_a_pickle_with_code(run: RunFolder) -> None:
    with zipfile.ZipFile(run.checkpoints / "step-00000024.ckpt", "w") as archive:
        archive.writestr("a.txt", "hello")
    torch.save({"state_dict": Path}, run.checkpoints / "step-00000016.ckpt")
    words = said(checkpoint.diagnose(run))
    assert words.count("damaged or not one of nanochat_pl's") == 2 and "now it points to step-00000008.ckpt" in words


def test_last_is_made_kept_or_left(run: RunFolder) -> None:
    last = run.checkpoints / "last.ckpt"
    last.unlink()
    assert "warning: last.ckpt is missing" in said(checkpoint.diagnose(run, repair=False)) and not last.exists()
    assert "Repaired: last.ckpt was missing" in said(checkpoint.diagnose(run))
    last.unlink()
    last.write_bytes(b"the only copy")
    assert "Repaired: last.ckpt was a file of its own" in said(checkpoint.diagnose(run))
    assert (run.checkpoints / "last.ckpt.before").read_bytes() == b"the only copy"
    last.unlink()
    (run.path / ".a.tmp").write_text("half")
    with FileLock(run.path / ".lock"):
        words = said(checkpoint.diagnose(run))
    assert "info: last.ckpt is missing; the training that runs here" in words and not last.is_symlink()
    assert (run.path / ".a.tmp").exists()


def test_nothing_is_sound_or_nothing_is_there(run: RunFolder, tmp_path: Path) -> None:
    for path in run.checkpoints.glob("step-*.ckpt"):
        cut(path)
    words = said(checkpoint.diagnose(run))
    assert "error: No checkpoint is sound" in words and "warning: last.ckpt is there" in words
    assert checkpoint.diagnose(RunFolder(tmp_path / "empty")).sound
    gone = RunFolder(tmp_path / "gone/base")
    gone.write_summary(step=7)
    assert "though the run has come to step 7" in said(checkpoint.diagnose(gone))


def test_the_model_folder(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "x/base")
    model = build_model(CONFIG, "cpu", seed=3)
    tokenizer = ByteSpec().build()
    save_model_folder(run.model, model, CONFIG, tokenizer, {"step": 8.0}, stage="base")
    assert "good: The model of step 8 is sound" in said(checkpoint.diagnose(run))
    with torch.no_grad():
        next(model.parameters())[0] = float("inf")
    save_model_folder(run.model, model, CONFIG, tokenizer, {}, stage="base")
    assert "is not finite" in said(checkpoint.diagnose(run))
    cut(run.model / "model.safetensors")
    assert "error: The model folder: " in said(checkpoint.diagnose(run)) and "damaged" in said(checkpoint.diagnose(run))
    (run.model / "model.json").write_text("[1]")
    assert "model.json is damaged" in said(checkpoint.diagnose(run))
