"""Random tokens in place of data, to measure a training's speed without any."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from nanochat_pl.core.types import StepBatch


class SyntheticData(LightningDataModule):
    """The same batch of random ids again and again, (rows, T) of them, each equally likely."""

    waited_seconds = 0.0
    marks_learned = False

    def __init__(self, vocab_size: int, rows: int, sequence_len: int, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(vocab_size, (rows, sequence_len + 1), generator=generator)
        self._batch = StepBatch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), None, None)

    def train_dataloader(self) -> Iterator[StepBatch]:
        return itertools.repeat(self._batch)

    def val_dataloader(self) -> list[StepBatch]:
        return []

    def commit(self, cursor: Any) -> None:
        """There is no place to go on from."""
