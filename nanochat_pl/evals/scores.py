"""What an evaluation has measured: the right answers of a task, the figure of a suite of tasks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TaskScore:
    """How many of a task's examples were answered rightly.

    Attributes:
        baseline: accuracy of guessing, 0 to 1.
    """

    label: str
    correct: int
    count: int
    baseline: float

    @property
    def accuracy(self) -> float:
        return self.correct / self.count

    @property
    def standard_error(self) -> float:
        """Of the accuracy, after Agresti and Coull (1998): as if two answers more were right and two more wrong.

        So it is not 0 where all answers are right, or none is.
        """
        count = self.count + 4
        share = (self.correct + 2) / count
        return math.sqrt(share * (1 - share) / count)

    @property
    def centered(self) -> float:
        """The accuracy moved and stretched so that guessing is 0 and everything right is 1."""
        return (self.accuracy - self.baseline) / (1 - self.baseline)

    @property
    def centered_standard_error(self) -> float:
        return self.standard_error / (1 - self.baseline)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        names = ("label", "accuracy", "standard_error", "centered", "centered_standard_error")
        return {name: getattr(self, name) for name in (*names, "correct", "count", "baseline")}


@dataclass(frozen=True)
class SuiteScore:
    """What a suite has measured.

    Attributes:
        suite: its name.
        metric: what `value` is.
        standard_error: of `value`.
        tasks: behind it.
    """

    suite: str
    metric: str
    value: float
    standard_error: float
    tasks: tuple[TaskScore, ...] = ()

    @classmethod
    def mean(cls, suite: str, metric: str, tasks: Sequence[TaskScore], *, centered: bool) -> "SuiteScore":
        """The mean of the tasks' accuracies, or of their centred ones; the tasks err independently."""
        values = [task.centered if centered else task.accuracy for task in tasks]
        errors = [task.centered_standard_error if centered else task.standard_error for task in tasks]
        return cls(suite, metric, sum(values) / len(tasks), math.hypot(*errors) / len(tasks), tuple(tasks))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        row = {"metric": self.metric, "value": self.value, "standard_error": self.standard_error}
        return row | {"tasks": [task.as_dict() for task in self.tasks]}

    def metrics(self) -> dict[str, float]:
        """The columns of metrics.csv: the suite's own figure and its error, the accuracies where there are several
        tasks."""
        own = {f"eval/{self.suite}": self.value, f"eval/{self.suite}/standard_error": self.standard_error}
        parts = self.tasks if len(self.tasks) > 1 else ()
        return own | {f"eval/{self.suite}/{task.label}": task.accuracy for task in parts}
