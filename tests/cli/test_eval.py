"""`eval` as a user calls it: figures, records, and what is said when something is not there."""

import json
import re
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from typer.testing import CliRunner

from nanochat_pl.checkpoint.model_folder import save_model_folder
from nanochat_pl.cli import app
from nanochat_pl.config.compose import compose
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.hardware import HardwareSpec
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.evals import suites
from nanochat_pl.models.config import NanoChatConfig
from nanochat_pl.models.contract import build_model
from nanochat_pl.models.gpt2 import GPT2Config
from nanochat_pl.tokenizers.specs import ByteSpec
from tests.forks import run_program
from tests.processes import SMALL, train

CONFIG = NanoChatConfig(vocab_size=265, sequence_len=256, n_layer=1, n_head=2, n_kv_head=2, n_embd=32)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setattr(suites, "MAX_NEW_TOKENS", 8)
    run = RunFolder.of("mine", "sft")
    save_model_folder(run.model, build_model(CONFIG, "cpu", seed=3), CONFIG, ByteSpec().build(), {"step": 3}, "sft")
    run.config.write_text("stage: {name: sft}\n")
    return run


def call(*arguments: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["nanochat-pl", "eval", *arguments])
        result = CliRunner().invoke(app, ["eval", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_table_json_and_the_run_s_records(run: RunFolder, tmp_path: Path, test_data: Path) -> None:
    out = tmp_path / "new" / "out.json"
    arguments = ("--max-per-task", "2", "--tasks-path", str(test_data / "hub"), "--out", str(out))
    run.write_summary(status="finished")
    output = call("mine", "--suite", "chat", "--suite", "tasks=tiny_sums", *arguments)
    assert f"chat of {run.path}, step 3" in output and "ChatCORE: " in output and "centered" in output
    assert "arc_challenge" in output and "±" in output and f"Wrote {out}." in output
    written = json.loads(out.read_text())
    assert (
        written["model"] == str(run.path) and written["step"] == 3 and list(written["suites"]) == ["chat", "tiny_sums"]
    )
    chat = written["suites"]["chat"]
    assert chat["max_per_task"] == 2 and chat["device"] == HardwareSpec().detect().accelerator
    assert [task["count"] for task in chat["tasks"]] == [2] * 6
    kept = run.read_evaluations()
    assert {key: kept["chat"]["3"][key] for key in chat} == chat and kept["tiny_sums"].keys() == {"3"}
    assert kept["chat"]["3"]["command"][:4] == ["-m", "nanochat_pl", "eval", "mine"]
    assert "torch" in kept["chat"]["3"]["versions"]
    summary = run.read_summary()
    assert summary["status"] == "finished"
    assert summary["evaluations"]["chat"] == {
        "step": 3, "metric": "ChatCORE", "value": chat["value"], "standard_error": chat["standard_error"],
    }  # fmt: skip
    call("mine", "--suite", "chat", *arguments)
    again = json.loads(out.read_text())["suites"]["chat"]
    assert again | {"seconds": 0} == chat | {"seconds": 0}, "the same command gives the same figures"


def test_a_result_on_fewer_questions_is_shown_and_not_recorded(run: RunFolder) -> None:
    suite = ("mine", "--suite", "tasks=tiny_sums")
    assert "keeps it" not in call(*suite, "--max-per-task", "3")
    output = call(*suite, "--max-per-task", "2")
    assert "tiny_sums of" in output and "has a result of tiny_sums at step 3 on more questions" in output
    assert run.read_evaluations()["tiny_sums"]["3"]["max_per_task"] == 3
    assert "keeps it" not in call(*suite, "--max-per-task", "5")
    assert run.read_evaluations()["tiny_sums"]["3"]["max_per_task"] == 5


def test_a_model_folder_elsewhere(run: RunFolder, tmp_path: Path) -> None:
    run.model.rename(tmp_path / "model")
    assert "tiny_sums of" in call(str(tmp_path / "model"), "--suite", "tasks=tiny_sums", "--max-per-task", "1")
    assert not (tmp_path / "evaluations.json").exists()
    with pytest.raises(UserError, match="has no run beside it"):
        call(str(tmp_path / "model"), "--suite", "bpb")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mine", "--suite", "cor"), "did you mean 'core'"),
        (("mine", "--suite", "tasks=gsm9k"), "did you mean 'gsm8k'"),
        (("yours", "--suite", "bpb"), "There is no model in"),
        (("mine@7", "--suite", "bpb"), "no checkpoint of step 7"),
        (("mine", "--suite", "core", "--bundle", "nowhere"), "nowhere holds no CORE tasks"),
        (("mine", "--suite", "tasks=gsm8k", "--tasks-path", "nowhere"), "There is no folder nowhere"),
        (("mine", "--suite", "bpb", "--lengths", "128,2k"), "'128,2k' must be numbers of tokens"),
        (("mine", "--suite", "tiny", "--lengths", "128"), "goes with --suite bpb"),
        (("mine", "--suite", "bpb", "--png", "x.png"), "--png with both"),
        (("mine", "--suite", "bpb", "--lengths", "64", "--png", "x.jpgg"), "must end with .png"),
    ],
)
def test_mistakes(run: RunFolder, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(*arguments)
    assert not run.evaluations.exists()


def test_a_length_that_the_model_refuses_is_told_and_left_out(tmp_path: Path) -> None:
    run, config = RunFolder.of("short", "base"), GPT2Config(265, 64, n_layer=1, n_head=2, n_kv_head=2, n_embd=32)
    save_model_folder(run.model, build_model(config, "cpu", seed=3), config, ByteSpec().build(), {"step": 3})
    OmegaConf.save(compose(["model=gpt2", "tokenizer=byte", "data.val_tokens=512", "hw=cpu"]), run.config, resolve=True)
    picture = tmp_path / "lengths.png"
    output = call("short", "--suite", "bpb", "--lengths", "32,64,128", "--png", str(picture))
    assert "bpb@128 of" in output and "positions of 64" in output
    assert re.search(r"\d\.\d{4}  \d\.\d{4} \(.\d+\.\d%\)  +n/a", output)
    assert run.read_evaluations().keys() == {"bpb@32", "bpb@64"}
    with pytest.raises(UserError, match=r"128 tokens.*positions of 64"):
        call("short", "--suite", "bpb", "--lengths", "128")


def test_a_length_beyond_all_that_is_held_out_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, text = RunFolder.of("mine", "base"), tmp_path / "text.txt"
    text.write_text("\n\n".join(f"The {n:02}th text." for n in range(40)))
    save_model_folder(run.model, build_model(CONFIG, "cpu", seed=3), CONFIG, ByteSpec().build(), {"step": 3})
    options = ["data=text", f"data.files={text}", "data.val_fraction=0.25", "tokenizer=byte", "hw=cpu"]
    OmegaConf.save(compose(options), run.config, resolve=True)
    with pytest.raises(UserError, match=r"rows of 999,999,999,999 tokens.* holds out has (\d+), so that") as refused:
        call("mine", "--suite", "bpb", "--lengths", "64,999999999999")
    longest = int(re.search(r"longest row has (\d+)", str(refused.value))[1])
    assert 0 < longest < 40 * 15 and (longest + 1) % 15 == 0 and not run.evaluations.exists()
    assert f"bpb@{longest} of" in call("mine", "--suite", "bpb", "--lengths", str(longest))
    with pytest.raises(UserError, match="longest row"):
        call("mine", "--suite", "bpb", "--lengths", str(longest + 1))


@pytest.mark.parametrize("text", ["stage: [", "- 1"])
def test_a_damaged_configuration(run: RunFolder, text: str) -> None:
    run.config.write_text(text)
    with pytest.raises(UserError, match=r"config.yaml is damaged"):
        call("mine", "--suite", "bpb")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "code", "message"),
    [
        ("cor", 2, "There is no suite 'cor'"),
        ("tasks=gsm8k", 3, r"could not be fetched.*--tasks-path FOLDER"),
        ("core", 3, "Could not download CORE's tasks.*or give the place of an unpacked one"),
    ],
)
def test_exit_codes(run: RunFolder, suite: str, code: int, message: str) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "https_proxy": "http://127.0.0.1:9"}
    result = run_program("-m", "nanochat_pl", "eval", "mine", "--suite", suite, environment=offline)
    assert result.returncode == code, result.stderr
    assert re.fullmatch(f".*{message}.*", result.stderr.strip()) and "Traceback" not in result.stderr


