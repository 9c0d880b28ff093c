"""`checkpoints export` and `checkpoints list` as a user calls them."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from nanochat_pl.checkpoint.hf_export import CHAT_TEMPLATE
from nanochat_pl.checkpoint.hf_formats import MODELING_FILE
from nanochat_pl.checkpoint.model_folder import load_model_folder, save_model_folder
from nanochat_pl.cli.checkpoints import app
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.models.config import NanoChatConfig
from nanochat_pl.models.contract import build_model
from nanochat_pl.tokenizers.specs import ByteSpec
from tests.forks import run_program
from tests.processes import SMALL, train

pytest.importorskip("transformers")
CONFIG = NanoChatConfig(vocab_size=265, sequence_len=16, n_layer=2, n_head=2, n_kv_head=2, n_embd=32)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("COLUMNS", "200")
    run = RunFolder.of("mine", "sft")
    facts = {"step": 200.0, "val_bpb": 1.23456}
    save_model_folder(run.model, build_model(CONFIG, "cpu", seed=3), CONFIG, ByteSpec().build(), facts, stage="sft")
    return run


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_export_of_a_run_by_every_name(run: RunFolder, tmp_path: Path) -> None:
    output = call("export", "mine", "--to", "hf")
    out = run.path / "model-hf"
    assert f"Wrote {out}: the model's own modeling file" in output
    assert f"AutoModelForCausalLM.from_pretrained('{out}', trust_remote_code=True)" in output
    names = {path.name for path in out.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", MODELING_FILE, CHAT_TEMPLATE} <= names
    for name in (run.path, run.model, run.path.parent):
        call("export", str(name), "--to", "hf", "--out", str(tmp_path / "elsewhere"))
        assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == names
    assert (tmp_path / "elsewhere" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    assert "runs/mine/sft" in (out / "README.md").read_text()


def test_what_cannot_be_exported_is_said(run: RunFolder, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path(tmp_path / "executed").touch, ())

    pickled = tmp_path / "model.pt"
    pickled.write_bytes(pickle.dumps(Evil()))
    out = ("--to", "hf", "--out", str(tmp_path / "out"))
    with pytest.raises(UserError, match="is a file, but a model is a folder"):
        call("export", str(pickled), *out)
    with pytest.raises(UserError, match="There is no model in"):
        call("export", "nobody", *out)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match=r"config.json of .*foreign is incomplete"):
        call("export", str(foreign), *out)
    weights = run.model / "model.safetensors"
    for content in (weights.read_bytes()[:-100], pickled.read_bytes()):
        weights.write_bytes(content)
        with pytest.raises(UserError, match=r"model.safetensors is missing or damaged"):
            call("export", "mine", *out)
    (run.model / "model.json").write_text('{"format": "other", "format_version": 1, "config": {}}')
    with pytest.raises(UserError, match="format 'other'"):
        call("export", "mine", *out)
    assert not (tmp_path / "out").exists() and not (tmp_path / "executed").exists()
    unknown = CliRunner().invoke(app, ["export", "mine", "--to", "gguf"])
    assert unknown.exit_code == 2 and "'hf'" in unknown.output


def test_list_of_a_run(run: RunFolder) -> None:
    base = RunFolder.of("mine", "base")
    base.checkpoints.mkdir(parents=True)
    for step in (100, 200):
        (base.checkpoints / f"step-{step:08d}.ckpt").write_bytes(b"x" * 2500)
    base.metrics.write_text("step,train/loss,val/bpb\n100,3.0,\n200,2.5,1.75\n")
    for name, rows in (("mine", 3), (str(base.path), 2)):
        lines = [line.split() for line in call("list", name).splitlines() if str(run.path.parent) in line]
        assert len(lines) == rows
        assert lines[0] == [f"{base.path}@100", "100", "2.5", "kB"]
        assert lines[1] == [f"{base.path}@200", "200", "2.5", "kB", "1.7500", "best"]
    row = next(line.split() for line in call("list", "mine").splitlines() if str(run.model) in line)
    assert row[:2] == [str(run.model), "200"] and row[-2:] == ["1.2346", "model"]
    with pytest.raises(UserError, match="no checkpoints in"):
        call("list", "nobody")


ELSEWHERE = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, expected = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
ids = tokenizer("Two men met.", return_tensors="pt")
print((model(**ids).logits - torch.load(expected)).abs().max().item())
print(tokenizer.decode(model.generate(**ids, max_new_tokens=8, do_sample=False)[0]))
assert not any(name.split(".")[0] in ("nanochat_pl", "lightning", "tiktoken") for name in sys.modules)
"""


@pytest.mark.slow
def test_a_trained_model_runs_where_nanochat_pl_is_not_and_nothing_can_be_fetched(tmp_path: Path) -> None:
    code, output = train(*SMALL, runs=tmp_path)
    assert code == 0, output

    def checkpoints(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"NANOCHAT_PL_RUNS": str(tmp_path), "COLUMNS": "200"}
        return run_program("-m", "nanochat_pl", "checkpoints", *arguments, environment=environment)

    step = sorted((tmp_path / "test/base/checkpoints").glob("step-*.ckpt"))[0]
    for name, folder in (("test", "model-hf"), (f"test@{step.stem[5:].lstrip('0')}", f"{step.stem}-hf")):
        done = checkpoints("export", name, "--to", "hf")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "test/base" / folder / "config.json").is_file()
    loaded = load_model_folder(tmp_path / "test")
    prompt = [loaded.tokenizer.bos_id, *loaded.tokenizer.encode("Two men met.")]
    with torch.no_grad():
        torch.save(loaded.model(torch.tensor([prompt])), tmp_path / "expected.pt")
    nowhere = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": ""}
    process = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path / "test/base/model-hf"), str(tmp_path / "expected.pt")],
        cwd=tmp_path, env=os.environ | nowhere, capture_output=True, text=True,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    difference, text = process.stdout.splitlines()[0], process.stdout
    assert float(difference) < 1e-4 and "<|bos|>Two men met." in text
    listed = checkpoints("list", "test")
    assert listed.stdout.count("test/base") == 4, listed.stdout + listed.stderr
    refused = checkpoints("export", str(step), "--to", "hf")
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
