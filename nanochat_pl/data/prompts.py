"""The LightningDataModule of RL: which questions a step asks. What is trained on, the answers, the stage makes."""

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from nanochat_pl.core.errors import UserError, nearest_multiples
from nanochat_pl.core.spec import Spec
from nanochat_pl.data.background import Endless
from nanochat_pl.tasks.mixture import Mixture
from nanochat_pl.tasks.specs import TaskSpec
from nanochat_pl.tasks.task import Task
from nanochat_pl.tokenizers.base import Tokenizer
from nanochat_pl.tokenizers.chat import fit_for_completion

log = logging.getLogger(__name__)


MEASURED_QUESTIONS = 256
"""That are looked at before the first step, to see whether there are any that fit."""


class Question(NamedTuple):
    """One question of a step.

    Attributes:
        number: counted over the run and all ranks.
        i: the task's example.
        prompt: its ids, with the answer to follow.
    """

    number: int
    i: int
    prompt: list[int]


class Asked:
    """The questions behind a batch; an opaque object, so that Lightning's transfer does not walk into it.

    Attributes:
        questions: that this rank asks in the step.
    """

    def __init__(self, questions: list[Question]):
        self.questions = questions


class PromptBatch(NamedTuple):
    """A micro-batch of answers to be made.

    Attributes:
        part: which of the step's micro-batches; the first makes the answers of all.
        cursor: the steps behind the end of this one.
    """

    asked: Asked
    part: int
    cursor: int


