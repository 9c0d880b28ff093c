"""Bits per byte against the definition, summed by hand."""

import math

import pytest
import torch

from nanochat_pl.core.types import IGNORE_INDEX
from nanochat_pl.evals.bits_per_byte import BitsPerByte


def test_special_and_ignored_tokens_count_in_neither_sum() -> None:
    metric = BitsPerByte(torch.tensor([1, 3, 0]))  # token 2 is special
    metric.update(torch.tensor([[1.0, 2.0], [4.0, 8.0]]), torch.tensor([[0, 1], [2, IGNORE_INDEX]]))
    metric.update(torch.tensor([[0.5]]), torch.tensor([[1]]))
    assert metric.compute()[0].item() == pytest.approx(3.5 / math.log(2) / 7)
    assert metric.tokens.item() == 3


def test_a_uniform_guess_over_bytes_costs_eight_bits() -> None:
    metric = BitsPerByte(torch.ones(256, dtype=torch.long))
    metric.update(torch.full((4, 8), math.log(256)), torch.randint(256, (4, 8)))
    assert metric.compute()[0].item() == pytest.approx(8.0, rel=1e-6)
