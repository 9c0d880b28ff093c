"""What the crew finds out about a training: one record for the log, events.jsonl and everything that reads it."""

import contextlib
import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nanochat_pl.core.errors import MachineError
from nanochat_pl.core.figures import figure
from nanochat_pl.core.run_folder import RunFolder, parse_object

log = logging.getLogger(__name__)

Severity = Literal["info", "warning", "error"]
LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


@dataclass(frozen=True)
class Finding:
    """One thing that someone should know.

    Attributes:
        kind: which of them, such as "loss_spike"; the same kind is the same trouble.
        step: the optimizer step at which it was seen.
        message: what it is, in one sentence.
        advice: what to do, in one sentence, with the option or command.
        since_step: where it began; None: at `step`.
        evidence: name -> figure.
    """

    kind: str
    step: int
    message: str
    advice: str
    severity: Severity = "warning"
    since_step: int | None = None
    evidence: Mapping[str, float | str] = field(default_factory=dict)

    def __str__(self) -> str:
        figures = ", ".join(f"{name} {figure(value)}" for name, value in self.evidence.items())
        return f"{self.message}{f' ({figures})' if figures else ''} {self.advice}".strip()


def announce(run: RunFolder, finding: Finding) -> None:
    """Tell it in the log and in events.jsonl; a disk that is full never ends what is watched."""
    log.log(LEVELS[finding.severity], "%s", finding)
    fields = {name: value for name, value in dataclasses.asdict(finding).items() if value is not None}
    with contextlib.suppress(OSError, MachineError):
        run.record_event("finding", **fields)


def read_events(run: RunFolder) -> list[dict[str, Any]]:
    """The lines of events.jsonl in their order; those that are no record (cut short by a kill) are left out."""
    try:
        lines = run.events.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [event for event in map(parse_object, lines) if "event" in event]


def read_findings(run: RunFolder) -> list[Finding]:
    """All findings of a run, in the order in which they were made."""
    names = {field.name for field in dataclasses.fields(Finding)}
    findings = []
    for event in read_events(run):
        if event["event"] == "finding":
            with contextlib.suppress(TypeError):  # of another version
                findings.append(Finding(**{name: value for name, value in event.items() if name in names}))
    return findings
