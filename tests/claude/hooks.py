"""The hooks of .claude as Claude Code starts them: a shell command of settings.json, the event as JSON on stdin."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.processes import REPOSITORY

SETTINGS = json.loads((REPOSITORY / ".claude" / "settings.json").read_text())


def command_of(event: str) -> str:
    [group] = SETTINGS["hooks"][event]
    [hook] = group["hooks"]
    return hook["command"]


def fire(event: str, environment: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    """What the hook of an event answers; an empty dict where it says nothing."""
    own = {"CLAUDE_PROJECT_DIR": str(REPOSITORY), "VIRTUAL_ENV": sys.prefix, "NANOCHAT_PL_HOOK_SECONDS": "60"}
    common = {"session_id": "1", "transcript_path": "/tmp/t.jsonl", "cwd": str(REPOSITORY), "hook_event_name": event}
    done = subprocess.run(
        ["bash", "-c", command_of(event)],
        input=json.dumps(common | fields),
        env=os.environ | own | (environment or {}),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return json.loads(done.stdout)["hookSpecificOutput"] if done.stdout else {}


def before_bash(command: str, environment: dict[str, str] | None = None, cwd: Path = REPOSITORY) -> dict[str, Any]:
    """What PreToolUse answers to a Bash command."""
    tool = {"tool_name": "Bash", "tool_input": {"command": command, "description": "..."}, "tool_use_id": "1"}
    return fire("PreToolUse", environment, cwd=str(cwd), permission_mode="default", **tool)