@pytest.mark.slow
def test_bits_per_byte_are_those_of_the_run_at_each_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_PL_RUNS", str(tmp_path))
    monkeypatch.setenv("NANOCHAT_PL_CACHE", str(tmp_path / "cache"))
    chats = ("model.sequence_len=256", "horizon.total_batch_tokens=512", "data.val_tokens=2048", "horizon.steps=8")
    shared = [option for option in SMALL if not option.startswith(("data.", "horizon.", "model.seq"))]
    for stage in ("base", "sft"):
        code, output = train(
            f"stage={stage}", *shared, *chats, "data.streams=2", "trainer.validate_every_n_steps=4",
            "callbacks.evaluate.suites=[]", runs=tmp_path,
        )  # fmt: skip
        assert code == 0, output
        run = RunFolder(tmp_path / "test" / stage)
        for step, value in run.read_metrics()["val/bpb"]:
            call(f"test/{stage}@{step}", "--suite", "bpb")
            assert run.read_evaluations()["bpb"][str(step)]["value"] == pytest.approx(value, rel=1e-5)
        call(f"test/{stage}", "--suite", "bpb")
        assert run.read_summary()["evaluations"]["bpb"]["step"] == 8
    picture = tmp_path / "new" / "lengths.png"
    output = call("test/base", "test/sft", "--suite", "bpb", "--lengths", "512,256", "--png", str(picture))
    assert output.count("bits per byte in rows of 512 tokens: ") == 2 and f"Wrote {picture}." in output
    assert picture.read_bytes().startswith(b"\x89PNG")
    found = RunFolder(tmp_path / "test" / "base").read_evaluations()
    own, longer = (found[name]["8"]["value"] for name in ("bpb@256", "bpb@512"))
    assert own == found["bpb"]["8"]["value"] and f"{longer:.4f} ({longer / own - 1:+.1%})" in output
