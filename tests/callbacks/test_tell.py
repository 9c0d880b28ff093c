"""What is told when a training ends: the line in the log of all runs, and the desktop's notification."""

import itertools
import json
import re
import sys
import time
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

from nanochat_pl.callbacks.tell import SECONDS, Tell, notify, training_log
from nanochat_pl.core.errors import DivergedError, Interrupted, MachineError, UserError
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.core.spec import call_checked

RECORDER = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["TOLD"], "w") as file:
    json.dump(sys.argv[1:], file)
"""


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A desktop whose notify-send writes its arguments here."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("TOLD", str(tmp_path / "told.json"))
    monkeypatch.setenv("DISPLAY", ":7")
    install("notify-send", RECORDER, tmp_path, monkeypatch)
    return tmp_path / "told.json"


def install(name: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / name).write_text(text)
    (folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")


def trainer_of(name: str = "mine", **summary: object) -> Trainer:
    run = RunFolder.of(name, "base")
    run.write_summary(**summary)
    return Trainer(
        accelerator="cpu", default_root_dir=run.path, logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip


def lines() -> list[list[str]]:
    return [re.split(" {2,}", line) for line in training_log().read_text(encoding="utf-8").splitlines()]


def test_every_end_is_a_line_in_the_log(told: Path) -> None:
    trainer = trainer_of(val_bpb=1.23456, wall_seconds=75.4)
    ends = {
        "interrupted": Interrupted("stopped", 143), "diverged": DivergedError("nan"), "failed": MachineError("full"),
    }  # fmt: skip
    for end in (*ends.values(), KeyboardInterrupt(), OSError("gone"), SystemExit(1)):
        tell = Tell()
        tell.setup(trainer, None, "fit")
        tell.on_exception(trainer, None, end)
        tell.teardown(trainer, None, "fit")  # it has been told already
    tell = Tell()
    tell.setup(trainer, None, "fit")
    tell.teardown(trainer, None, "fit")
    found = lines()
    assert [line[1] for line in found] == [*ends, "interrupted", "failed", "failed", "finished"]
    for stamp, *rest in found:
        time.strptime(stamp, "%Y-%m-%dT%H:%M:%S%z")
        assert rest[1:] == ["mine/base", "step 0", "val bpb 1.2346", "75 s"]
    assert not told.exists(), "it did not take five minutes"


def test_a_name_is_text_and_nothing_else(told: Path) -> None:
    trainer = trainer_of("-x <b>$(id)</b>\n2026-01-01 finished", val_bpb="broken")
    tell = Tell(after_minutes=0)
    tell.setup(trainer, None, "fit")
    tell.teardown(trainer, None, "fit")
    [line] = lines()
    assert line[2:] == ["-x <b>$(id)</b>?2026-01-01 finished/base", "step 0"]
    *options, title, text = json.loads(told.read_text())
    assert options == ["--app-name=nanochat-pl", "--"] and title == "nanochat-pl: finished"
    assert "-x &lt;b&gt;$(id)&lt;/b&gt;?2026" in text and "\n" not in text


def test_macos_gets_the_text_as_arguments(told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    install("osascript", RECORDER, tmp_path, monkeypatch)
    notify("title", 'a" & do shell script "id')
    words = json.loads(told.read_text())
    script = [line for option, line in itertools.pairwise(words) if option == "-e"]
    assert words[-2:] == ["title", 'a" & do shell script "id'] and not any("shell" in line for line in script)
    told.unlink()
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.1 1 10.0.0.2 22")
    notify("title", "text")
    assert not told.exists()


def test_without_a_desktop_or_with_a_stuck_one_the_training_ends_all_the_same(
    told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanochat_pl.callbacks.tell.SECONDS", 0.2)
    assert SECONDS < 10
    install("notify-send", "#!/bin/sh\nexec sleep 1000\n", tmp_path, monkeypatch)
    notify("title", "text")
    install("notify-send", "#!/nowhere/interpreter\n", tmp_path, monkeypatch)
    notify("title", "text")
    notify("title", "with a \0 in it")
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    install("notify-send", RECORDER, tmp_path, monkeypatch)
    notify("title", "text")
    assert not told.exists()


def test_a_log_that_cannot_be_written_is_a_warning(told: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = trainer_of()
    training_log().mkdir()
    tell = Tell(after_minutes=None)
    tell.setup(trainer, None, "fit")
    tell.teardown(trainer, None, "fit")
    assert "Could not write" in caplog.text and not told.exists()
    with pytest.raises(UserError, match=r"callbacks\.tell\.after_minutes is -1"):
        call_checked(Tell, {"after_minutes": -1}, "callbacks.tell")
