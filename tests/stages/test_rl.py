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

TOKENIZER = ByteTokenizer()
T = 40
CONFIG = NanoChatConfig(
    vocab_size=TOKENIZER.vocab_size, sequence_len=T, n_layer=2, n_head=2, n_kv_head=1, n_embd=32, window_pattern="L"
)


class Vowels(Task):
    """Rewards an answer by its share of vowels; anything with a reward above 0 passes."""

    name = "vowels"

    def __init__(self, reward: Any = None):
        self._reward = reward

    def __len__(self) -> int:
        return 40

    def conversation(self, i: int) -> list[dict[str, Any]]:
        self._check_index(i)
        return question_and_answer(f"Say {i}", "aeiou")

    def evaluate(self, i: int, content: Content) -> bool:
        return self.reward(i, content) > 0

    def reward(self, i: int, content: Content) -> float:
        if self._reward is not None:
            return self._reward(content)
        text = content if isinstance(content, str) else "".join(part["text"] for part in content)
        return sum(c in "aeiou" for c in text) / max(1, len(text))


class RandomizedRLStage(RLStage):
    """Begins with weights none of which is zero."""

    def configure_model(self) -> None:
        if not hasattr(self, "model"):
            self.model = randomized(CONFIG)


def stage_and_data(task: Task, micro_batch_rows: int = 8, lr_scale: float = 0.1) -> tuple[RLStage, PromptModule]:
    data = PromptModule(task, task, 4, rows_per_step=8, micro_batch_rows=micro_batch_rows, seed=5)
    blueprint = Blueprint(
        CONFIG, MuonAdamWSpec(lr=0.01), ScheduleSpec(warmup_steps=0), Horizon(99, 8 * T, 1, lr_scale, 0.0),
        data.micro_batches_per_step, TOKENIZER, seed=5,
    )  # fmt: skip
    sampling = Sampling(12, 1.0, stop_ids=(TOKENIZER.special_tokens["<|assistant_end|>"],))
    return RandomizedRLStage(blueprint, sampling, "mean", val_samples=2), data


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


def test_the_gradient_of_two_tokens_is_the_one_worked_out_by_hand() -> None:
    # Logits (a, b) for one sampled token; answers "a" (reward 1) and "b" (reward 0), p = softmax: the gradient of
    # -(1/2 log p_a - 1/2 log p_b) / 2 is (-1/2 (1 - p_a) - 1/2 p_a, ...) / 2 = (-1/4, 1/4), whatever p is.
    logits = torch.tensor([0.3, -1.1], requires_grad=True)

    class Model(torch.nn.Module):
        def forward(self, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            losses = torch.nn.functional.cross_entropy(
                logits.expand(*inputs.shape, 2).flatten(0, 1), targets.flatten(), reduction="none", ignore_index=-100
            )
            return (losses * weights.flatten()).sum()

    stage, _ = stage_and_data(Vowels())
    stage.model = Model()
    group = [Answer([1, 1, 0], [False, False, True], 1.0, True), Answer([1, 1, 1], [False, False, True], 0.0, True)]
    batch = as_batch(list(zip(group, advantages(group, "mean"))), 1, torch.device("cpu"))
    (stage.loss(batch) / (batch.targets >= 0).sum()).backward()
    torch.testing.assert_close(logits.grad, torch.tensor([-0.25, 0.25]))


def test_advantages() -> None:
    group = [Answer([], [], reward, True) for reward in (1.0, 0.0, 0.0, 1.0, 1.0)]
    assert advantages(group, "mean") == pytest.approx([0.4, -0.6, -0.6, 0.4, 0.4])
    assert advantages(group, "std") == pytest.approx([x / math.sqrt(0.24) for x in (0.4, -0.6, -0.6, 0.4, 0.4)])
    assert advantages(group[:1] * 3, "std") == [0.0, 0.0, 0.0]


def test_only_sampled_tokens_are_learned_with_their_advantage() -> None:
    rows = [
        (Answer([9, 5, 6, 7], [False, True, False, True], 1.0, True), 0.5),
        (Answer([9, 4], [False, True], 0, True), -2.0),
    ]
    batch = as_batch(rows, 0, torch.device("cpu"))
    assert batch.inputs.tolist() == [[9, 5, 6], [9, 0, 0]] or batch.inputs.tolist() == [[9, 5, 6], [9, 4, 0]]
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
