"""How several processes are started: by train.py itself, by torchrun, on two nodes, in a sweep; and how they end."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from nanochat_pl.core.launch import launch
from tests.forks import Program
from tests.processes import (
    SMALL,
    free_port,
    losses,
    start_fork,
    train,
    train_placed,
    train_together,
)
from tests.test_several_processes import fault

TORCHRUN = ("-m", "torch.distributed.run")


def summary(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


@pytest.mark.slow
def test_a_signal_to_the_launching_process_saves_and_ends_all(tmp_path: Path) -> None:
    process = start_fork(*SMALL, "hw.devices=2", "horizon.steps=100000", runs=tmp_path)
    run = tmp_path / "test/base"
    wait_for_step(run)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert output.count("Stopped by SIGINT after step") == 1 and "Traceback" not in output
    assert summary(run)["status"] == "interrupted"
    code, output = train(*SMALL, f"horizon.steps={summary(run)['step'] + 2}", runs=tmp_path)
    assert code == 0 and f"Going on from step {last_checkpoint(run) - 2}" in output, output


@pytest.mark.slow
def test_launching_leaves_the_signals_as_they_were(tmp_path: Path) -> None:
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR2)
    before = [signal.getsignal(kind) for kind in kinds]
    script = tmp_path / "script.py"
    script.write_text("import sys; sys.exit(7)")
    assert launch(str(script), {}, 1) == 7
    assert [signal.getsignal(kind) for kind in kinds] == before


LAUNCHED = """
import os, signal, sys, time
def stop(kind, frame):
    os.write(1, f"saved on {signal.Signals(kind).name}\\n".encode())  # whole, beside the other process's
    sys.exit(128 + kind)
for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
    signal.signal(kind, stop)
print("ready", flush=True)
time.sleep(300)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR2, 140)])
def test_a_signal_is_passed_on_and_what_it_ends_is_waited_for(tmp_path: Path, kind: signal.Signals, code: int) -> None:
    script, output = tmp_path / "script.py", tmp_path / "output"
    script.write_text(LAUNCHED)
    program = "import sys; from nanochat_pl.core.launch import launch; sys.exit(launch(sys.argv[1], {}, 2))"
    process = Program(("-c", program, str(script)), os.environ, os.devnull, output, output)
    deadline = time.monotonic() + 120
    while not output.exists() or output.read_text().count("ready") < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(kind)
    assert process.wait(timeout=120) == code, output.read_text()
    assert output.read_text().count(f"saved on {kind.name}") == 2


@pytest.mark.slow
def test_nothing_trains_on_where_the_launching_process_is_killed(tmp_path: Path) -> None:
    process = start_fork(*SMALL, "hw.devices=2", "horizon.steps=100000", runs=tmp_path)
    run = tmp_path / "test/base"
    wait_for_step(run)
    process.kill()
    process.communicate()
    for _ in range(1200):
        if summary(run).get("status") == "interrupted":
            return
        time.sleep(0.1)
    raise AssertionError(summary(run))


@pytest.mark.slow
def test_a_mistake_of_all_is_told_once(tmp_path: Path) -> None:
    results = train_together(3, *SMALL, "horizon.total_batch_tokens=96", runs=tmp_path)
    assert [code for code, _ in results] == [2] * 3
    assert "".join(output for _, output in results).count("data.streams=4 is not a multiple of 3 devices") == 1, results
    assert not any("Traceback" in output for _, output in results)


@pytest.mark.slow
def test_torchrun_starts_a_killed_worker_again(tmp_path: Path) -> None:
    launcher = (*TORCHRUN, "--standalone", "--nproc-per-node=2", "--max-restarts=1")
    options = (*SMALL, "callbacks.checkpoints.every_n_steps=3", *fault(1, 8, "kill"), "run.fresh=true")
    process = start_fork(*options, runs=tmp_path, launcher=launcher)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "Going on from step 6" in output
    assert [path.name for path in (tmp_path / "test").iterdir()] == ["base"]  # it is not started over by the restart
    run = tmp_path / "test/base"
    assert sorted(map(int, losses(run))) == list(range(1, 25))
    code, alone = train(*SMALL, runs=tmp_path / "alone")
    assert code == 0, alone
    for step, row in losses(tmp_path / "alone/test/base").items():
        assert float(losses(run)[step]["train/loss"]) == pytest.approx(float(row["train/loss"]), rel=1e-4)


@pytest.mark.slow
def test_two_nodes(tmp_path: Path) -> None:
    """Two agents of torchrun, each with a process."""
    launcher = (
        *TORCHRUN, "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=two",
        f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--local-addr=127.0.0.1",
    )  # fmt: skip
    agents = [start_fork(*SMALL, runs=tmp_path, launcher=launcher) for _ in range(2)]
    # One in twenty times torch's agent (2.13) waits in vain for the other one, which has ended: for 300 s.
    outputs = [agent.communicate(timeout=400)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    run = tmp_path / "test/base"
    assert summary(run)["world_size"] == 2
    hardware = json.loads((run / "resolved.json").read_text())["hardware"]
    assert (hardware["nodes"], hardware["devices"]) == (2, 1)
    assert len(losses(run)) == 24


@pytest.mark.slow
def test_srun(tmp_path: Path) -> None:
    """Two processes with the variables that SLURM gives to a step's tasks."""
    shared = {
        "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "localhost", "SLURM_NODEID": "0",
        "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "test",
    }  # fmt: skip
    tasks = [shared | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in ("0", "1")]
    results = train_placed(tasks, *SMALL, runs=tmp_path)
    assert [code for code, _ in results] == [0, 0], results
    assert summary(tmp_path / "test/base")["world_size"] == 2


@pytest.mark.slow
def test_a_launcher_that_does_not_fit_the_profile(tmp_path: Path) -> None:
    results = train_together(2, *SMALL, "hw.devices=4", runs=tmp_path)
    outputs = [output for _, output in results]
    assert [code for code, _ in results] == [2, 2]
    assert "hw.devices is 4, but there are 2 processes on this node" in outputs[0] and not outputs[1]
    (refused, *_) = train_together(2, "-m", "seed=1,2", *SMALL, runs=tmp_path)
    assert refused[0] == 2 and "A sweep starts the processes of each job itself" in refused[1]


def wait_for_step(run: Path) -> None:
    for _ in range(1200):
        if (run / "metrics.csv").exists() and losses(run):
            return
        time.sleep(0.1)
    raise AssertionError("It did not begin.")


def last_checkpoint(run: Path) -> int:
    return max(int(path.stem.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*.ckpt"))
