"""The evaluations by name: bpb, core, chat, tiny, and any task by its own name.

A suite is prepared first, so that what is missing is known before anything is computed; each process then counts its
share of the right answers.
"""

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from nanochat_pl.core.errors import UserError, nearest
from nanochat_pl.core.types import StepBatch
from nanochat_pl.evals.answers import score_task
from nanochat_pl.evals.bits_per_byte import count_nats_and_bytes
from nanochat_pl.evals.core import TASKS_OF_CORE, answer_task
from nanochat_pl.evals.core_bundle import CoreTask, Example, core_bundle, load_core_tasks
from nanochat_pl.evals.scores import SuiteScore, TaskScore
from nanochat_pl.tasks.generated import GeneratedTask
from nanochat_pl.tasks.specs import TASKS, TaskSpec, find_task
from nanochat_pl.tasks.task import Task, UnscoredTask
from nanochat_pl.tokenizers.base import Tokenizer

CHAT_TASKS = ("arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval", "spelling_bee")
"""Of nanochat's ChatCORE."""
TINY_TASKS = ("tiny_facts", "tiny_stories", "tiny_sums", "tiny_letters", "tiny_math")
SUITES = ("bpb", "core", "chat", "tiny")
NAMES = "bpb, core, chat, tiny, or tasks=NAME,NAME..."

GENERATED_QUESTIONS = 512
"""Asked of a task that makes its questions, for which there is no end of them."""
MAX_NEW_TOKENS = 512
"""Of an answer: nanochat's. A short context has less room."""

Watch = Callable[[str, float], None]
"""Told what is under way, and which share of the suite is done."""


class CoreSuite:
    """CORE; needs its bundle of tasks, which is downloaded once where none is named."""

    name = "core"

    def __init__(self, max_per_task: int | None, bundle: str | None):
        self._max_per_task, self._bundle = max_per_task, bundle
        self._tasks: list[tuple[CoreTask, list[Example]]] = []

    def prepare(self) -> None:
        """Fetch what is missing, read and check it, once; raises `UserError` or `MachineError`."""
        if not self._tasks:
            tasks = load_core_tasks(core_bundle(self._bundle))
            self._tasks = [(task, task.examples(self._max_per_task)) for task in tasks]

    def count(
        self, model: Any, tokenizer: Tokenizer, watch: Watch, rank: int = 0, world_size: int = 1
    ) -> Iterator[TaskScore]:
        """The right answers of this process's share of each task, one task after the other.

        Args:
            model: in evaluation mode.
        """
        self.prepare()
        for n, (task, examples) in enumerate(self._tasks):
            share = range(rank, len(examples), world_size)
            told = functools.partial(watch, task.label, n / len(self._tasks))
            right = answer_task(model, tokenizer, task, examples, share, told)
            yield TaskScore(task.label, sum(right), len(right), task.baseline)

    def score(self, tasks: Sequence[TaskScore]) -> SuiteScore:
        """The suite's score from those of its tasks over all processes."""
        metric = "CORE" if len(tasks) == TASKS_OF_CORE else f"CORE of {len(tasks)} tasks"
        return SuiteScore.mean(self.name, metric, tasks, centered=True)


class TaskSuite:
    """Questions of tasks to a chat model, answered greedily; members as those of `CoreSuite`.

    Args:
        centered: its figure is the mean of the centred accuracies instead of the accuracies.
    """

    def __init__(self, name: str, specs: Sequence[TaskSpec], metric: str, centered: bool = False):
        self.name, self._specs, self._metric, self._centered = name, specs, metric, centered
        self._tasks: list[Task] = []

    def prepare(self) -> None:
        if not self._tasks:
            tasks = [spec.build() for spec in self._specs]
            for task in tasks:
                task.check_scored()
            self._tasks = tasks

    def count(
        self, model: Any, tokenizer: Tokenizer, watch: Watch, rank: int = 0, world_size: int = 1
    ) -> Iterator[TaskScore]:
        self.prepare()
        shares = [range(rank, len(task), world_size) for task in self._tasks]
        total, done = max(1, sum(map(len, shares))), itertools.count(1)
        for task, share in zip(self._tasks, shares):
            yield score_task(
                model,
                tokenizer,
                task,
                share,
                max_new_tokens=MAX_NEW_TOKENS,
                on_example=lambda i, right, label=task.name: watch(label, next(done) / total),  # type: ignore[misc]
            )

    def score(self, tasks: Sequence[TaskScore]) -> SuiteScore:
        return SuiteScore.mean(self.name, self._metric, tasks, centered=self._centered)


