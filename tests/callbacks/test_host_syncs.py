"""Between two log intervals the host never waits for the device: counted on a CPU, operator by operator."""

import json
from pathlib import Path

import pytest

from tests.processes import SMALL, train

WATCH = ("callbacks.metrics.every_n_steps=5", "horizon.steps=11", "trainer.validate_every_n_steps=11",
         "+callbacks.watch._target_=tests.callbacks.watching.HostSyncs")  # fmt: skip
ONE_A_LOG = {"Tensor.tolist in metrics.py": 3}  # at steps 5 and 10, and at the last


@pytest.mark.slow
def test_the_host_waits_at_the_log_interval_only(tmp_path: Path) -> None:
    common = [argument for argument in SMALL if "_documents=" not in argument]
    common += ["model.sequence_len=160", "horizon.total_batch_tokens=1280", "optim.grad_clip=1.0", *WATCH]
    cases = {
        "base": ("hw.tokens_per_device=320", "optim.param_clip=1.0", "data.num_documents=4096"),  # 4 micro-batches
        "sft": ("hw.tokens_per_device=640",),
    }
    for stage, arguments in cases.items():
        code, output = train(f"stage={stage}", *common, *arguments, runs=tmp_path)
        assert code == 0, output
        told = json.loads((tmp_path / "test" / stage / "syncs.json").read_text())
        assert told["steps"] == 10 and told["operators"] > 1000
        assert told["syncs"] == ONE_A_LOG, stage
