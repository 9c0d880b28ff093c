"""Base pretraining whose documents don't see each other, where the user wants that."""

import itertools

import pytest
import torch

from nanochat_pl.core.types import IGNORE_INDEX, StepBatch
from nanochat_pl.optim.muon import MuonAdamWSpec
from nanochat_pl.optim.scaling import Horizon
from nanochat_pl.optim.schedules import ScheduleSpec
from nanochat_pl.stages.base import BaseStage, BaseStageSpec
from nanochat_pl.stages.sft import MidStage, MidStageSpec
from nanochat_pl.stages.stage import Blueprint
from tests.models.test_nanochat import randomized
from tests.stages.test_sft import CONFIG, TOKENIZER, T

BOS = TOKENIZER.bos_id
BLUEPRINT = Blueprint(CONFIG, MuonAdamWSpec(), ScheduleSpec(), Horizon(1, 2 * T, 1, 0.1, 0.1), 1, TOKENIZER, seed=0)


def stage_of(spec: BaseStageSpec | MidStageSpec) -> BaseStage | MidStage:
    stage = spec.build(BLUEPRINT)
    stage.model = randomized(CONFIG)
    return stage


def batch() -> StepBatch:
    """A row of documents, and one as packing=windows cuts it, whose first document has lost its beginning; padded."""
    ids = torch.randint(0, 200, (2, T + 1), generator=torch.Generator().manual_seed(0))
    ids[0, [0, 50, 51, 97]] = BOS
    ids[1, [12, 90]] = BOS
    ids[1, 140:] = BOS
    targets = ids[:, 1:].clone()
    targets[1, 139:] = IGNORE_INDEX
    targets[0, 49] = IGNORE_INDEX  # 51 follows 50 at once: what stands between is a document without text
    return StepBatch(ids[:, :-1], targets, None, None)


@pytest.mark.parametrize("spec", [BaseStageSpec(mask_documents=True), MidStageSpec(mask_documents=True)])
def test_masked_documents_are_as_each_by_itself(spec):
    stage, given = stage_of(spec), batch()
    losses, alone, count = stage.token_losses(given), torch.zeros(()), 0
    for row, bounds in enumerate(([0, 50, 97, T], [0, 12, 90, 140])):
        for start, end in itertools.pairwise(bounds):
            part = slice(start, end)
            ids, targets = given.inputs[row : row + 1, part], given.targets[row : row + 1, part]
            expected = stage.model(ids, targets, reduction="none")
            torch.testing.assert_close(losses[row : row + 1, part], expected, rtol=1e-4, atol=1e-4)
            alone, count = alone + expected.sum(), count + 1
    assert count == 6
    loss = stage.loss(given)
    torch.testing.assert_close(loss, alone)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in stage.model.parameters())


@pytest.mark.parametrize("spec", [BaseStageSpec(), MidStageSpec()])
def test_unless_told_otherwise_a_row_is_one(spec):
    stage, given = stage_of(spec), batch()
    torch.testing.assert_close(stage.loss(given), stage.model(given.inputs, given.targets))
    masked = stage_of(type(spec)(mask_documents=True))
    assert (masked.token_losses(given) - stage.token_losses(given)).abs().max() > 0.1
