"""The tasks by name: what a recipe lists, and `.build()` loads."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nanochat_pl.core.errors import UserError, nearest
from nanochat_pl.core.imported import imported
from nanochat_pl.core.spec import Spec
from nanochat_pl.tasks.custom import Custom
from nanochat_pl.tasks.gsm8k import GSM8K
from nanochat_pl.tasks.humaneval import HumanEval
from nanochat_pl.tasks.identity import Identity
from nanochat_pl.tasks.mixture import Mixture
from nanochat_pl.tasks.multiple_choice import MMLU, ARCChallenge, ARCEasy
from nanochat_pl.tasks.smoltalk import SmolTalk
from nanochat_pl.tasks.spelling import SimpleSpelling, SpellingBee, TinyLetters
from nanochat_pl.tasks.task import Task
from nanochat_pl.tasks.tiny_facts import TinyFacts
from nanochat_pl.tasks.tiny_math import TinyMath
from nanochat_pl.tasks.tiny_stories import TinyStories
from nanochat_pl.tasks.tiny_sums import TinySums

TASKS: dict[str, Callable[..., Task]] = {
    "smoltalk": SmolTalk,
    "gsm8k": GSM8K,
    "arc_easy": ARCEasy,
    "arc_challenge": ARCChallenge,
    "mmlu": MMLU,
    "humaneval": HumanEval,
    "spelling_bee": SpellingBee,
    "simple_spelling": SimpleSpelling,
    "custom": Custom,
    "identity": Identity,
    "tiny_facts": TinyFacts,
    "tiny_stories": TinyStories,
    "tiny_sums": TinySums,
    "tiny_letters": TinyLetters,
    "tiny_math": TinyMath,
}
"""Name -> the task, of a split, (the tiny world's own tasks: not) a path and (custom alone) a val_path."""


def find_task(name: str) -> Callable[..., Task]:
    """The task of this name, or the class of this path; raises `UserError` where there is none."""
    if name in TASKS:
        return TASKS[name]
    if "." in name:
        return imported(name, "The name of a task")
    raise UserError(
        f"There is no task '{name}'{nearest(name, list(TASKS))} Tasks: {', '.join(TASKS)}, or the path of a class of "
        "your own, MODULE.CLASS."
    )


@dataclass(frozen=True)
class TaskSpec(Spec):
    """One task of a recipe.

    Attributes:
        name: a key of TASKS, or the dotted path of a class of your own, MODULE.CLASS.
        split: train, val or test, of those that the task has; of custom also all, see `Custom`.
        start, stop, step: which of its examples, as in a Python slice.
        epochs: how often they occur in one epoch of a mixture; 0.5 is every other one.
        path: of a local folder laid out as on the hub (also of one with several data sets in it), of the custom file of
            conversations, of an identity file, or of a list of words to spell; None: the hub, or what comes with the
            project.
        val_path: of the custom task's split val; None: a part of `path`, which its split train then lacks.
    """

    name: str
    split: str = "train"
    start: int = 0
    stop: int | None = None
    step: int = 1
    epochs: float = 1.0
    path: str | None = None
    val_path: str | None = None

    def check(self) -> None:
        find_task(self.name)
        if self.name == "custom" and self.path is None:
            raise UserError("The task custom needs the path of a .jsonl or .json file of conversations: path=FILE.")
        if self.name != "custom" and self.val_path is not None:
            raise UserError(f"The task {self.name} takes no val_path; choose what to validate on with split.")
        if self.name.startswith("tiny_") and self.path is not None:
            raise UserError(f"The task {self.name} is made on the spot and takes no path; leave path out.")
        if self.start < 0 or (self.stop is not None and self.stop <= self.start) or self.step < 1:
            raise UserError(
                f"The task {self.name} has start={self.start}, stop={self.stop}, step={self.step}: start must be 0 or "
                "more, stop above start (or null: to the end), and step 1 or more."
            )
        if not 0 < self.epochs < math.inf:
            raise UserError(f"The task {self.name} has epochs={self.epochs}; they must be above 0, and finite.")

    def build(self) -> Task:
        """Load the task; raises `UserError` or `MachineError` as the task does, and where the slice is empty."""
        paths = {key: path for key in ("path", "val_path") if (path := getattr(self, key)) is not None}
        task = find_task(self.name)(self.split, **paths)
        if (self.start, self.stop, self.step) == (0, None, 1):
            return task
        if self.start >= len(task):
            raise UserError(f"The task {self.name} has {len(task):,} examples, so none from start={self.start:,} on.")
        return task[self.start : self.stop : self.step]


def build_mixture(specs: Sequence[TaskSpec], seed: int = 0) -> Mixture:
    """All tasks of a recipe in one shuffled order; raises as `TaskSpec.build` and `Mixture`."""
    return Mixture([(spec.build(), spec.epochs) for spec in specs], seed)