class PromptModule(LightningDataModule):
    """Endless questions of a task in an order that follows from the seed; step n asks the same ones in every run.

    A question may take half of the context; longer ones are left out.

    Args:
        sequence_len: the context.
        samples_per_prompt: answers to each question.
        rows_per_step: answers of a step over all ranks.
        micro_batch_rows: answers of one batch.
    """

    def __init__(
        self,
        task: Task,
        val_task: Task,
        tokenizer: Tokenizer,
        sequence_len: int,
        samples_per_prompt: int,
        *,
        rows_per_step: int,
        micro_batch_rows: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        super().__init__()
        unit = samples_per_prompt * world_size
        if rows_per_step % unit:
            raise UserError(
                f"A step has {rows_per_step} answers, which are not shared evenly by {samples_per_prompt} answers to a "
                f"question on {world_size} devices; nearest legal: {nearest_multiples(rows_per_step, unit)} "
                "(horizon.total_batch_tokens over the context, or data.samples_per_prompt)."
            )
        self.task, self.val_task, self.samples_per_prompt = task, val_task, samples_per_prompt
        self.tokenizer, self.longest_prompt = tokenizer, sequence_len // 2
        self.micro_batch_rows = micro_batch_rows
        self.micro_batches_per_step = -(-(rows_per_step // world_size) // micro_batch_rows)
        self._questions = rows_per_step // samples_per_prompt
        self._rank, self._world_size, self._steps = rank, world_size, 0
        self._order, self._seed = Mixture([(task, 1.0)], seed), seed

    def check_length(self) -> None:
        """See that answers can be rewarded here and questions fit; raises `UserError` where they don't."""
        for task in (self.task, self.val_task):
            task.check_scored()
        measured = min(len(self.task), MEASURED_QUESTIONS)
        fitting = sum(self._prompt(self.task, self._order.place(n).i) is not None for n in range(measured))
        val_fitting = len(self._val_questions())
        if not fitting or not val_fitting:
            kind, count = ("questions", measured) if not fitting else ("held-out questions", len(self.val_task))
            raise UserError(
                f"The {kind} of {self.task.name} are too long: of {count} none fits into {self.longest_prompt} tokens, "
                "half of this model's context. Train a model with a longer context (model.sequence_len of stage=base), "
                "or choose another task."
            )
        if fitting < measured:
            log.warning(
                "%d of %d questions of %s don't fit into %d tokens, half of the context; such are not asked.",
                measured - fitting, measured, self.task.name, self.longest_prompt,
            )  # fmt: skip

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Endless(self.batches), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        own = Asked(self._val_questions()[self._rank :: self._world_size])
        return DataLoader([own], batch_size=None)  # type: ignore[arg-type]

    def asked(self, step: int) -> Asked:
        """This rank's questions of a step."""
        numbers = range(step * self._questions + self._rank, (step + 1) * self._questions, self._world_size)
        return Asked([self._question(number) for number in numbers])

    def _question(self, number: int) -> Question:
        """Where that one is too long, the question at the same place of a later epoch, which is any other."""
        for n in itertools.count(number, len(self.task)):
            i = self._order.place(n).i
            if (prompt := self._prompt(self.task, i)) is not None:
                return Question(number, i, prompt)
        raise AssertionError

    def _val_questions(self) -> list[Question]:
        prompts = ((i, self._prompt(self.val_task, i)) for i in range(len(self.val_task)))
        return [Question(i, i, prompt) for i, prompt in prompts if prompt is not None]

    def _prompt(self, task: Task, i: int) -> list[int] | None:
        """None where it is too long."""
        try:
            return fit_for_completion(self.tokenizer, task.prompt(i), self.longest_prompt)[0]
        except UserError:
            return None

    def batches(self) -> Iterator[PromptBatch]:
        """From the committed step on."""
        step = self._steps
        while True:
            asked = self.asked(step)
            step += 1
            for part in range(self.micro_batches_per_step):
                yield PromptBatch(asked, part, step)

    def commit(self, cursor: int) -> None:
        """The optimizer has stepped on the answers of so many steps."""
        self._steps = cursor

    def interrupt(self, error: BaseException) -> None:
        """Nothing here waits."""

    def counters(self) -> dict[str, int]:
        """Questions asked so far, over all ranks, and complete passes over the task."""
        questions = self._steps * self._questions
        return {"questions": questions, "epoch": questions // len(self.task)}

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps, "fingerprint": self._fingerprint()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on behind the saved step.

        Raises:
            UserError: it was of other questions.
        """
        if state_dict["fingerprint"] != self._fingerprint():
            raise UserError(
                f"The checkpoint asked {state_dict['fingerprint']}, this command asks {self._fingerprint()}. Restore "
                "what was changed, or start anew with run.fresh=true or another run.name."
            )
        self._steps = state_dict["steps"]

    def _fingerprint(self) -> str:
        return (
            f"{self._questions} of {len(self.task)} questions of {self.task.name} {self.samples_per_prompt} times a "
            f"step, seed {self._seed}, fingerprint {self.task.fingerprint[:12]}"
        )


@dataclass(frozen=True)
class PromptSpec(Spec):
    """`data=prompts`: the questions of a task.

    Attributes:
        task: to train on.
        val_task: to validate on.
        samples_per_prompt: answers to each question, which are compared with each other.
        streams: as many devices as divide it can share a step.
    """

    task: TaskSpec | None = None
    val_task: TaskSpec | None = None
    samples_per_prompt: int = 8
    streams: int = 16

    holds: ClassVar[str] = "questions"

    def check(self) -> None:
        if self.samples_per_prompt < 2:
            raise UserError(
                f"data.samples_per_prompt is {self.samples_per_prompt}; it must be at least 2, for answers to the same "
                "question are compared."
            )
        if self.task is None or self.val_task is None:
            raise UserError("stage=rl needs a task whose answers can be rewarded: task=tiny_math, task=gsm8k, ...")

    def build_sources(self) -> tuple[()]:
        """No documents."""
        return ()

    def own_tokenizer(self) -> None:
        """The model's."""

    def build(
        self,
        tokenizer: Tokenizer,
        *,
        sequence_len: int,
        sources: tuple[()] | None = None,
        tokenizer_threads: int = 2,
        **how: Any,
    ) -> PromptModule:
        """The data module of one rank; see `DataSpec.build`.

        Raises:
            UserError: the task cannot be loaded.
        """
        assert self.task is not None and self.val_task is not None
        return PromptModule(
            self.task.build(),
            self.val_task.build(),
            tokenizer,
            sequence_len,
            self.samples_per_prompt,
            **how,
        )

    def epoch_tokens(self, tokenizer: Tokenizer, sequence_len: int, sources: tuple[()] | None = None) -> int:
        """Of the answers to each question once, each counted as a whole row."""
        assert self.task is not None
        return len(self.task.build()) * self.samples_per_prompt * sequence_len
