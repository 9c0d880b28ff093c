"""Findings are told to the log and to events.jsonl, and read back as they were."""

import errno
import io
import json
import os
import sys
from pathlib import Path

import pytest

from nanochat_pl.core.findings import Finding, announce, read_events, read_findings
from nanochat_pl.core.logging import logging_to
from nanochat_pl.core.run_folder import RunFolder

SPIKE = Finding(
    "loss_spike", 40, "The loss jumped.", "Look at the batch.", since_step=38, evidence={"loss": 5.25, "where": "x"}
)


def test_a_finding_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = RunFolder(tmp_path)
    announce(run, SPIKE)
    announce(run, Finding("plateau", 50, "Nothing moves.", "Stop."))
    assert read_findings(run) == [SPIKE, Finding("plateau", 50, "Nothing moves.", "Stop.")]
    assert "The loss jumped. (loss 5.25, where x) Look at the batch." in caplog.text


def test_what_is_no_record_is_left_out(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert read_events(run) == []
    announce(run, SPIKE)
    run.record_event("finding", kind="of another version")
    with run.events.open("a") as file:
        file.write('[1]\n{"event": "fini')
    assert len(read_events(run)) == 2
    assert read_findings(run) == [SPIKE]
    announce(run, SPIKE)
    assert read_findings(run) == [SPIKE, SPIKE], "what was cut short took the next one with it"


def test_a_full_disk_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = RunFolder(tmp_path)
    run.events.mkdir()
    announce(run, SPIKE)
    assert "The loss jumped." in caplog.text


def test_a_console_that_is_gone_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(sys, "stderr", Gone())
    with logging_to(tmp_path / "train.log"):
        announce(RunFolder(tmp_path), SPIKE)
    assert "The loss jumped." in (tmp_path / "train.log").read_text()


def test_a_line_of_events(tmp_path: Path) -> None:
    announce(RunFolder(tmp_path), SPIKE)
    line = json.loads((tmp_path / "events.jsonl").read_text())
    assert line.pop("time")
    assert line == {
        "event": "finding", "kind": "loss_spike", "step": 40, "message": "The loss jumped.", "severity": "warning",
        "advice": "Look at the batch.", "since_step": 38, "evidence": {"loss": 5.25, "where": "x"},
    }  # fmt: skip
