"""Sweeps as a user runs them: what fails is named and told, and hides nothing else."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import hydra
import pytest

from nanochat_pl.config.compose import CONF_FOLDER
from nanochat_pl.config.sweep import _write_reports
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.core.sweep_folder import SweepFolder, first_sentence, job_of, spread_over_seeds
from tests.processes import REPOSITORY, SMALL, losses, start_fork, train

FEW = ("horizon.steps=2", *(option for option in SMALL if not option.startswith(("run.name", "horizon.steps"))))
NAMED = "run.name=n${model.n_embd}s${seed}"
"""Short names, so that they can be found."""


def without(*names: str, options: tuple[str, ...] = FEW) -> list[str]:
    return [option for option in options if not option.startswith(names)]


def jobs_of(runs: Path) -> list[dict]:
    (file,) = runs.glob("sweeps/*/sweep.json")
    return SweepFolder(file.parent).jobs()


def test_runs_that_differ_in_their_seed_are_one_group() -> None:
    runs = [
        {"overrides": ["a=1", "seed=1"], "val_bpb": 1.0},
        {"overrides": ["a=1", "seed=2"], "val_bpb": 2.0},
        {"overrides": ["a=1", "seed=3"], "val_bpb": 6.0},
        {"overrides": ["a=2", "seed=1"], "val_bpb": 9.0},
    ]
    (group,) = spread_over_seeds(runs)
    assert group["overrides"] == ["a=1"] and group["seeds"] == 3
    assert group["val_bpb"] == {"mean": 3.0, "standard_deviation": pytest.approx(7**0.5), "min": 1.0, "max": 6.0}


def test_jobs_of_several_processes_land_in_one_file(tmp_path: Path) -> None:
    """Each process records its jobs twice, all at the same time; none is lost."""
    SweepFolder(tmp_path).begin(["seed=1,2"])
    program = (
        "import sys; from nanochat_pl.core.sweep_folder import SweepFolder\n"
        "for status in ('running', 'finished'):\n"
        "    for job in range(int(sys.argv[2]), 40, 4):\n"
        "        facts = dict(overrides=[f'seed={job}'], folder='x', status=status, val_bpb=job)\n"
        "        SweepFolder(sys.argv[1]).record(job, **facts)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(i)], cwd=REPOSITORY) for i in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    sweep = SweepFolder(tmp_path)
    assert [(job["job"], job["status"]) for job in sweep.jobs()] == [(i, "finished") for i in range(40)]
    content = json.loads(sweep.file.read_text())
    assert sweep.overrides() == ["seed=1,2"] and content["spread"][0]["seeds"] == 40


@pytest.mark.parametrize("text", ["", "[1]", '{"runs": 3}', '{"runs": [1, {"job": "x"}, {"job": 1, "folder": 3}]}'])
def test_a_damaged_file_has_no_jobs(tmp_path: Path, text: str) -> None:
    sweep = SweepFolder(tmp_path)
    sweep.file.write_text(text)
    assert sweep.jobs() == [] and sweep.overrides() == []
    sweep.record(0, overrides=[], folder="x", status="running")
    assert len(sweep.jobs()) == 1


def test_a_failed_job_does_not_take_the_results_of_another_training() -> None:
    run = RunFolder.of("one", "base")
    run.write_summary(status="finished", val_bpb=1.0)
    assert "val_bpb" not in job_of(run, ["a=1"], "failed", 2, "It holds a run of another configuration.")
    assert job_of(run, ["a=1"], "finished", 0)["val_bpb"] == 1.0
    run.write_summary(status="diverged", step=7)
    assert job_of(run, ["a=1"], "diverged", 4, "The loss is nan.")["step"] == 7


def test_the_first_sentence_of_a_paragraph() -> None:
    assert first_sentence("It is 3.5 of 4.\nTry hw.x=1. Or not.") == "It is 3.5 of 4."
    assert first_sentence("no end") == "no end"


@pytest.mark.parametrize(
    ("variables", "root"),
    [
        ({"NANOCHAT_PL_RUNS": "/a", "OUT_DIR": "/b"}, "/a"),
        ({"NANOCHAT_PL_RUNS": "", "OUT_DIR": "/b"}, "/b"),
        ({}, "runs"),
    ],
)
def test_sweeps_lie_where_the_runs_are(variables: dict, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NANOCHAT_PL_RUNS")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with hydra.initialize_config_dir(str(CONF_FOLDER), version_base="1.3"):
        config = hydra.compose("train", return_hydra_config=True)
    assert re.fullmatch(rf"{root}/sweeps/\d{{4}}-.*", config.hydra.sweep.dir)


def test_a_report_that_fails_does_not_end_the_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write_reports([{"folder": str(tmp_path / "gone" / "base"), "status": "finished"}])
    assert f"No report of {tmp_path}/gone: " in capsys.readouterr().err


@pytest.mark.slow
def test_a_failed_job_is_named_and_the_others_run(tmp_path: Path) -> None:
    options = (*without("model.n_embd"), NAMED, "model.n_embd=32,33,48", "seed=1,2")
    code, output = train("-m", *options, runs=tmp_path)
    assert code == 2 and "Traceback" not in output, output
    named = f"Job 2 (model.n_embd=33 seed=1) failed, exit code 2; its folder: {tmp_path}/n33s1/base"
    assert output.index(named) < output.index(f"{tmp_path}/n48s1/base"), "at once, and not at the end"
    statuses = [(job["status"], job["exit_code"]) for job in jobs_of(tmp_path)]
    assert statuses == [("finished", 0)] * 2 + [("failed", 2)] * 2 + [("finished", 0)] * 2
    assert "choose 32 or 48" in jobs_of(tmp_path)[2]["error"]
    table = output[output.index("Sweep") :]
    assert "Job 2 failed: The width 33" in table and "mean of 2 seeds" in table, table
    before = [job.get("val_bpb") for job in jobs_of(tmp_path)]
    (tmp_path / "sweeps").rename(tmp_path / "before")
    code, output = train("-m", *options, runs=tmp_path)
    assert code == 2 and output.count("is finished (2 steps") == 4, output
    assert [job.get("val_bpb") for job in jobs_of(tmp_path)] == before and before[0] is not None


@pytest.mark.slow
def test_each_kind_of_failure_is_told_and_the_first_gives_the_code(tmp_path: Path) -> None:
    """A loss that is no number, then an error that nobody foresaw."""
    options = (*without("callbacks.samples", "horizon.steps"), NAMED, "horizon.steps=8", "seed=1,2")
    spoil = ("+callbacks.spoil._target_=tests.faults.Spoil,tests.faults.Nonsense", "+callbacks.spoil.step=2")
    code, output = train("-m", *options, "callbacks.samples=null", *spoil, runs=tmp_path)
    assert code == 4, output
    diverged, broken, *_ = jobs_of(tmp_path)
    assert (diverged["status"], diverged["exit_code"], diverged["step"]) == ("diverged", 4, 3)
    assert (broken["status"], broken["exit_code"]) == ("failed", 1) and "this is nonsense" in broken["error"]
    assert "Traceback" in output and output.count(" failed, exit code 1") == 2


@pytest.mark.slow
def test_only_the_stages_behind_a_failure_are_skipped(tmp_path: Path) -> None:
    options = without("data.", "model.n_embd", "model.sequence_len")
    code, output = train(
        "-m", *options, NAMED, "model.sequence_len=128", "model.n_embd=33,32", "stage=base,sft", "seed=1",
        "callbacks.evaluate.suites=[]", runs=tmp_path,
    )  # fmt: skip
    assert code == 2, output
    assert [job["status"] for job in jobs_of(tmp_path)] == ["failed", "skipped", "finished", "finished"], output
    assert "Job 1 (model.n_embd=33 stage=sft) is skipped. Its base stage failed." in output
    assert not (tmp_path / "n33s1/sft").exists()


@pytest.mark.slow
def test_devices_get_a_process_each_in_every_job_and_where_these_fail_they_hide_nothing(tmp_path: Path) -> None:
    code, output = train(
        "-m", *without("model.n_embd"), NAMED, "model.n_embd=33,32", "seed=1", "trainer.devices=2", runs=tmp_path
    )
    assert code == 2 and output.count("choose 32 or 48") == 1 and "Traceback" not in output, output
    failed, finished = jobs_of(tmp_path)
    assert (failed["status"], failed["exit_code"]) == ("failed", 2)
    assert (finished["status"], finished["exit_code"]) == ("finished", 0) and finished["folder"] != failed["folder"]
    run = RunFolder(Path(finished["folder"]))
    assert (run.read_summary()["world_size"], run.read_summary()["step"]) == (2, 2)
    assert len(losses(run.path)) == 2
    assert len((run.path / "invocations.jsonl").read_text().splitlines()) == 1
    assert len(list((tmp_path / "sweeps").iterdir())) == 1  # none within another


@pytest.mark.slow
def test_an_interrupt_ends_the_whole_sweep(tmp_path: Path) -> None:
    """Also behind a job that failed, which must leave the signals as they were."""
    options = (*without("model.n_embd", "horizon.steps"), NAMED, "model.n_embd=33,32,48", "seed=1")
    process = start_fork("-m", *options, "horizon.steps=100000", runs=tmp_path)
    started, deadline = tmp_path / "n32s1/base/checkpoints/last.ckpt", time.monotonic() + 200
    while not started.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    statuses = [(job["status"], job["exit_code"]) for job in jobs_of(tmp_path)]
    assert statuses == [("failed", 2), ("interrupted", 143)] and "Sweep" in output, output
    assert not (tmp_path / "n48s1").exists()


@pytest.mark.slow
def test_jobs_in_processes_of_their_own(tmp_path: Path) -> None:
    """By submitit, as on a cluster: one fails, one is told in mid-training that its time is over, and goes on."""
    pytest.importorskip("submitit")
    options = (*without("model.n_embd", "horizon.steps"), NAMED, "model.n_embd=33,32", "seed=1", "horizon.steps=16")
    time_is_over = ("+callbacks.kill._target_=tests.faults.Kill", "+callbacks.kill.signal_name=SIGUSR2")
    launcher = ("hydra/launcher=submitit_local", "+callbacks.kill.micro_batch=12")
    code, output = train("-m", *options, *time_is_over, *launcher, runs=tmp_path)
    assert code == 2 and "Job 0 (model.n_embd=33) failed, exit code 2" in output and "Traceback" not in output, output
    failed, finished = jobs_of(tmp_path)
    assert failed["status"] == "failed" and (finished["status"], finished["step"]) == ("finished", 16)
    assert "Job 0 failed: The width 33" in output[output.index("Sweep") :]
    calls = [json.loads(line) for line in (tmp_path / "n32s1/base/invocations.jsonl").read_text().splitlines()]
    assert [call["resumed_step"] for call in calls] == [None, 12], "it saved when it was told to, and lost no step"
    assert calls[0]["command"][:2] == ["train.py", "-m"]


@pytest.mark.slow
def test_a_job_of_several_processes_is_queued_again_when_its_state_is_saved(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    options = (*without("model.n_embd", "horizon.steps"), NAMED, "model.n_embd=32", "seed=1", "horizon.steps=200")
    time_is_over = ("+callbacks.kill._target_=tests.faults.KillLauncher", "+callbacks.kill.signal_name=SIGUSR2")
    launcher = ("hydra/launcher=submitit_local", "hw.devices=2", "+callbacks.kill.micro_batch=12")
    code, output = train("-m", *options, *time_is_over, *launcher, runs=tmp_path)
    assert code == 0, output
    assert [(job["status"], job["step"]) for job in jobs_of(tmp_path)] == [("finished", 200)]
    calls = [json.loads(line) for line in (tmp_path / "n32s1/base/invocations.jsonl").read_text().splitlines()]
    assert len(calls) == 2 and calls[1]["resumed_step"] >= 12
    (log,) = tmp_path.glob("sweeps/*/.submitit/*/*_log.err")
    said = log.read_text()
    assert said.index("Stopped by SIGUSR2 after step") < said.index("Caught signal SIGUSR2"), (
        "saved before it is queued"
    )


@pytest.mark.slow
def test_a_job_that_is_killed_in_a_process_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    options = (*without("model.n_embd"), "model.n_embd=32", "run.name=k${callbacks.kill.micro_batch}")
    kill = ("+callbacks.kill._target_=tests.faults.Kill", "+callbacks.kill.micro_batch=2,1000")
    code, output = train("-m", *options, *kill, "hydra/launcher=submitit_local", runs=tmp_path)
    assert code == 3 and "ended without a word" in output and "Traceback" not in output, output
    deadline = time.monotonic() + 120
    while jobs_of(tmp_path)[1]["status"] == "running" and time.monotonic() < deadline:
        time.sleep(0.5)
    assert jobs_of(tmp_path)[1]["status"] == "finished", "the program's end is not the end of the other job"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("hydra/launcher=submitit_local", "stage=base,sft"), "first stage=base, and when it is finished the next"),
        (("hydra/launcher=slurm", "seed=1,2"), "this machine has no srun"),
        (("recipe=tiny,nowhere",), "recipe has no option 'nowhere'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    pytest.importorskip("submitit")
    code, output = train("-m", *options, runs=tmp_path, environment={"PATH": os.environ["PATH"]})
    assert code == 2 and said in output and "Traceback" not in output, output
    assert not list(tmp_path.glob("*/base"))
