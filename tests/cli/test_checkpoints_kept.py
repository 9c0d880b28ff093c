"""`checkpoints inspect|diff|prune|verify` on a real run and on damaged copies of it."""

import json
import os
import pickle
import pty
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from nanochat_pl.checkpoint.model_folder import load_model_folder
from nanochat_pl.checkpoint.saved import point_last_to
from nanochat_pl.cli.checkpoints import app
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.run_folder import RunFolder
from tests.processes import REPOSITORY, SMALL, environment_of, train

STEPS = (8, 16, 24)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("trained")
    code, output = train(*SMALL, runs=runs)
    assert code == 0, output
    return runs / "test"


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A copy that may be damaged."""
    monkeypatch.setenv("COLUMNS", "200")
    shutil.copytree(trained, tmp_path / "runs/test", symlinks=True)
    return RunFolder.of("test", "base")


def call(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def path_of(run: RunFolder, step: int) -> Path:
    return run.checkpoints / f"step-{step:08d}.ckpt"


def damage(path: Path) -> None:
    """Another value in the middle of a weight, as a disk would do it."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def there(run: RunFolder) -> list[int]:
    return [step for step in STEPS if path_of(run, step).exists()]


def test_list_marks_the_last_and_the_best(run: RunFolder) -> None:
    listed = json.loads(call("list", "test", "--json"))
    values = dict(run.read_metrics()["val/bpb"])
    kept = listed["kept"]
    assert [one["step"] for one in kept] == [*STEPS, 24]
    assert [one["val_bpb"] for one in kept[:3]] == [values[step] for step in STEPS]
    assert kept[-1]["val_bpb"] == pytest.approx(values[24])
    assert listed["total_bytes"] == sum(Path(one["path"]).stat().st_size for one in kept)
    best = min(STEPS, key=lambda step: values[step])
    assert [one["step"] for one in kept if "best" in one["marks"]] == [best]
    point_last_to(path_of(run, 16))
    (run.checkpoints / "step-00000030.damaged").write_bytes(b"x")
    rows = [line.split() for line in call("list", "test").splitlines() if "runs/test" in line]
    assert rows[1][-1] == "last" and rows[3][-1] == "damaged" and rows[4][-1] == "model"


def test_inspect_says_what_the_run_says_of_itself(run: RunFolder) -> None:
    found = json.loads(call("inspect", "test@16", "--json"))
    resolved, summary = json.loads(run.resolved.read_text()), run.read_summary()
    model = load_model_folder(run.model).model
    assert (found["step"], found["config"]) == (16, resolved["model"])
    assert found["parameters"] == sum(p.numel() for p in model.parameters()) == summary["parameters"]
    roles = model.param_roles()
    matrices = sum(p.numel() for name, p in model.named_parameters() if roles[name] == "matrix")
    assert found["parameters_by_role"]["matrix"] == matrices
    assert found["bytes"]["weights"] == 4 * found["parameters"] and found["dtypes"]["optimizer"] == ["float32"]
    assert found["bytes"]["optimizer"] > 4 * found["parameters"]
    assert found["data"]["rows"] == 16 * resolved["rows_per_step"]
    assert found["program"]["versions"] == summary["versions"]
    as_file = json.loads(call("inspect", str(path_of(run, 16)), "--json"))
    newest = json.loads(call("inspect", "test", "--json"))
    assert as_file == found and newest["step"] == 24
    exported = json.loads(call("inspect", str(run.model), "--json"))
    assert exported["parameters_by_role"] == found["parameters_by_role"] and exported["bytes"]["optimizer"] == 0
    text = call("inspect", "test@16")
    assert "rows 128" in text and "n_embd=32" in text and torch.__version__ in text


def test_diff_measures_what_was_changed(run: RunFolder) -> None:
    assert "are the same" in call("diff", "test@24", str(run.model))
    saved = torch.load(path_of(run, 24), weights_only=True)
    saved["state_dict"]["model.head.weight"] *= 1.25
    saved["state_dict"]["model.embedding.weight"] = torch.zeros(3, 4)
    saved["nanochat_pl"]["model"]["softcap"] = 30.0
    torch.save(saved, path_of(run, 16))
    rows = [line.split() for line in call("diff", "test@24", "test@16", "-n", "1").splitlines()]
    assert ["config", "softcap:", "15.0,", "then", "30.0"] in rows
    assert ["shape", "of", "embedding.weight:", "(320,", "32),", "then", "(3,", "4)"] in rows
    assert ["unembedding", "0.25"] in rows and ["head.weight", "unembedding", "0.25"] in rows
    assert ["matrix", "0"] in rows
    moved = [line.split() for line in call("diff", "test@8", "test@24").splitlines()]
    assert {"matrix", "embedding", "unembedding"} <= {row[0] for row in moved if row}


