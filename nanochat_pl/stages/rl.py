"""Reinforcement learning on tasks: REINFORCE in GRPO's manner (arXiv:2402.03300), as nanochat simplifies it.

On-policy (but for top_k and a temperature), so neither ratios nor clipping; no KL term; the baseline is the mean reward
of the answers to the same question; every sampled token of a step counts the same (as in DAPO, arXiv:2503.14476).
"""

import dataclasses
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from nanochat_pl.core.errors import DivergedError, MachineError, UserError
from nanochat_pl.core.types import IGNORE_INDEX, StepBatch
from nanochat_pl.data.prompts import Asked, PromptBatch, Question
from nanochat_pl.inference.answer import AnswerStream, content_of
from nanochat_pl.inference.conversation import stop_ids
from nanochat_pl.inference.engine import Engine, Token
from nanochat_pl.inference.sampling import Sampling
from nanochat_pl.stages.stage import Blueprint, Stage
from nanochat_pl.stages.warm_start import LaterStageSpec
from nanochat_pl.tasks.task import Task
from nanochat_pl.tokenizers.base import Tokenizer
from nanochat_pl.tools.tool_calls import ToolCalls

log = logging.getLogger(__name__)

Advantage = Literal["mean", "std"]
QUIET_STEPS = 10
"""Steps in a row with the same trouble before it is told."""
ROWS_AT_ONCE = 256
"""Answers under way at once; further ones wait for a row of the cache."""
SMALLEST_DEVIATION = 1e-4
"""Added to a group's deviation, as GRPO's implementations do."""


class Answer(NamedTuple):
    """One rollout.

    Attributes:
        ids: prompt and answer.
        sampled: of each id, whether the model chose it.
        ended: by itself, not by the limit.
        is_right: None where that was not asked.
    """

    ids: list[int]
    sampled: list[bool]
    reward: float
    ended: bool
    is_right: bool | None = None