Suite = CoreSuite | TaskSuite


def build_suites(
    names: Iterable[str], *, max_per_task: int | None = None, bundle: str | None = None, tasks_path: str | None = None
) -> list[Suite]:
    """The suites of these names, each once; nothing is read yet. Bits per byte are no suite: they need data, not tasks.

    Args:
        names: core, chat, tiny, or tasks=NAME,NAME..., each of which is a suite of its own.
        max_per_task: questions of each task at most; None: all, or of tasks that make their questions 512.
        bundle: the folder of CORE's tasks; None: it is downloaded once.
        tasks_path: a folder laid out as on the hub, with the data sets of the tasks; None: the hub.

    Raises:
        UserError: there is no such suite or task, or a task cannot be scored.
    """
    if max_per_task is not None and max_per_task < 1:
        raise UserError(f"max_per_task is {max_per_task}; it must be at least 1 (or unset: no limit).")
    suites: dict[str, Suite] = {}
    for name in names:
        kind, is_list, listed = name.partition("=")
        if is_list and kind == "tasks":
            if not listed:
                raise UserError(f"The suite '{name}' names no task: tasks=NAME,NAME... Tasks: {', '.join(TASKS)}.")
            for task in listed.split(","):
                suites[task] = TaskSuite(task, [_spec(task, max_per_task, tasks_path)], "accuracy")
        elif name == "core":
            suites[name] = CoreSuite(max_per_task, bundle)
        elif name == "chat":
            specs = [_spec(task, max_per_task, tasks_path) for task in CHAT_TASKS]
            suites[name] = TaskSuite(name, specs, "ChatCORE", centered=True)
        elif name == "tiny":
            suites[name] = TaskSuite(name, [_spec(t, max_per_task, tasks_path) for t in TINY_TASKS], "mean accuracy")
        elif name in TASKS:
            raise UserError(f"There is no suite '{name}', but a task of this name: tasks={name}. Suites: {NAMES}.")
        else:
            raise UserError(f"There is no suite '{name}'{nearest(name, SUITES)} Suites: {NAMES}.")
    return list(suites.values())


def _spec(name: str, max_per_task: int | None, tasks_path: str | None) -> TaskSpec:
    """The held-out questions of a task."""
    kind = find_task(name)
    is_class = inspect.isclass(kind)
    if is_class and issubclass(kind, UnscoredTask):  # type: ignore[arg-type]
        raise UserError(
            f"The conversations of the task {name} have no right answers, so that a model can't be evaluated on them."
        )
    if is_class and issubclass(kind, GeneratedTask):  # type: ignore[arg-type]
        return TaskSpec(name, split="test", stop=max_per_task or GENERATED_QUESTIONS)
    return TaskSpec(name, split="test", stop=max_per_task, path=None if name in TINY_TASKS else tasks_path)


@torch.inference_mode()
def measure_bits_per_byte(
    model: Any, token_bytes: torch.Tensor, batches: Sequence[StepBatch], bos_id: int | None, watch: Watch
) -> SuiteScore:
    """Bits per byte of held-out rows; the standard error is that of a ratio of means over the rows.

    Args:
        token_bytes: (vocab_size,) int64, UTF-8 bytes of each token, 0 for tokens that don't count.
        bos_id: documents in a row begin with it and don't see each other; None: they do.

    Raises:
        UserError: no target in the rows has bytes.
    """
    device = next(model.parameters()).device
    per_row = []
    for n, batch in enumerate(batches):
        inputs, targets = batch.inputs.to(device), batch.targets.to(device)
        documents = None if bos_id is None else (inputs == bos_id).cumsum(dim=1)
        losses = model.forward(inputs, targets, documents=documents, reduction="none")
        nats, sizes = count_nats_and_bytes(losses, targets, token_bytes.to(device))
        per_row.append(torch.stack((nats.double().sum(dim=1), sizes.double().sum(dim=1)), dim=1).cpu())
        watch("bpb", (n + 1) / len(batches))
    nats, sizes = torch.cat(per_row).T if per_row else torch.zeros(2, 0)
    nats, sizes = nats[sizes > 0], sizes[sizes > 0]
    if not len(sizes):
        raise UserError(
            "There is no held-out text that bits per byte could be measured on. Hold out more, or choose another suite."
        )
    ratio, rows = nats.sum() / sizes.sum(), len(sizes)
    spread = (nats - ratio * sizes).square().sum() * rows / max(1, rows - 1)
    bits = math.log(2)
    return SuiteScore("bpb", "bits per byte", float(ratio) / bits, float(spread.sqrt() / sizes.sum()) / bits)
