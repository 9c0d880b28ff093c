"""`doctor` as a user calls it: which topics, of what, and with which exit code."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from nanochat_pl.cli import app
from nanochat_pl.cli.doctor import TOPICS
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.run_folder import RunFolder
from tests.diagnosis.curves import diverging, healthy
from tests.diagnosis.test_loss import written
from tests.processes import SMALL, train

FILES = ("config.yaml", "resolved.json", "summary.json", "metrics.csv", "events.jsonl", "invocations.jsonl",
         "model/model.json", "model/model.safetensors", "model/tokenizer/tokenizer.json", "stacks/rank-0.txt",
         "checkpoints/step-00000008.ckpt", "checkpoints/last.ckpt", "train.log")  # fmt: skip


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments], catch_exceptions=False)


def topics(result: Result) -> dict[str, dict[str, Any]]:
    return {one["topic"]: one for one in json.loads(result.stdout)["topics"]}


def test_exit_codes_and_json() -> None:
    written(healthy(1, points=60))
    sound = doctor("loss", "a$b$", "--json")
    (found,) = json.loads(sound.stdout)["topics"]
    assert sound.exit_code == 0 and json.loads(sound.stdout)["sound"]
    assert found["topic"] == "loss" and found["artifacts"] == [f"{found['subject']}/loss-diagnosis.png"]
    assert found["findings"][0].keys() == {"severity", "what", "advice", "evidence"}
    shutil.rmtree(RunFolder.of("a$b$", "base").path)
    written(diverging(healthy(1, points=60))).write_summary(status="running")
    wrong = doctor("loss")
    assert wrong.exit_code == 1 and "Divergence." in wrong.output and "Something is wrong: loss." in wrong.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("loss",), "There is no run under"),
        (("los",), "'los' is no topic of the doctor; did you mean 'loss'?"),
        (("loss", "tinny"), "did you mean 'tiny'?"),
        (("losss", "tiny"), "'losss' is no topic of the doctor; did you mean 'loss'?"),
        (("loss", "model.depth=4"), "doctor loss looks at a run"),
        (("oom", "tiny", "model.depth=4"), "Give either a run ('tiny') or"),
        (("oom", "model.dept=4"), "did you mean 'model.depth'?"),
        (("data", "data=finweb"), "data has no option 'finweb'"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str) -> None:
    if arguments != ("loss",):
        RunFolder.of("tiny", "base").write_summary(status="finished")
    with pytest.raises(UserError) as raised:
        doctor(*arguments)
    assert message in str(raised.value)


def test_without_any_run_the_machine_is_looked_at() -> None:
    assert set(topics(doctor("--json"))) == {"gpu", "distributed"}


def test_of_a_command_that_is_yet_to_train() -> None:
    result = doctor("oom", "recipe=tiny", "hw=rtx4090", "hw.tokens_per_device=256", "--json")
    found = topics(result)["oom"]
    assert result.exit_code == 0 and "RTX 4090" in found["findings"][0]["what"]
    [advice] = [finding["advice"] for finding in found["findings"] if "train.py" in finding["advice"]]
    assert advice.strip() == "python train.py recipe=tiny hw=rtx4090 hw.tokens_per_device=2048"
    assert topics(doctor("data", "recipe=tiny", "--json"))["data"]["sound"]


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff\xfe" * 40, b"[1, 2", b'{"a": {"b": [null]}}', b"step,train/loss\n,\n"]
)
def test_every_topic_survives_garbage(content: bytes) -> None:
    run = RunFolder.of("x,model.depth=6", "base")
    for name in FILES:
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).write_bytes(content)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    found = topics(doctor("x,model.depth=6", "--json"))
    assert list(found) == list(TOPICS)
    assert not found["checkpoint"]["sound"] and not found["stuck"]["sound"] and not found["data"]["sound"]
    assert before == {path: path.read_bytes() for path in before}


def test_an_empty_run() -> None:
    RunFolder.of("x", "base").path.mkdir(parents=True)
    found = topics(doctor("x", "--json"))
    wrong = {topic for topic in found if not found[topic]["sound"]}
    assert list(found) == list(TOPICS) and wrong <= {"gpu", "distributed"}


@pytest.mark.slow
def test_a_real_run_and_what_becomes_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_PL_RUNS", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    options = [option for option in SMALL if not option.startswith("horizon.steps")]
    code, output = train(*options, "horizon.steps=48", runs=tmp_path)
    assert code == 0, output
    result = doctor("--json")
    assert {topic for topic, found in topics(result).items() if not found["sound"]} <= {"gpu"}, result.stdout
    assert topics(result)["loss"]["subject"] == str(tmp_path / "test/base")
    folder = tmp_path / "test/base/checkpoints"
    newest = folder / "step-00000048.ckpt"
    os.truncate(newest, newest.stat().st_size // 2)
    assert "Repaired: last.ckpt" not in doctor("test").output  # looks at all, and changes nothing
    assert (folder / "last.ckpt").resolve() == newest
    result = doctor("checkpoint", "test")
    assert result.exit_code == 1 and "Repaired: last.ckpt" in result.output
    assert (folder / "last.ckpt").resolve() == folder / "step-00000040.ckpt"
    assert all(len(line) <= 80 for line in result.output.splitlines() if str(tmp_path) not in line)
    code, output = train(*options, "horizon.steps=56", runs=tmp_path)
    assert code == 0 and "Going on from step 40" in output
    assert doctor("checkpoint", "test").exit_code == 0