class RLStage(Stage):
    """Learns from the rewards of its own answers.

    Args:
        sampling: of the answers; its stop tokens and its seed are the stage's.
        advantage: "mean": reward minus the mean of its group; "std": that over the group's standard deviation.
        val_samples: answers to each question in validation.
    """

    every_target_counts = False
    counts_tokens = False
    is_chat = True
    fixed_shapes = False

    def __init__(self, blueprint: Blueprint, sampling: Sampling, advantage: Advantage, val_samples: int):
        super().__init__(blueprint)
        self._sampling, self._advantage, self._val_samples = sampling, advantage, val_samples
        self._stop_ids = stop_ids(blueprint.tokenizer, is_chat=True)
        self._rows: list[tuple[Answer, float]] = []
        self._learns = True
        self._laid_aside: dict[Tensor, Tensor | None] = {}
        self._trouble: dict[str, int] = {}
        self._val_sums = torch.zeros(4)

    def training_step(self, batch: PromptBatch, batch_idx: int) -> Tensor:  # type: ignore[override]
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if batch.part == 0:
            groups = self._answer(data.task, batch.asked.questions, data.samples_per_prompt, salt=1)
            self._watch(groups)
            self._rows = [row for group in groups for row in zip(group, advantages(group, self._advantage))]
        first = batch.part * data.micro_batch_rows
        rows = self._rows[first : first + data.micro_batch_rows]
        tensors = as_batch(rows, self.blueprint.tokenizer.bos_id, self.device)
        return super().training_step(tensors._replace(cursor=batch.cursor), batch_idx)

    def loss(self, batch: StepBatch) -> Tensor:
        return self.model(batch.inputs, batch.targets, batch.weights)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        if not self._learns:  # else Muon, whose steps all have the same size, would go on along its momentum
            for p in [p for group in optimizer.param_groups for p in group["params"]]:
                self._laid_aside[p], p.grad = p.grad, None

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        for p, gradient in self._laid_aside.items():  # DDP's buckets go on being the gradients' place
            p.grad = gradient
        self._laid_aside.clear()

    def validation_step(self, asked: Asked, batch_idx: int) -> None:  # type: ignore[override]
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        n = self._val_samples
        groups = self._answer(data.val_task, asked.questions, n, salt=0, judge=True)
        passed = [sum(bool(answer.is_right) for answer in group) for group in groups]
        self._val_sums = torch.tensor([
            len(groups), sum(answer.reward for group in groups for answer in group) / n,
            sum(pass_at_k(n, correct, 1) for correct in passed), sum(pass_at_k(n, correct, n) for correct in passed),
        ])  # fmt: skip

    def on_validation_epoch_end(self) -> None:
        groups, *sums = self._over_ranks(self._val_sums)
        names = ("val/reward", "val/pass@1", f"val/pass@{self._val_samples}")
        metrics = {name: value / groups for name, value in zip(names, sums)}
        if not math.isfinite(metrics["val/reward"]):
            raise DivergedError(f"A reward in the validation at step {self.trainer.global_step} is no finite number.")
        self.latest.update(metrics)
        for logger in self.trainer.loggers:
            logger.log_metrics(metrics, step=self.trainer.global_step)

    def _answer(
        self, task: Task, questions: Sequence[Question], samples: int, salt: int, judge: bool = False
    ) -> list[list[Answer]]:
        """The answers to each question; which ones follows from seed, salt and the question's number alone.

        Args:
            judge: see whether they are right, too.
        """
        tokenizer, sampling, seed = self.blueprint.tokenizer, self._sampling, self.blueprint.seed
        context = self.blueprint.model.sequence_len
        engine = Engine(self.model, max_rows=min(ROWS_AT_ONCE, max(1, len(questions) * samples)), reuse=False)
        made: dict[int, _Made] = {}
        groups = []
        for question in questions:
            own = dataclasses.replace(
                sampling,
                max_new_tokens=min(sampling.max_new_tokens, context + 1 - len(question.prompt)),
                seed=((2 * seed + salt) * 1_000_003 + question.number) % (1 << 63),
                stop_ids=self._stop_ids,
            )
            tools = [ToolCalls(tokenizer) for _ in range(samples)]
            requests = engine.submit(question.prompt, own, tools, num_samples=samples)
            made |= {request: _Made(question.prompt, tokenizer) for request in requests}
            groups.append((question.i, requests))
        for token in engine.run():
            made[token.request].take(token)
        return [[made[request].answer(task, i, context, judge) for request in requests] for i, requests in groups]

    def _watch(self, groups: list[list[Answer]]) -> None:
        """Log what the answers of all ranks were like, and say what keeps the model from learning."""
        answers = [answer for group in groups for answer in group]
        equal = sum(is_equal(group) for group in groups)
        told = (answer.reward for answer in answers), (answer.ended for answer in answers), map(sampled_tokens, answers)
        sums = [len(answers), len(groups), *map(sum, told), equal, sum(answer.reward != 0 for answer in answers)]
        count, group_count, reward, ended, tokens, same, rewarded = self._over_ranks(torch.tensor(sums))
        self.step_metrics["rl/reward"] = reward / count
        self.step_metrics["rl/ended"] = ended / count
        self.step_metrics["rl/answer_tokens"] = tokens / count
        self.step_metrics["rl/equal_groups"] = same / group_count
        if not math.isfinite(reward):
            raise DivergedError(f"A reward is not a finite number at step {self.trainer.global_step}.")
        self._learns = same < group_count
        self._tell(not rewarded, "every answer has the reward 0: train the stage before longer, or ask an easier task")
        self._tell(
            not self._learns and rewarded > 0,
            "all answers to a question get the same reward, so that nothing is learned: raise stage.temperature, or "
            "ask a harder task",
        )
        self._tell(
            not ended,
            "no answer comes to an end by itself: raise stage.max_new_tokens, or train the stage before longer",
        )

    def _over_ranks(self, sums: Tensor) -> list[float]:
        return self.trainer.strategy.reduce(sums.float().to(self.device), reduce_op="sum").tolist()

    def _tell(self, is_so: bool, trouble: str) -> None:
        """Say a trouble once it has lasted, and again after ten times as long."""
        lasted = self._trouble[trouble] = self._trouble.get(trouble, 0) + 1 if is_so else 0
        if lasted in (QUIET_STEPS, 10 * QUIET_STEPS):
            log.warning("For %d steps in a row %s.", lasted, trouble)


