"""Every command that a skill shows, run as it stands; a training is cut short, and what is heavy is named here."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from nanochat_pl.cli import app
from tests.processes import REPOSITORY, train

SKILLS = sorted((REPOSITORY / ".claude" / "skills").glob("*/SKILL.md"))
AGENTS = sorted((REPOSITORY / ".claude" / "agents").glob("*.md"))
EXPECTED = {
    "config-memory", "debug-distributed", "debug-loss", "debug-oom", "debug-stuck", "explain", "fix-checkpoint",
    "gpu-check", "remotion-setup", "rent-gpu", "scaling", "train", "verify-data", "visualize",
}  # fmt: skip
CUTS = (
    "model.depth=2", "model.n_embd=64", "horizon.total_batch_tokens=1024", "horizon.steps=4", "hw=cpu", "hw.threads=1",
    "trainer.validate_every_n_steps=2", "callbacks.metrics.every_n_steps=1", "callbacks.samples=null",
    "callbacks.evaluate.max_per_task=2", "data.val_tokens=1024",
)  # fmt: skip
"""Of every training, unless the command sets the option itself."""
RUN_ELSEWHERE = {
    "bash .claude/skills/rent-gpu/setup.sh": "test_a_rented_machine_is_set_up, with stand-ins for uv and make"
}
"""Commands that are not run as they stand, and which test runs them."""
MAY_FIND_SOMETHING = "python -m nanochat_pl doctor "
"""Exit code 1 is an answer of these: a model of four steps is not sound, and this machine may lack a GPU."""


def front_matter(path: Path) -> dict[str, str]:
    _, front, _ = path.read_text().split("---\n", 2)
    return yaml.safe_load(front)


def commands_of(path: Path) -> list[str]:
    """The lines of the fenced blocks of bash."""
    blocks = re.findall(r"^```bash\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder as a user has it: the repository's files, data of one's own, and the run `tiny` in runs/."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    (folder / ".claude").mkdir()  # where the trainings write what they have found
    for name in (".claude/skills", "conf", "nanochat_pl", "train.py"):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / "my.txt").write_text("".join(f"Tom has {n} apples and {n + 1} pears.\n\n" for n in range(200)))
    chat = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."}]
    (folder / "my_chats.jsonl").write_text(json.dumps(chat) + "\n")
    run_training("python train.py run.name=tiny", folder)
    return folder


def run_training(command: str, folder: Path) -> None:
    arguments = shlex.split(command)[2:]
    own = {argument.partition("=")[0] for argument in arguments}
    cuts = [cut for cut in CUTS if cut.partition("=")[0] not in own]
    code, output = train(*arguments, *cuts, runs=folder / "runs")
    assert code == 0, f"{command}\n{output}"


def run_command(command: str, folder: Path) -> None:
    if command.startswith("python train.py "):
        run_training(command, folder)
    elif command.startswith("python -m nanochat_pl "):
        result = CliRunner().invoke(app, shlex.split(command)[3:], catch_exceptions=False)
        legal = (0, 1) if command.startswith(MAY_FIND_SOMETHING) else (0,)
        assert result.exit_code in legal, f"{command}\n{result.output}"
        assert result.output, f"{command} says nothing"
    else:
        done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout, f"{command}\n{done.stderr}"


def test_skills_have_the_form_that_is_loaded() -> None:
    assert {path.parent.name for path in SKILLS} == EXPECTED
    for path in SKILLS:
        text, front = path.read_text(), front_matter(path)
        assert front.keys() == {"name", "description"}
        assert front["name"] == path.parent.name and re.fullmatch(r"[a-z0-9-]{1,64}", front["name"])
        assert 40 < len(front["description"]) <= 1024 and "Use " in front["description"]
        assert len(text.splitlines()) < 60 and commands_of(path), path


def test_agents_have_the_form_that_is_loaded() -> None:
    assert {path.stem for path in AGENTS} == {"data-validator", "checkpoint-manager"}
    for path in AGENTS:
        front = front_matter(path)
        assert front.keys() == {"name", "description", "tools"} and front["name"] == path.stem
        assert set(front["tools"].split(", ")) <= {"Bash", "Read", "Grep", "Glob"}


def test_commands_that_agents_and_pages_name_are_those_of_the_skills() -> None:
    """What is shown outside of fenced blocks is not run, but its command exists."""
    groups = {command.name: command for command in app.registered_commands} | {g.name: g for g in app.registered_groups}
    pages = [*SKILLS, *AGENTS, REPOSITORY / "CLAUDE.md", REPOSITORY / "docs" / "CLAUDE_CODE_INTEGRATION.md"]
    named = {word for page in pages for word in re.findall(r"-m nanochat_pl ([a-z]+)", page.read_text())}
    assert {"doctor", "checkpoints", "experiments", "plan"} <= named <= groups.keys()


@pytest.mark.slow
def test_every_command_that_a_skill_shows_runs(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other in one workspace, as a skill's commands build on each other; each once."""
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("NANOCHAT_PL_RUNS", str(workspace / "runs"))
    monkeypatch.setenv("NANOCHAT_PL_CACHE", str(workspace / "runs" / "cache"))
    commands = dict.fromkeys(command for path in SKILLS for command in commands_of(path))
    assert len(commands) > 40
    failed = []
    for command in commands:
        if command not in RUN_ELSEWHERE:
            try:
                run_command(command, workspace)
            except Exception as error:
                failed.append(f"{command}: {error}")
    assert not failed, "\n\n".join(failed)


def test_what_is_run_elsewhere_is_shown() -> None:
    assert RUN_ELSEWHERE.keys() <= {command for path in SKILLS for command in commands_of(path)}


def test_a_rented_machine_is_set_up(tmp_path: Path) -> None:
    checkout, programs, said = tmp_path / "checkout", tmp_path / "bin", tmp_path / "said"
    script = checkout / ".claude" / "skills" / "rent-gpu" / "setup.sh"
    script.parent.mkdir(parents=True)
    shutil.copy(REPOSITORY / ".claude" / "skills" / "rent-gpu" / "setup.sh", script)
    python = checkout / ".venv" / "bin" / "python"
    for program in (programs / "uv", programs / "make", programs / "nvidia-smi", python):
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "{program.name} $*" >> {said}\n')
        program.chmod(0o755)
    runs = {"NANOCHAT_PL_RUNS": str(tmp_path / "disk" / "runs"), "NANOCHAT_PL_CACHE": str(tmp_path / "disk" / "cache")}
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(tmp_path)} | runs
    command = ["bash", str(script), "h100x8"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert said.read_text().splitlines() == [
        "nvidia-smi -L",
        "make install",
        "uv pip install --quiet --python .venv/bin/python -e .[data] -c constraints.txt",
        "python -m nanochat_pl doctor gpu",
        "python -m nanochat_pl plan hw=h100x8",
    ]
    assert "python train.py hw=h100x8" in done.stdout and f"RUNS={tmp_path}/disk/runs" in done.stdout
    (programs / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 3 and "no NVIDIA GPU" in done.stderr
