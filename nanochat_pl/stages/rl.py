"""Reinforcement learning on tasks: REINFORCE in GRPO's manner (arXiv:2402.03300), as nanochat simplifies it.

On-policy, so neither ratios nor clipping; no KL term; the baseline is the mean reward of the answers to the same
question; every sampled token of a step counts the same (as in DAPO, arXiv:2503.14476).
"""

import logging
import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from nanochat_pl.core.errors import DivergedError, UserError
from nanochat_pl.core.types import IGNORE_INDEX, StepBatch
from nanochat_pl.data.prompts import Asked, PromptBatch
from nanochat_pl.inference.answer import AnswerStream, content_of
from nanochat_pl.inference.engine import Engine
from nanochat_pl.inference.sampling import Sampling
from nanochat_pl.stages.stage import Blueprint, Stage
from nanochat_pl.stages.warm_start import LaterStageSpec
from nanochat_pl.tasks.task import Task
from nanochat_pl.tokenizers.base import Tokenizer
from nanochat_pl.tokenizers.chat import fit_for_completion
from nanochat_pl.tools.tool_calls import ToolCalls

log = logging.getLogger(__name__)

Advantage = Literal["mean", "std"]
QUIET_STEPS = 10
"""Steps in a row with the same trouble before it is told."""


class Answer(NamedTuple):
    """One rollout.

    Attributes:
        ids: prompt and answer.
        sampled: of each id, whether the model chose it.
        ended: by itself, not by the limit.
    """

    ids: list[int]
    sampled: list[bool]
    reward: float
    ended: bool


