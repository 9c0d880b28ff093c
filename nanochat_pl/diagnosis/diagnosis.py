"""What the doctor says of one topic: for people, for programs, and as an exit code."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nanochat_pl.core.errors import MachineError, UserError
from nanochat_pl.core.figures import figure

Severity = Literal["good", "info", "warning", "error"]
WRONG: tuple[Severity, ...] = ("warning", "error")
MARKS: dict[Severity, tuple[str, str]] = {
    "good": ("ok", "green"),
    "info": ("--", "default"),
    "warning": ("!", "yellow"),
    "error": ("!!", "red"),
}
"""How each is marked on the screen, and in which colour."""

Evidence = Mapping[str, float | int | str]


@dataclass(frozen=True)
class Observation:
    """One thing that was looked at.

    Attributes:
        severity: "good" where it was checked and is right, "info" where it is only told; the others are wrong.
        advice: what to do, as a sentence; a command stands in a line of its own.
    """

    severity: Severity
    what: str
    advice: str = ""
    evidence: Evidence = field(default_factory=dict)


@dataclass
class Diagnosis:
    """All that was seen of one topic.

    Attributes:
        subject: what was looked at: this machine, or a run's folder.
        artifacts: files that were written.
    """

    topic: str
    subject: str
    findings: list[Observation] = field(default_factory=list)
    artifacts: list[Path] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not any(finding.severity in WRONG for finding in self.findings)

    def good(self, what: str, **evidence: float | int | str) -> None:
        """It was checked, and is right."""
        self.findings.append(Observation("good", what, "", evidence))

    def info(self, what: str, advice: str = "", **evidence: float | int | str) -> None:
        """It is told; nothing is wrong with it."""
        self.findings.append(Observation("info", what, advice, evidence))

    def warn(self, what: str, advice: str, **evidence: float | int | str) -> None:
        """It costs time or quality, or may soon be an error."""
        self.findings.append(Observation("warning", what, advice, evidence))

    def wrong(self, what: str, advice: str, **evidence: float | int | str) -> None:
        """It is broken."""
        self.findings.append(Observation("error", what, advice, evidence))

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "topic": self.topic,
            "subject": self.subject,
            "sound": self.sound,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "artifacts": [str(path) for path in self.artifacts],
        }

    def lines(self) -> Iterator[tuple[str, str, str]]:
        """(mark, colour, text) of what is shown of it."""
        for finding in self.findings:
            figures = ", ".join(f"{name} {figure(value)}" for name, value in finding.evidence.items())
            mark, colour = MARKS[finding.severity]
            yield mark, colour, f"{finding.what}{f' ({figures})' if figures else ''}"
            if finding.advice:
                yield "", "default", finding.advice
        for path in self.artifacts:
            yield "", "default", f"\n{path}"


@contextlib.contextmanager
def examining(diagnosis: Diagnosis, what: str) -> Iterator[None]:
    """Adds an error to a diagnosis where looking at something fails: `with examining(diagnosis, "The plan"):`.

    What is damaged in an unforeseen way is a finding too, and the rest is still looked at.
    """
    try:
        yield
    except (UserError, MachineError) as error:
        diagnosis.wrong(f"{what}: {error}", "")
    except Exception as error:
        said = str(error).strip().splitlines()
        diagnosis.wrong(
            f"{what} cannot be read: {type(error).__name__}{f': {said[0][:200]}' if said else ''}.",
            "It is damaged, or was written by another version.",
        )
