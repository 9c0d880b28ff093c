"""RL: what is learned from which answers, against numbers worked out by hand; the same again after a stop."""

import itertools
import logging
import math
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from nanochat_pl.core.errors import DivergedError, UserError
from nanochat_pl.data.prompts import PromptModule
from nanochat_pl.inference.sampling import Sampling
from nanochat_pl.models.nanochat import NanoChatConfig
from nanochat_pl.optim.muon import MuonAdamWSpec
from nanochat_pl.optim.scaling import Horizon
from nanochat_pl.optim.schedules import ScheduleSpec
from nanochat_pl.stages.rl import Answer, RLStage, advantages, as_batch, pass_at_k
from nanochat_pl.stages.stage import Blueprint
from nanochat_pl.tasks.task import Content, Task, question_and_answer
from nanochat_pl.tokenizers.byte import ByteTokenizer
from tests.models.test_nanochat import randomized
from tests.stages.vowels import Vowels

TOKENIZER = ByteTokenizer()
T = 40
CONFIG = NanoChatConfig(
    vocab_size=TOKENIZER.vocab_size, sequence_len=T, n_layer=2, n_head=2, n_kv_head=1, n_embd=32, window_pattern="L"
)


class RandomizedRLStage(RLStage):
    """Begins with weights none of which is zero."""

    def configure_model(self) -> None:
        if not hasattr(self, "model"):
            self.model = randomized(CONFIG)


def stage_and_data(task: Task, micro_batch_rows: int = 8, lr_scale: float = 0.1) -> tuple[RLStage, PromptModule]:
    data = PromptModule(task, task, TOKENIZER, T, 4, rows_per_step=8, micro_batch_rows=micro_batch_rows, seed=5)
    blueprint = Blueprint(
        CONFIG, MuonAdamWSpec(lr=0.01), ScheduleSpec(warmup_steps=0), Horizon(99, 8 * T, 1, lr_scale, 0.0),
        data.micro_batches_per_step, TOKENIZER, seed=5,
    )  # fmt: skip
    return RandomizedRLStage(blueprint, Sampling(12, 1.0), "mean", val_samples=2), data


def trainer_options(folder: Any, steps: int, accumulation: int) -> dict[str, Any]:
    return dict(
        accelerator="cpu", max_steps=steps, accumulate_grad_batches=accumulation, logger=False,
        default_root_dir=folder, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, limit_val_batches=0, use_distributed_sampler=False,
    )  # fmt: skip


def fit(task: Task, steps: int, folder: Any, resume: Any = None, micro_batch_rows: int = 8) -> tuple[RLStage, Trainer]:
    stage, data = stage_and_data(task, micro_batch_rows)
    trainer = Trainer(**trainer_options(folder, steps, data.micro_batches_per_step))
    trainer.fit(stage, datamodule=data, ckpt_path=resume, weights_only=True)
    return stage, trainer


class Coin(torch.nn.Module):
    """Says one of two tokens, whatever it reads."""

    dropout = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor([0.3, -1.1]))

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        losses = torch.nn.functional.cross_entropy(
            self.logits.expand(*inputs.shape, 2).flatten(0, 1), targets.flatten(), reduction="none", ignore_index=-100
        )
        return (losses * weights.flatten()).sum()


class CoinStage(RLStage):
    """Answers token 0 twice with a reward and token 1 twice without, plain gradient descent."""

    def configure_model(self) -> None:
        self.model = Coin()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.model.parameters(), lr=1.0)

    def _answer(self, *_: Any, **__: Any) -> list[list[Answer]]:
        return [[Answer([9, 9, said], [False, False, True], 1.0 - said, True) for said in (0, 1)]] * 4


@pytest.mark.parametrize("micro_batch_rows", [8, 3])
def test_a_step_on_two_tokens_is_the_one_worked_out_by_hand(tmp_path: Any, micro_batch_rows: int) -> None:
    # With p = softmax(logits), the gradient of -(1/2 log p_0 - 1/2 log p_1) / 2, the mean over the two tokens, is
    # (-1/2 (1 - p_0) - 1/2 p_0, ...) / 2 = (-1/4, 1/4), whatever p is.
    like, data = stage_and_data(Vowels(), micro_batch_rows)
    stage = CoinStage(like.blueprint, Sampling(12, 1.0), "mean", val_samples=2)
    Trainer(**trainer_options(tmp_path, 1, data.micro_batches_per_step)).fit(stage, datamodule=data)
    torch.testing.assert_close(stage.model.logits.data, torch.tensor([0.3 + 0.25, -1.1 - 0.25]))


def test_a_step_whose_answers_are_all_worth_the_same_changes_nothing(tmp_path: Any) -> None:
    rewards = iter([0.1, 0.9] * 4 + [0.7] * 8)  # after a first step that fills Muon's momentum
    one, _ = fit(Vowels(), 1, tmp_path)
    stage, trainer = fit(Vowels(lambda content: next(rewards)), 2, tmp_path)
    assert trainer.global_step == 2
    rewards = iter([0.1, 0.9] * 4)
    once, _ = fit(Vowels(lambda content: next(rewards)), 1, tmp_path)
    for (name, p), q, other in zip(stage.model.named_parameters(), once.model.parameters(), one.model.parameters()):
        assert torch.equal(p, q), name
        assert p.dim() < 2 or not torch.equal(p, other), name


