"""The questions of RL: a run goes on with the same ones only."""

from typing import Any

import pytest

from nanochat_pl.core.errors import UserError
from nanochat_pl.data.prompts import PromptModule, PromptSpec
from nanochat_pl.tasks.specs import TaskSpec
from nanochat_pl.tokenizers.byte import ByteTokenizer


def module(**task: Any) -> PromptModule:
    spec = PromptSpec(task=TaskSpec("tiny_sums", **task), val_task=TaskSpec("tiny_sums", "test", stop=8))
    return spec.build(ByteTokenizer(), sequence_len=256, rows_per_step=16, micro_batch_rows=8, seed=1)


def test_a_run_does_not_go_on_with_other_questions() -> None:
    first = module(stop=100)
    first.commit(3)
    state = first.state_dict()
    again = module(stop=100)
    again.load_state_dict(state)
    assert again.state_dict() == state and again.asked(3).questions == first.asked(3).questions
    for other in ({"stop": 100, "split": "test"}, {"start": 100, "stop": 200}):
        with pytest.raises(UserError, match=r"The checkpoint asked .*fresh=true"):
            module(**other).load_state_dict(state)
