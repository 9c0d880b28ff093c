"""The hooks as processes with the JSON that Claude Code sends; they refuse only what would fail."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from nanochat_pl.core.findings import Finding, announce
from nanochat_pl.core.run_folder import RunFolder
from tests.claude.hooks import SETTINGS, before_bash, command_of, fire
from tests.processes import REPOSITORY

EVENTS = ("SessionStart", "PreToolUse", "PostToolUse", "Stop")
no_gpu = pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a GPU")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A run that is finished, one with a finding, and nothing else; NANOCHAT_PL_RUNS is set to it by conftest."""
    root = tmp_path / "runs"
    done = RunFolder(root / "tiny" / "base")
    done.write_summary(status="finished", step=600, val_bpb=1.25)
    announce(done, Finding("loss_spike", 30, "The loss jumped.", "Lower horizon.lr_scale."))
    return root


def desktop(tmp_path: Path) -> tuple[dict[str, str], Path]:
    """A notify-send that writes down what it is to show, and what to set for it."""
    shown, program = tmp_path / "shown", tmp_path / "bin" / "notify-send"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {shown}.new && mv {shown}.new {shown}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{program.parent}:{os.environ['PATH']}", "DISPLAY": ":0"}, shown


def denied(answer: dict[str, str]) -> str:
    assert answer["hookEventName"] == "PreToolUse" and answer["permissionDecision"] == "deny"
    return answer["permissionDecisionReason"]


def test_settings_have_the_published_shape() -> None:
    """As https://json.schemastore.org/claude-code-settings.json describes hooks: no other keys are allowed there."""
    assert SETTINGS.keys() <= {"$schema", "hooks", "permissions", "env"}
    assert SETTINGS["hooks"].keys() == set(EVENTS)
    for groups in SETTINGS["hooks"].values():
        for group in groups:
            assert {"hooks"} <= group.keys() <= {"hooks", "matcher"}
            for hook in group["hooks"]:
                assert {"type", "command"} <= hook.keys() <= {"type", "command", "timeout", "statusMessage"}
                assert hook["type"] == "command" and 0 < hook["timeout"] <= 5
                script = hook["command"].split()[-1].replace('"$CLAUDE_PROJECT_DIR"', str(REPOSITORY))
                assert Path(script).is_file()


def test_another_command_goes_ahead_unseen() -> None:
    assert before_bash("grep -n main train.py") == {}
    assert fire("PreToolUse", tool_name="Read", tool_input={"file_path": "train.py"}) == {}


def test_a_sound_training_goes_ahead_with_where_it_goes(runs: Path) -> None:
    said = before_bash("python train.py")
    assert "permissionDecision" not in said
    assert f"{runs / 'tiny' / 'base'}; it has finished there" in said["additionalContext"]
    other = before_bash("NANOCHAT_PL_RUNS=elsewhere python train.py model.depth=6")["additionalContext"]
    assert f"{REPOSITORY / 'elsewhere'}/tiny,model.depth=6/base; it begins there" in other


def test_a_mistyped_option_is_refused_with_the_nearest() -> None:
    assert "did you mean 'model.depth'?" in denied(before_bash("cd . && python train.py model.dept=6"))
    assert "did you mean 'h100x8'" in denied(before_bash("uv run python3 train.py -m seed=1,2 hw=h100x9"))
    assert before_bash("python train.py model.dept=$DEPTH") == {}  # nobody knows what the shell makes of it
    assert before_bash("git switch other && python train.py model.dept=6") == {}  # nor what options are there then


@no_gpu
def test_a_gpu_profile_is_refused_without_a_gpu(tmp_path: Path) -> None:
    reason = denied(before_bash("python train.py -m seed=1,2 +hw=h100x8"))
    assert "asks for a CUDA GPU, and this machine has none" in reason and "plan seed=1 +hw=h100x8" in reason