def test_answers_follow_from_the_number_of_the_question_whatever_the_rank() -> None:
    def numbered(rank: int, world_size: int) -> dict[int, tuple[int, list[int]]]:
        data = PromptModule(
            Vowels(), Vowels(), TOKENIZER, T, 4, rows_per_step=16, micro_batch_rows=8, seed=5, rank=rank,
            world_size=world_size,
        )  # fmt: skip
        return {q.number: (q.i, q.prompt) for step in (0, 1, 2) for q in data.asked(step).questions}

    alone = numbered(0, 1)
    assert list(alone) == list(range(12))
    assert alone == numbered(0, 2) | numbered(1, 2)


class Long(Vowels):
    """Two of three questions fill more than half of the context."""

    def conversation(self, i: int) -> list[dict[str, Any]]:
        return question_and_answer("x" * (25 if i % 3 else 3) + str(i), "aeiou")


def test_questions_that_are_too_long_are_told_and_not_asked(caplog: pytest.LogCaptureFixture) -> None:
    data = PromptModule(Long(), Long(), TOKENIZER, T, 4, rows_per_step=64, micro_batch_rows=8, seed=5)
    with caplog.at_level(logging.WARNING):
        data.check_length()
    assert "26 of 40 questions of vowels don't fit into 20 tokens" in caplog.text
    asked = [question.i for step in range(5) for question in data.asked(step).questions]
    assert len(asked) == 80 and set(asked) == set(range(0, 40, 3))
    (validation,) = data.val_dataloader()
    assert [question.i for question in validation.questions] == list(range(0, 40, 3))
    with pytest.raises(UserError, match="of 40 none fits into 5 tokens, half of this model's context"):
        PromptModule(Long(), Long(), TOKENIZER, 10, 4, rows_per_step=8, micro_batch_rows=8, seed=5).check_length()


def test_advantages() -> None:
    group = [Answer([], [], reward, True) for reward in (1.0, 0.0, 0.0, 1.0, 1.0)]
    assert advantages(group, "mean") == pytest.approx([0.4, -0.6, -0.6, 0.4, 0.4])
    deviation = math.sqrt(0.24) + 1e-4
    assert advantages(group, "std") == pytest.approx([x / deviation for x in (0.4, -0.6, -0.6, 0.4, 0.4)])
    for reward in (0.0, 0.1, 0.7, 1.0):
        equal = [Answer([], [], reward, True)] * 7
        assert advantages(equal, "mean") == advantages(equal, "std") == [0.0] * 7


def test_only_sampled_tokens_are_learned_with_their_advantage() -> None:
    rows = [
        (Answer([9, 5, 6, 7], [False, True, False, True], 1.0, True), 0.5),
        (Answer([9, 4], [False, True], 0, True), -2.0),
    ]
    batch = as_batch(rows, 0, torch.device("cpu"))
    assert batch.inputs.tolist() == [[9, 5, 6], [9, 4, 0]]
    assert batch.targets.tolist() == [[5, -100, 7], [4, -100, -100]]
    assert batch.weights is not None and batch.weights[batch.targets >= 0].tolist() == [0.5, 0.5, -2.0]


def test_pass_at_k_is_the_share_of_draws_with_a_right_answer() -> None:
    for n, correct, k in itertools.product(range(1, 7), range(7), range(1, 7)):
        if correct <= n and k <= n:
            draws = list(itertools.combinations(range(n), k))
            expected = sum(any(i < correct for i in draw) for draw in draws) / len(draws)
            assert pass_at_k(n, correct, k) == pytest.approx(expected)


def test_rewards_rise(tmp_path: Any) -> None:
    stage, data = stage_and_data(Vowels(), lr_scale=1.0)

    class Rewards(Callback):
        seen: ClassVar[list[float]] = []

        def on_train_batch_end(self, trainer: Trainer, stage: RLStage, *rest: object) -> None:
            self.seen.append(stage.step_metrics["rl/reward"])

    Trainer(**trainer_options(tmp_path, 40, 1), callbacks=[Rewards()]).fit(stage, datamodule=data)
    assert 0 < 2 * sum(Rewards.seen[:8]) < sum(Rewards.seen[-8:])


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Any) -> None:
    whole, _ = fit(Vowels(), 4, tmp_path)
    _, first = fit(Vowels(), 2, tmp_path)
    first.save_checkpoint(tmp_path / "two.ckpt")
    resumed, _ = fit(Vowels(), 4, tmp_path, resume=tmp_path / "two.ckpt")
    for (name, p), q in zip(whole.model.named_parameters(), resumed.model.parameters()):
        assert torch.equal(p, q), name


def test_the_gradient_does_not_depend_on_the_micro_batches(tmp_path: Any) -> None:
    gradients = []
    for micro_batch_rows in (8, 3):
        stage, _ = fit(Vowels(), 1, tmp_path, micro_batch_rows=micro_batch_rows)
        gradients.append({name: p.grad for name, p in stage.model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("reward", "message"), [(0.0, "every answer has the reward 0"), (0.5, "all answers to a question get the same")]
)
def test_a_trouble_that_lasts_is_named(
    reward: float, message: str, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        fit(Vowels(lambda content: reward), 11, tmp_path)
    assert sum(message in record.getMessage() for record in caplog.records) == 1


def test_rewards_that_fail_or_are_no_numbers_are_said(tmp_path: Any) -> None:
    def broken(content: Content) -> float:
        raise ZeroDivisionError("division by zero")

    with pytest.raises(UserError, match=r"vowels's question .* ZeroDivisionError"):
        fit(Vowels(broken), 1, tmp_path)
    with pytest.raises(DivergedError, match="not a finite number"):
        fit(Vowels(lambda content: math.nan), 1, tmp_path)
