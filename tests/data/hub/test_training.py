"""Training on a hub data set: the same rows however they come, through faults, kills and without a network."""

import json
import re
import signal
import time
from pathlib import Path

import pytest

from nanochat_pl.data.hub.specs import HubDataSpec
from nanochat_pl.data.stream import Dealer
from tests.data.hub.conftest import REPO
from tests.hub_client import hub_environment
from tests.hub_server import HubServer
from tests.processes import SMALL, Fork, losses, start_fork, train

OPTIONS = (
    *(option for option in SMALL if not option.startswith(("data.num_documents", "data.val_documents"))),
    "data=hub", f"data.repo={REPO}", "data.id_column=id", "data.val_fraction=0.1", "horizon.steps=75",
    "horizon.total_batch_tokens=1024", "trainer.validate_every_n_steps=25",
)  # fmt: skip


@pytest.mark.slow
def test_the_rows_do_not_depend_on_how_they_came(hub: HubServer, tmp_path: Path) -> None:
    def run(name: str, *options: str) -> tuple[int, str]:
        return train(*OPTIONS, *options, runs=tmp_path / name, environment=hub_environment(hub, tmp_path / name))

    code, output = run("whole")
    assert code == 0, output
    expected = losses(tmp_path / "whole/test/base")
    assert len(expected) == 75 and all("train/loss" in row for row in expected.values())

    hub.fail("*.parquet", "drop", times=3)
    hub.fail("part-?.parquet", "html", times=1)
    code, output = run("streamed", "data.mode=stream")
    assert code == 0, output
    assert losses(tmp_path / "streamed/test/base") == expected

    hub.heal()
    kill = ("+callbacks.kill._target_=tests.faults.Kill", "+callbacks.kill.micro_batch=65")
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


WITHOUT_THE_LAST = ("data.val_files=part-5.parquet", "trainer.validate_every_n_steps=12", "horizon.steps=125")


def last_to_be_read(hub: HubServer) -> list[str]:
    """The two of the five training files that the first epoch of the default seed reads last."""
    train, _ = HubDataSpec(repo=REPO, val_files="part-5.parquet").build_sources()
    order = Dealer(train, streams=4, seed=42).first_epoch()
    train.close()
    return [f"part-{shard}.parquet" for shard in order[-2:]]


def wait_for_outage(hub: HubServer, process: Fork, metrics: Path) -> None:
    """Until nothing has come of the training for a while."""
    seen, since = -1, time.monotonic()
    while seen < 0 or time.monotonic() - since < 3:
        assert process.poll() is None, process.communicate()[0]
        size = metrics.stat().st_size if metrics.exists() else -1
        if size != seen:
            seen, since = size, time.monotonic()
        time.sleep(0.1)


@pytest.mark.slow
def test_a_run_ends_although_its_loader_waits_for_the_hub(hub: HubServer, tmp_path: Path) -> None:
    for name in last_to_be_read(hub):
        hub.fail(name, "500")
    options = (*OPTIONS, *WITHOUT_THE_LAST, "horizon.steps=62")
    code, output = train(*options, runs=tmp_path, environment=hub_environment(hub, tmp_path))
    assert code == 0, output
    assert "No answer from the hub" in output, "its loader was ahead, and waited"


@pytest.mark.slow
def test_a_signal_during_an_outage_ends_and_saves(hub: HubServer, tmp_path: Path) -> None:
    options = (*OPTIONS, *WITHOUT_THE_LAST)
    code, output = train(*options, runs=tmp_path / "whole", environment=hub_environment(hub, tmp_path))
    assert code == 0, output
    expected = losses(tmp_path / "whole/test/base")

    for name in last_to_be_read(hub):
        hub.fail(name, "500")
    environment = hub_environment(hub, tmp_path)
    process = start_fork(*options, runs=tmp_path / "stopped", environment=environment)
    run = tmp_path / "stopped/test/base"
    wait_for_outage(hub, process, run / "metrics.csv")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 143 and "Traceback" not in output, output
    told = re.search(r"Stopped by SIGTERM after step (\d+), while it waited for data; the state is saved", output)
    assert told, output
    step = int(told[1])
    assert (run / f"checkpoints/step-{step:08d}.ckpt").exists()
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"
    hub.heal()
    code, output = train(*options, runs=tmp_path / "stopped", environment=environment)
    assert code == 0 and f"Going on from step {step}" in output, output
    assert losses(run) == expected
    assert json.loads((run / "summary.json").read_text())["data"]["left_out_shards"] == 0


@pytest.mark.slow
def test_fineweb_edu_from_a_folder_through_a_kill(test_data: Path, tmp_path: Path) -> None:
    path = test_data / "hub/HuggingFaceFW/fineweb-edu"
    small = [option for option in SMALL if not option.startswith(("data.num_documents", "data.val_documents"))]
    options = (*small, "data=fineweb_edu", f"data.path={path}", "data.val_tokens=2048", "horizon.steps=40")
    assert train(*options, runs=tmp_path / "whole")[0] == 0
    expected = losses(tmp_path / "whole/test/base")
    assert len(expected) == 40
    kill = ("+callbacks.kill._target_=tests.faults.Kill", "+callbacks.kill.micro_batch=30")
    assert train(*options, *kill, runs=tmp_path / "killed")[0] == -9
    code, output = train(*options, runs=tmp_path / "killed")
    assert code == 0 and "Going on from step" in output, output
    assert losses(tmp_path / "killed/test/base") == expected
