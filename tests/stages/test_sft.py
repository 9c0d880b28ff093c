"""The gradient of a step of SFT: that of the mean loss over what the assistant says, however the step is cut up."""

import itertools
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from nanochat_pl.data.conversations import ConversationSource
from nanochat_pl.data.module import Layout, TextDataModule
from nanochat_pl.models.nanochat import NanoChatConfig
from nanochat_pl.optim.muon import MuonAdamWSpec
from nanochat_pl.optim.scaling import Horizon
from nanochat_pl.optim.schedules import ScheduleSpec
from nanochat_pl.stages.sft import SFTStage
from nanochat_pl.stages.stage import Blueprint
from nanochat_pl.tasks.mixture import Mixture
from nanochat_pl.tasks.specs import TaskSpec
from nanochat_pl.tokenizers.byte import ByteTokenizer
from tests.models.test_nanochat import randomized
from tests.processes import run_together

TOKENIZER = ByteTokenizer()
T, ROWS = 160, 8
CONFIG = NanoChatConfig(
    vocab_size=TOKENIZER.vocab_size, sequence_len=T, n_layer=2, n_head=2, n_kv_head=1, n_embd=32, window_pattern="SL",
    short_window=40,
)  # fmt: skip

Gradients = dict[str, torch.Tensor]


class Kept(Callback):
    """The gradients of the first step, and its loss."""

    def on_train_batch_end(self, trainer: Trainer, stage: SFTStage, *rest: object) -> None:
        if trainer.global_step == 1:
            self.gradients = {name: p.grad.clone() for name, p in stage.model.named_parameters() if p.grad is not None}
            self.loss = float(stage.step_loss)


class RandomizedSFTStage(SFTStage):
    """Begins with weights none of which is zero."""

    def configure_model(self) -> None:
        if not hasattr(self, "model"):
            self.model = randomized(CONFIG)


def data_module(micro_batch_rows: int, rank: int = 0, world_size: int = 1) -> TextDataModule:
    mixture = Mixture([(TaskSpec("tiny_facts").build(), 1.0), (TaskSpec("tiny_sums").build()[:500], 1.0)])
    source = ConversationSource(mixture, "assistant", T + 1)
    layout = Layout(T, ROWS, micro_batch_rows, streams=4, rank=rank, world_size=world_size)
    return TextDataModule(source, source, TOKENIZER, layout, seed=0, packing="whole", val_tokens=T)


def first_step(data: TextDataModule, devices: int = 1, **trainer: object) -> Kept:
    """One step under Lightning."""
    kept, accumulation = Kept(), data.micro_batches_per_step
    horizon = Horizon(1, ROWS * T, 1, 0.1, 0.1)
    stage = RandomizedSFTStage(
        Blueprint(CONFIG, MuonAdamWSpec(), ScheduleSpec(), horizon, accumulation, TOKENIZER, seed=0)
    )
    Trainer(
        accelerator="cpu", devices=devices, max_steps=1, accumulate_grad_batches=accumulation, callbacks=[kept],
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, limit_val_batches=0, use_distributed_sampler=False, **trainer,
    ).fit(stage, datamodule=data)  # fmt: skip
    return kept


def conversations_of_the_first_step() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(ids, which are learned) of every conversation, apart."""
    batch = next(iter(data_module(ROWS).train_dataloader()))
    found = []
    for inputs, targets in zip(batch.inputs, batch.targets):
        starts = [*(inputs == TOKENIZER.bos_id).nonzero().flatten().tolist(), T]
        found += [(inputs[a:b], targets[a:b]) for a, b in itertools.pairwise(starts)]
    return found


def test_the_gradient_is_that_of_each_conversation_by_itself() -> None:
    model, total, count = randomized(CONFIG), torch.zeros(()), 0
    conversations = conversations_of_the_first_step()
    assert sum(len(ids) > 1 for ids, _ in conversations) > ROWS, "rows with several conversations"
    for ids, targets in conversations:
        total = total + model(ids[None], targets[None])
        count += int((targets >= 0).sum())
    (total / count).backward()
    kept = first_step(data_module(ROWS))
    assert kept.loss == pytest.approx((total / count).item(), rel=1e-5)
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert kept.gradients.keys() == expected.keys()
    for name, gradient in kept.gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4, msg=name)


def test_the_gradient_does_not_depend_on_the_accumulation() -> None:
    whole = first_step(data_module(ROWS))
    for micro_batch_rows in (4, 2):
        kept = first_step(data_module(micro_batch_rows))
        assert kept.loss == pytest.approx(whole.loss, rel=1e-5)
        for name, gradient in kept.gradients.items():
            torch.testing.assert_close(gradient, whole.gradients[name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(tmp_path: Path) -> None:
    out = tmp_path / "gradients.pt"
    results = run_together(2, "-m", "tests.stages.two_processes", str(out))
    assert [result.returncode for result in results] == [0, 0], results
    gradients = torch.load(out, weights_only=True)
    one = first_step(data_module(2))
    assert gradients.keys() == one.gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, one.gradients[name], atol=1e-5, rtol=1e-4, msg=name)


def test_a_row_without_anything_to_learn_gives_no_nan() -> None:
    model = randomized(CONFIG)
    stage = RandomizedSFTStage(
        Blueprint(CONFIG, MuonAdamWSpec(), ScheduleSpec(), Horizon(1, T, 1, 0.1, 0.1), 1, TOKENIZER, seed=0)
    )
    stage.configure_model()
    batch = next(iter(data_module(1).train_dataloader()))
    loss = stage.loss(batch._replace(targets=torch.full_like(batch.targets, -100)))
    loss.backward()
    assert loss == 0 and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