class RLStage(Stage):
    """Learns from the rewards of its own answers.

    Args:
        sampling: of the answers; its seed is that of the run.
        advantage: "mean": reward minus the mean of its group; "std": that over the group's standard deviation.
        val_samples: answers to each question in validation.
    """

    every_target_counts = False
    counts_tokens = False
    is_chat = True

    def __init__(self, blueprint: Blueprint, sampling: Sampling, advantage: Advantage, val_samples: int):
        super().__init__(blueprint)
        self._sampling, self._advantage, self._val_samples = sampling, advantage, val_samples
        self._rows: list[tuple[Answer, float]] = []
        self._trouble: dict[str, int] = {}
        self._passed: list[tuple[int, int]] = []

    def training_step(self, batch: PromptBatch, batch_idx: int) -> Tensor:  # type: ignore[override]
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if batch.part == 0:
            groups = self._answer(data.task, batch.asked, data.samples_per_prompt)
            self._watch(groups)
            self._rows = [row for group in groups for row in zip(group, advantages(group, self._advantage))]
        first = batch.part * data.micro_batch_rows
        rows = self._rows[first : first + data.micro_batch_rows]
        tensors = as_batch(rows, self.blueprint.tokenizer.bos_id, self.device)
        return super().training_step(tensors._replace(cursor=batch.cursor), batch_idx)

    def loss(self, batch: StepBatch) -> Tensor:
        return self.model(batch.inputs, batch.targets, batch.weights)

    def validation_step(self, indices: list[int], batch_idx: int) -> None:  # type: ignore[override]
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        groups = self._answer(data.val_task, Asked(-1, indices), self._val_samples)
        self._passed = [(len(group), sum(answer.reward > 0 for answer in group)) for group in groups]
        rewards = [answer.reward for group in groups for answer in group]
        self.latest["val/reward"] = sum(rewards) / len(rewards)

    def on_validation_epoch_end(self) -> None:
        n = self._val_samples
        metrics = {"val/reward": self.latest["val/reward"]} | {
            f"val/pass@{k}": sum(pass_at_k(n, c, k) for n, c in self._passed) / len(self._passed)
            for k in sorted({1, n})
        }
        self.latest.update(metrics)
        for logger in self.trainer.loggers:
            logger.log_metrics(metrics, step=self.trainer.global_step)

    def _answer(self, task: Task, asked: Asked, samples: int) -> list[list[Answer]]:
        """The answers to each question; which ones follows from seed, step and question alone."""
        tokenizer, sampling = self.blueprint.tokenizer, self._sampling
        context = self.blueprint.model.sequence_len
        room = context - min(sampling.max_new_tokens, context // 2)
        engine = Engine(self.model, max_rows=len(asked.indices) * samples, reuse=False)
        made: dict[int, _Made] = {}
        groups = []
        for place, i in enumerate(asked.indices):
            prompt, _ = fit_for_completion(tokenizer, task.prompt(i), room)
            seed = (self.blueprint.seed * 1_000_003 + asked.step + 1) * 1_000_003 + place
            own = Sampling(
                min(sampling.max_new_tokens, context + 1 - len(prompt)),
                sampling.temperature,
                sampling.top_k,
                seed=seed % (1 << 63),
                stop_ids=sampling.stop_ids,
            )
            tools = [ToolCalls(tokenizer) for _ in range(samples)]
            requests = engine.submit(prompt, own, tools, num_samples=samples)
            made |= {request: _Made(prompt, tokenizer) for request in requests}
            groups.append((i, requests))
        for token in engine.run():
            made[token.request].take(token.id, token.forced, token.finish, sampling.stop_ids[0])
        return [[made[request].answer(task, i, context) for request in requests] for i, requests in groups]

    def _watch(self, groups: list[list[Answer]]) -> None:
        """Log what the answers were like, and say what keeps the model from learning."""
        answers = [answer for group in groups for answer in group]
        rewards = [answer.reward for answer in answers]
        self.step_metrics["rl/reward"] = sum(rewards) / len(rewards)
        self.step_metrics["rl/ended"] = sum(answer.ended for answer in answers) / len(answers)
        self.step_metrics["rl/answer_tokens"] = sum(sum(answer.sampled) for answer in answers) / len(answers)
        even = [len({answer.reward for answer in group}) == 1 for group in groups]
        self.step_metrics["rl/equal_groups"] = sum(even) / len(groups)
        if not all(map(math.isfinite, rewards)):
            raise DivergedError(f"A reward is not a finite number at step {self.trainer.global_step}.")
        self._tell(
            not any(rewards), "every answer has the reward 0: train the stage before longer, or ask an easier task"
        )
        self._tell(
            all(even) and any(rewards),
            "all answers to a question get the same reward, so that nothing is learned: raise stage.temperature, or "
            "ask a harder task",
        )
        self._tell(
            not any(answer.ended for answer in answers),
            "no answer comes to an end by itself: raise stage.max_new_tokens, or train the stage before longer",
        )

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

    def take(self, id: int | None, forced: bool, finish: str | None, end_id: int) -> None:
        if id is not None:
            self._parts += self._stream.feed(id)
        if finish == "stop":
            id, self._ended = end_id, True
        if id is not None:
            self._ids.append(id)
            self._sampled.append(not forced)

    def answer(self, task: Task, i: int, context: int) -> Answer:
        """Rewarded; what a tool's output pushed beyond the context is cut off."""
        content = content_of([*self._parts, *self._stream.end()])
        try:
            reward = float(task.reward(i, content))
        except Exception as error:
            raise UserError(
                f"The reward of {task.name}'s question {i} failed with {type(error).__name__}: {error}. The answer was "
                f"{str(content)[:300]!r}."
            ) from error
        return Answer(self._ids[: context + 1], self._sampled[: context + 1], reward, self._ended)


def advantages(group: list[Answer], kind: Advantage) -> list[float]:
    """What each answer to a question is worth, compared with the others."""
    mean = sum(answer.reward for answer in group) / len(group)
    deviation = math.sqrt(sum((answer.reward - mean) ** 2 for answer in group) / len(group))
    scale = 1.0 if kind == "mean" or deviation == 0 else deviation
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
    top_k: int | None = None
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
        end = blueprint.tokenizer.special_tokens["<|assistant_end|>"]
        sampling = Sampling(self.max_new_tokens, self.temperature, self.top_k, stop_ids=(end,))
        return RLStage(blueprint, sampling, self.advantage, self.val_samples)