def test_verify_finds_each_kind_of_damage_and_names_the_newest_sound(run: RunFolder) -> None:
    assert "sound" in call("verify", "test")
    damage(path_of(run, 24))
    output = call("verify", "test", code=1)
    assert "a checksum is wrong" in output and f"newest sound checkpoint: {path_of(run, 16)}" in output
    saved = torch.load(path_of(run, 16), weights_only=True)
    saved["state_dict"]["model.head.weight"][0, 0] = float("inf")
    torch.save(saved, path_of(run, 16))
    (run.checkpoints / "last.ckpt").unlink()
    (run.checkpoints / "last.ckpt").symlink_to("step-00000032.ckpt")
    verdicts = json.loads(call("verify", "test", "--json", code=1))
    assert verdicts["newest_sound"] == {str(run.checkpoints): str(path_of(run, 8))}
    assert "head.weight is not finite" in verdicts["faults"][str(path_of(run, 16))]
    assert "points to nothing" in verdicts["faults"][str(run.checkpoints / "last.ckpt")]
    assert verdicts["faults"][str(path_of(run, 8))] is None and verdicts["faults"][str(run.model)] is None
    call("verify", "test@8")
    saved["state_dict"]["model.head.weight"] = torch.zeros(2, 2)
    torch.save(saved, path_of(run, 8))
    assert "head.weight has shape (2, 2)" in call("verify", "test@8", code=1)
    os.truncate(run.model / "model.safetensors", 1000)
    assert "model.safetensors is missing or damaged" in call("verify", str(run.model), code=1)
    assert "None in" in call("verify", "test", code=1)


def test_a_foreign_pickle_is_not_run(run: RunFolder, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path(tmp_path / "executed").touch, ())

    torch.save({"nanochat_pl": Evil()}, path_of(run, 24))
    path_of(run, 16).write_bytes(pickle.dumps(Evil()))
    with zipfile.ZipFile(path_of(run, 8), "w") as archive:
        archive.writestr("archive/data.pkl", b"no pickle")
    for step in STEPS:
        assert "damaged" in call("verify", f"test@{step}", code=1) or step == 16
        with pytest.raises(UserError, match="is damaged or not one of"):
            call("inspect", f"test@{step}")
    assert not (tmp_path / "executed").exists()


def test_prune_keeps_what_the_rule_keeps_and_refuses_to_guess(run: RunFolder) -> None:
    with pytest.raises(UserError, match="Say --yes"):
        call("prune", "test", "--keep-last", "2")
    assert there(run) == [8, 16, 24]
    metrics = run.metrics.read_text()
    run.metrics.write_text("step,val/bpb\n8,1.0\n16,2.0\n24,3.0\n")
    size = path_of(run, 8).stat().st_size
    output = call("prune", "test", "--keep-best", "1", "--yes")
    assert "1 to remove" in output and f"{size / 1000:.1f} kB" in output
    assert there(run) == [8, 24]
    call("prune", "test", "--keep-last", "3", "--budget-gigabytes", str(1.5 * size / 1e9), "--yes")
    assert there(run) == [24] and (run.model / "model.safetensors").exists()
    assert "Nothing to remove" in call("prune", "test")
    run.metrics.write_text(metrics.replace("val/bpb", "val/other"))
    with pytest.raises(UserError, match="no bits per byte are known"):
        call("prune", "test", "--keep-best", "1", "--yes")


def test_prune_leaves_what_is_damaged_and_the_last_sound_one(run: RunFolder) -> None:
    damage(path_of(run, 24))
    output = call("prune", "test", "--yes")
    assert f"{path_of(run, 24)} is damaged and left alone" in output
    assert there(run) == [16, 24] and (run.checkpoints / "last.ckpt").resolve() == path_of(run, 16)
    damage(path_of(run, 16))
    assert "Nothing to remove" in call("prune", "test", "--yes", "--budget-gigabytes", "0")
    assert there(run) == [16, 24]


def test_prune_takes_a_whole_file_with_a_broken_model_for_damaged(run: RunFolder) -> None:
    saved = torch.load(path_of(run, 24), weights_only=True)
    saved["state_dict"]["model.head.weight"][0, 0] = float("nan")
    torch.save(saved, path_of(run, 24))
    assert f"{path_of(run, 24)} is damaged and left alone" in call("prune", "test", "--yes")
    assert there(run) == [16, 24] and (run.checkpoints / "last.ckpt").resolve() == path_of(run, 16)


def test_prune_waits_for_a_training(run: RunFolder) -> None:
    with run.locked(), pytest.raises(UserError, match="is in training"):
        call("prune", "test", "--yes")
    assert there(run) == [8, 16, 24]
    call("prune", "test", "--yes")
    assert there(run) == [24]


@pytest.mark.slow
def test_prune_asks_at_a_terminal(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment_of(run.path.parent.parent).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(REPOSITORY)
    for answer, left in ((b"n\n", [8, 16, 24]), (b"y\n", [24])):
        answers, shown = [answer], []

        def read(descriptor: int, shown: list[bytes] = shown) -> bytes:
            shown.append(os.read(descriptor, 1024))
            return shown[-1]

        def type_(descriptor: int, answers: list[bytes] = answers) -> bytes:
            return answers.pop() if answers else os.read(descriptor, 1)

        status = pty.spawn([sys.executable, "-m", "nanochat_pl", "checkpoints", "prune", "test"], read, type_)
        assert status == 0 and b"Remove them?" in b"".join(shown)
        assert there(run) == left
