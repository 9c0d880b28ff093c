"""What the monitor takes along when a training goes on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nanochat_pl.callbacks.detectors.panel import Reading
from nanochat_pl.callbacks.monitor import Monitor


@pytest.mark.parametrize(("world_size", "told"), [(4, ["slow_steps"]), (2, [])])
def test_a_speed_is_compared_with_that_of_the_same_devices(world_size: int, told: list[str], tmp_path: Path) -> None:
    before, after = Monitor(), Monitor()
    seen(before, tmp_path, 4, 1000.0)
    after.load_state_dict(before.state_dict())
    assert seen(after, tmp_path, world_size, 500.0) == told


def seen(monitor: Monitor, folder: Path, world_size: int, tokens_per_second: float) -> list[str]:
    """A hundred steps at this speed on so many CPUs."""
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer: Any = SimpleNamespace(world_size=world_size, global_step=0, strategy=strategy, default_root_dir=folder)
    monitor.on_train_start(trainer, SimpleNamespace(counts_tokens=True))
    metrics = {"speed/tokens_per_second": tokens_per_second}
    readings = [Reading(step, [3.0] * 10, metrics, 5.0) for step in range(10, 101, 10)]
    panel: Any = monitor._panel
    return [finding.kind for reading in readings for finding in panel.see(reading)]