def test_a_folder_where_another_process_trains_is_refused(runs: Path) -> None:
    with FileLock(runs / "tiny" / "base" / ".lock"):
        assert f"Another process is training in {runs / 'tiny' / 'base'}" in denied(before_bash("python train.py"))
        rank = "RANK=1 LOCAL_RANK=1 WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 python train.py"
        assert "permissionDecision" not in before_bash(rank)  # of one training
    assert "permissionDecision" not in before_bash("python train.py")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system without room")
def test_a_full_disk_is_refused() -> None:
    reason = denied(before_bash("python train.py", {"NANOCHAT_PL_RUNS": "/proc/self"}))
    assert "0 MB left" in reason and "exit code 3" in reason


def test_what_takes_too_long_is_not_looked_at() -> None:
    assert before_bash("python train.py model.dept=6", {"NANOCHAT_PL_HOOK_SECONDS": "0.001"}) == {}


@pytest.mark.parametrize("event", EVENTS)
def test_nothing_happens_where_something_is_missing(event: str, tmp_path: Path) -> None:
    environment, shown = desktop(tmp_path)
    tool = {"tool_name": "Bash", "tool_input": {"command": "python train.py model.dept=6"}}
    assert fire(event, environment | {"NANOCHAT_PL_HOOKS": "0"}, **tool) == {}
    lonely = tmp_path / "project"  # a checkout without an environment
    shutil.copytree(REPOSITORY / ".claude" / "hooks", lonely / ".claude" / "hooks")
    without = {"CLAUDE_PROJECT_DIR": str(lonely), "VIRTUAL_ENV": "", "CONDA_PREFIX": ""}
    assert fire(event, environment | without, **tool) == {}
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "bash").symlink_to(shutil.which("bash") or "/bin/bash")
    assert fire(event, {"PATH": str(bare)}, **tool) == {}  # no python3
    assert not shown.exists()


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("text", ["", "no JSON", "[1]", '{"tool_name": "Bash", "tool_input": 7}'])
def test_no_event_is_bad_enough_to_stop_the_assistant(event: str, text: str) -> None:
    own = {"CLAUDE_PROJECT_DIR": str(REPOSITORY), "VIRTUAL_ENV": sys.prefix, "DISPLAY": "", "WAYLAND_DISPLAY": ""}
    environment = os.environ | own
    done = subprocess.run(
        ["bash", "-c", command_of(event)], input=text, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0
    if done.stdout:
        assert "permissionDecision" not in json.loads(done.stdout)["hookSpecificOutput"]


def test_a_session_begins_with_the_state_of_things(runs: Path) -> None:
    text = fire("SessionStart", source="startup")["additionalContext"]
    assert "torch 2" in text and "GB free" in text
    assert "run tiny/base: finished, step 600, val_bpb 1.2500, findings: 1" in text
    assert "make lint && make test" in text


def test_the_end_of_a_training_is_told(runs: Path) -> None:
    ran = {"tool_name": "Bash", "tool_response": {"stdout": ""}}
    said = fire("PostToolUse", tool_input={"command": "python train.py"}, **ran)
    assert "tiny/base: finished, step 600, val_bpb 1.2500" in said["additionalContext"]
    assert fire("PostToolUse", tool_input={"command": "cat train.py"}, **ran) == {}
    run = RunFolder(runs / "tiny" / "base")
    run.write_summary(status="running")
    with FileLock(run.path / ".lock"):
        assert fire("PostToolUse", tool_input={"command": "python train.py &"}, **ran) == {}
    said = fire("PostToolUse", tool_input={"command": "timeout -s KILL 9 python train.py"}, **ran)
    assert "tiny/base: killed, step 600" in said["additionalContext"]


def test_the_desktop_is_told_that_the_assistant_waits(runs: Path, tmp_path: Path) -> None:
    environment, shown = desktop(tmp_path)
    assert fire("Stop", environment, stop_hook_active=False) == {}
    text = _written(shown)
    assert "waits for you" in text and "tiny/base: finished, step 600" in text


def _written(path: Path) -> str:
    """What the notification's process has written, which nobody waits for but we."""
    for _ in range(200):
        if path.exists():
            return path.read_text()
        subprocess.run(["sleep", "0.05"], check=True)
    raise AssertionError("nothing was shown")
