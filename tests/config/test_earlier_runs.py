"""What an earlier invocation has left, and what a command may change of it."""

from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from nanochat_pl.config.compose import compose
from nanochat_pl.config.resume import find_earlier, load_config
from nanochat_pl.config.specs import Specs
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.run_folder import RunFolder


def left_by(config: DictConfig, folder: Path) -> RunFolder:
    """A run folder with a checkpoint that `config` made."""
    run = RunFolder(folder)
    run.checkpoints.mkdir(parents=True)
    (run.checkpoints / "step-00000008.ckpt").touch()
    OmegaConf.save(config, run.config, resolve=True)
    return run


def test_a_run_goes_on_with_what_may_change(tmp_path: Path) -> None:
    run = left_by(compose([]), tmp_path)
    assert find_earlier(run, compose(["horizon.steps=9", "hw.devices=2", "streaming.rank_k=8"])) is not None
    with pytest.raises(UserError, match=r"model\.depth was 4 and is now 6; seed was 42 and is now 1"):
        find_earlier(run, compose(["model.depth=6", "seed=1"]))
    with pytest.raises(UserError, match=r"streaming\.enabled was False and is now True"):
        find_earlier(run, compose(["streaming.enabled=true"]))


def test_a_run_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """It has no sections and no options that have come since."""
    sections = OmegaConf.to_container(compose([]), resolve=True)
    assert isinstance(sections, dict) and sections.pop("streaming")
    assert sections["model"].pop("position") == "rope" and sections["optim"].pop("vector")
    run = left_by(OmegaConf.create(sections), tmp_path)
    assert find_earlier(run, compose([])) is not None
    assert not Specs.of(load_config(run)).streaming.enabled
    with pytest.raises(UserError, match=r"model\.position was None and is now 'alibi'"):
        find_earlier(run, compose(["model.position=alibi"]))
    with pytest.raises(UserError, match=r"seed was 42"):
        find_earlier(run, compose(["seed=1"]))
    with pytest.raises(UserError, match=r"optim\._target_ was .* and is now 'torch\.optim\.sgd\.sgd'"):
        find_earlier(run, compose(["optim._target_=torch.optim.sgd.sgd"]))
