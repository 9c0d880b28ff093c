"""The data module under Lightning's own loop, and over two real processes."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from nanochat_pl.core.types import StepBatch
from nanochat_pl.data.module import TextDataModule
from nanochat_pl.data.specs import TinyDataSpec
from nanochat_pl.tokenizers.specs import ByteSpec
from tests.processes import run_together

REPOSITORY = Path(__file__).resolve().parents[2]
ACCUMULATION = 3


def tiny(rank: int = 0, world_size: int = 1, packing: str = "best_fit") -> TextDataModule:
    spec = TinyDataSpec(num_documents=60, val_documents=8, streams=4, buffer_documents=8, packing=packing)  # type: ignore[arg-type]
    return spec.build(
        ByteSpec().build(),
        sequence_len=32,
        rows_per_step=12,
        micro_batch_rows=12 // ACCUMULATION // world_size,
        seed=3,
        rank=rank,
        world_size=world_size,
    )


class Recorder(LightningModule):
    """Keeps what it is given, and commits as a stage does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[torch.Tensor] = []
        self.validated = 0

    def training_step(self, batch: StepBatch, batch_idx: int) -> torch.Tensor:
        assert isinstance(batch, StepBatch)
        self.seen.append(batch.inputs.clone())
        self.cursor = batch.cursor
        return self.weight.sum()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.trainer.datamodule.commit(self.cursor)  # type: ignore[attr-defined]

    def validation_step(self, batch: StepBatch, batch_idx: int) -> None:
        self.validated += 1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: Path, steps: int, packing: str, resume: Path | None = None) -> tuple[Trainer, Recorder]:
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        max_steps=steps,
        max_epochs=-1,
        accumulate_grad_batches=ACCUMULATION,
        val_check_interval=2 * ACCUMULATION,
        check_val_every_n_epoch=None,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    recorder = Recorder()
    trainer.fit(recorder, datamodule=tiny(packing=packing), ckpt_path=resume, weights_only=True)
    return trainer, recorder


@pytest.mark.parametrize("packing", ["best_fit", "windows"])
def test_a_resumed_fit_sees_the_batches_of_an_uninterrupted_one(tmp_path: Path, packing: str) -> None:
    _, whole = fit(tmp_path, 11, packing)
    assert len(whole.seen) == 11 * ACCUMULATION and whole.validated > 0
    seen, checkpoint = [], None
    for steps in (4, 5, 11):  # twice in a row, the second time after a single step
        trainer, part = fit(tmp_path, steps, packing, checkpoint)
        seen += part.seen
        checkpoint = tmp_path / f"{steps}.ckpt"
        trainer.save_checkpoint(checkpoint)
    assert torch.equal(torch.stack(seen), torch.stack(whole.seen))
    assert len({tuple(batch.flatten().tolist()) for batch in seen}) == len(seen)


@pytest.mark.slow
def test_two_processes_save_one_state_that_one_process_goes_on_with(tmp_path: Path) -> None:
    results = run_together(2, "-m", "tests.data.test_lightning", str(tmp_path))
    assert [result.returncode for result in results] == [0, 0], results
    states = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert states[0] == states[1] and len(states[0]["streams"]) == 4

    alone = tiny()
    batches = iter(alone.train_dataloader())
    for _ in range(5 * ACCUMULATION):
        batch = next(batches)
    alone.commit(batch.cursor)
    assert alone.state_dict() == states[0]
    resumed = tiny()
    resumed.load_state_dict(states[0])
    assert torch.equal(next(iter(resumed.train_dataloader())).inputs, next(batches).inputs)


def _train_as_rank(folder: Path) -> None:
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    data = tiny(rank, 2)
    batches = iter(data.train_dataloader())
    for _ in range(5 * ACCUMULATION):
        batch = next(batches)
    data.commit(batch.cursor)
    torch.save(data.state_dict(), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _train_as_rank(Path(sys.argv[1]))