class _Made:
    """An answer in the making."""

    def __init__(self, prompt: list[int], tokenizer: Tokenizer):
        self._ids, self._sampled = list(prompt), [False] * len(prompt)
        self._stream, self._parts = AnswerStream(tokenizer), []  # type: ignore[var-annotated]
        self._ended = False

    def take(self, token: Token) -> None:
        if token.id is not None:
            self._parts += self._stream.feed(token.id, token.forced)
        if token.finish == "stop":
            self._ended = True
        id = token.id if token.stop_id is None else token.stop_id
        if id is not None:
            self._ids.append(id)
            self._sampled.append(not token.forced)

    def answer(self, task: Task, i: int, context: int, judge: bool) -> Answer:
        """Rewarded; what a tool's output pushed beyond the context is cut off."""
        content = content_of([*self._parts, *self._stream.end()])
        try:
            reward = float(task.reward(i, content))
            is_right = task.evaluate(i, content) if judge else None
        except (UserError, MachineError):
            raise
        except Exception as error:
            raise UserError(
                f"The reward of {task.name}'s question {i} failed with {type(error).__name__}: {error}. The answer was "
                f"{str(content)[:300]!r}."
            ) from error
        return Answer(self._ids[: context + 1], self._sampled[: context + 1], reward, self._ended, is_right)


def sampled_tokens(answer: Answer) -> int:
    """How many of its tokens the model chose."""
    return sum(answer.sampled)


def is_equal(group: Sequence[Answer]) -> bool:
    """Whether all answers to a question have the same reward, so that none is better than another."""
    return len({answer.reward for answer in group}) == 1


def advantages(group: Sequence[Answer], kind: Advantage) -> list[float]:
    """What each answer to a question is worth, compared with the others; exactly 0 where all rewards are the same."""
    if is_equal(group):
        return [0.0] * len(group)
    mean = sum(answer.reward for answer in group) / len(group)
    deviation = math.sqrt(sum((answer.reward - mean) ** 2 for answer in group) / len(group))
    scale = 1.0 if kind == "mean" else deviation + SMALLEST_DEVIATION
    return [(answer.reward - mean) / scale for answer in group]


def as_batch(rows: list[tuple[Answer, float]], padding_id: int, device: torch.device) -> StepBatch:
    """Answers with their advantages as a batch; the targets are the sampled tokens, weighted."""
    longest = max(len(answer.ids) for answer, _ in rows)
    ids = torch.full((len(rows), longest), padding_id)
    targets, weights = torch.full((len(rows), longest), IGNORE_INDEX), torch.zeros(len(rows), longest)
    for n, (answer, advantage) in enumerate(rows):
        length = len(answer.ids)
        ids[n, :length] = torch.tensor(answer.ids)
        targets[n, :length] = torch.where(torch.tensor(answer.sampled), ids[n, :length], IGNORE_INDEX)
        weights[n, :length] = advantage
    parts = (ids[:, :-1], targets[:, 1:], weights[:, 1:])
    inputs, targets, weights = (part.contiguous().to(device) for part in parts)
    return StepBatch(inputs, targets, weights, None)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The unbiased estimate from n answers, of which some are correct (Codex, arXiv:2107.03374)."""
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


@dataclass(frozen=True)
class RLStageSpec(LaterStageSpec):
    """`stage=rl`.

    Attributes:
        advantage: "mean": reward minus the mean over the answers to a question; "std": that over their deviation.
        max_new_tokens, temperature, top_k: of the answers.
        val_samples: answers to each question in validation.
    """

    name: Literal["rl"] = "rl"
    advantage: Advantage = "mean"
    max_new_tokens: int = 256
    temperature: float = 1.0
    top_k: int | None = 50
    val_samples: int = 4

    trains_on: ClassVar[str] = "questions"

    def check(self) -> None:
        Sampling(self.max_new_tokens, self.temperature, self.top_k)
        for name, least in (("max_new_tokens", 1), ("val_samples", 1)):
            if getattr(self, name) < least:
                raise UserError(f"stage.{name} is {getattr(self, name)}; it must be at least {least}.")
        if self.temperature == 0:
            raise UserError("stage.temperature is 0: all answers to a question would be the same; 1 is usual.")

    def build(self, blueprint: Blueprint) -> RLStage:
        sampling = Sampling(self.max_new_tokens, self.temperature, self.top_k)
        return RLStage(blueprint, sampling, self.advantage, self.val_samples)
