"""Training on a hub data set: the same rows however they come, through faults, kills and without a network."""

from pathlib import Path

import pytest

from tests.data.hub.conftest import REPO
from tests.hub_client import hub_environment
from tests.hub_server import HubServer
from tests.processes import SMALL, losses, train

OPTIONS = (
    *(option for option in SMALL if not option.startswith(("data.num_documents", "data.val_documents"))),
    "data=hub", f"data.repo={REPO}", "data.id_column=id", "data.val_fraction=0.1", "horizon.steps=300",
    "trainer.validate_every_n_steps=100", "callbacks.metrics.every_n_steps=10",
)  # fmt: skip


@pytest.mark.slow
def test_the_rows_do_not_depend_on_how_they_came(hub: HubServer, tmp_path: Path) -> None:
    def run(name: str, *options: str) -> tuple[int, str]:
        return train(*OPTIONS, *options, runs=tmp_path / name, environment=hub_environment(hub, tmp_path / name))

    code, output = run("whole")
    assert code == 0, output
    expected = losses(tmp_path / "whole/test/base")
    assert len(expected) >= 30 and all("train/loss" in row for row in expected.values())

    hub.fail("*.parquet", "drop", times=3)
    hub.fail("part-?.parquet", "html", times=1)
    code, output = run("streamed", "data.mode=stream")
    assert code == 0, output
    assert losses(tmp_path / "streamed/test/base") == expected

    hub.heal()
    kill = ("+callbacks.kill._target_=tests.faults.Kill", "+callbacks.kill.micro_batch=260")
    assert run("killed", *kill)[0] == -9
    hub.down()
    code, output = run("killed")
    assert code == 0 and "Going on from step" in output, output
    assert losses(tmp_path / "killed/test/base") == expected


@pytest.mark.slow
def test_what_cannot_be_had_ends_with_its_code_and_a_paragraph(hub: HubServer, tmp_path: Path) -> None:
    environment = hub_environment(hub, tmp_path)
    code, output = train(*OPTIONS, "data.config=smal", runs=tmp_path / "a", environment=environment)
    assert code == 2 and "did you mean 'small'" in output and "Traceback" not in output
    hub.down()
    code, output = train(*OPTIONS, runs=tmp_path / "b", environment=environment)
    assert code == 3 and "The hub cannot be reached" in output and "Traceback" not in output
