"""The mirror at W&B: everything comes once, whatever happens to the process or the network."""

import contextlib
import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nanochat_pl.callbacks.metrics_csv import MetricsCSV
from nanochat_pl.callbacks.wandb.logger import WandbSpec
from nanochat_pl.callbacks.wandb.rows import MetricsTail
from nanochat_pl.config.compose import compose
from nanochat_pl.core.errors import Interrupted, UserError
from nanochat_pl.core.findings import Finding, announce, read_findings
from nanochat_pl.core.paths import write_text
from nanochat_pl.core.run_folder import RunFolder
from tests.callbacks.mirrored import logged, read_mirrored
from tests.reporting.written_runs import evaluate, suite
from tests.wandb_server import wandb_server

KEY = "0" * 40
SPIKE = Finding("loss_spike", 12, "The loss rose.", "Look at the data.", "warning", evidence={"loss": 9.5})
STUCK = Finding("stuck", 20, "It stands still.", "Look at the stacks.", "error")


@pytest.fixture(autouse=True)
def wandb_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No key, no server but one on this machine, and a client of its own."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_HOST", "WANDB_RUN", "WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    for name in ("NETRC", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home" / name))
    yield
    if "wandb" in sys.modules and sys.modules["wandb"] is not None:
        sys.modules["wandb"].teardown()


def written(steps: int, name: str = "mine", stage: str = "base") -> RunFolder:
    """A run of so many steps, with two findings, samples, and evaluations."""
    run = RunFolder.of(name, stage)
    write_text(run.config, yaml.safe_dump({"seed": 7, "model": {"n_layer": 3}}))
    write_text(run.resolved, json.dumps({"steps": steps}))
    train(run, 1, steps)
    announce(run, SPIKE)
    announce(run, STUCK)
    return run


def train(run: RunFolder, first: int, last: int) -> None:
    """Write the metrics of these steps; every tenth has a validation, in a row of its own."""
    metrics = MetricsCSV(run.metrics, first - 1 if first > 1 else None)
    for step in range(first, last + 1):
        metrics.log_metrics({"train/loss": 5 / step, "train/tokens": 100.0 * step}, step)
        if step % 10 == 0:
            metrics.log_metrics({"val/bpb": 1 + 1 / step}, step)
            run.record_samples(step, [f"One day, {step}"])
            evaluate(run, step, suite(50 + step % 50, 70))


@contextlib.contextmanager
def mirroring(run: RunFolder, **options: Any) -> Iterator[list[str]]:
    """Mirrors what is there while inside; yields what is said."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("nanochat_pl")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with WandbSpec(**options).build(run, None):
            yield said
    finally:
        log.removeHandler(handler)


def mirror(run: RunFolder, **options: Any) -> str:
    """Mirror what is there; returns what was said."""
    with mirroring(run, **options) as said:
        pass
    return "\n".join(said)


def test_all_records_of_a_run_come_to_w_and_b_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key nothing is asked: it is kept here, and how to send it is said."""
    monkeypatch.setattr(sys, "stdin", None)
    run = written(30)
    said = mirror(run)
    assert "There is no key for http://127.0.0.1:9" in said
    path = os.path.relpath(run.path / "wandb")
    assert f"send it with `WANDB_BASE_URL=http://127.0.0.1:9 wandb sync {path}/offline-run-*`" in said
    mirrored = read_mirrored(run.path)
    assert mirrored.figures() == logged(run.path) and len(mirrored.figures()) == 63
    assert mirrored.tables["samples"]["data"] == [[step, f"One day, {step}"] for step in (10, 20, 30)]
    tasks = mirrored.tables["evaluations/tiny"]
    assert tasks["columns"] == ["step", "task", "accuracy", "standard_error", "count"]
    assert [row[:3] for row in tasks["data"]][-2:] == [[30, "sums", 0.8], [30, "letters", 0.7]]
    assert [(alert.level, alert.text) for alert in mirrored.alerts] == [("WARN", str(SPIKE)), ("ERROR", str(STUCK))]
    assert all(alert.title.endswith("of mine/base") for alert in mirrored.alerts)
    assert mirrored.config["model"] == {"n_layer": 3} and mirrored.config["plan"] == {"steps": 30}
    assert (mirrored.runs[0].project, mirrored.runs[0].job_type) == ("nanochat-pl", "base")
    assert mirrored.systems, "no figures of the machine"
    assert mirrored.exits == [0] and mirrored.summary["status"] == "finished"
    mirror(run)
    assert read_mirrored(run.path).figures() == logged(run.path), "nothing is given again"
    assert len(read_mirrored(run.path).alerts) == 2


@pytest.mark.parametrize("share", [0.0, 0.37, 0.8])
def test_what_a_power_cut_took_from_w_and_bs_files_is_given_again(share: float) -> None:
    run = written(120)
    mirror(run)
    (file,) = run.path.glob("wandb/offline-run-*/*.wandb")
    os.truncate(file, max(7, int(share * file.stat().st_size)))
    journal = run.path / "wandb.jsonl"
    kept = [line for line in journal.read_text().splitlines() if "ended" not in line]
    journal.write_text("\n".join(kept) + '\n{"row": 9')  # it was being written
    before = read_mirrored(run.path, ended=False)
    assert (len(before.values) > 0) == (share > 0) and len(before.values) < len(logged(run.path))
    train(run, 101, 140)  # it goes on from a checkpoint
    mirror(run)
    mirrored = read_mirrored(run.path)
    assert mirrored.figures() == logged(run.path) and max(mirrored.figures())[0] == 140
    assert [alert.level for alert in mirrored.alerts] == ["WARN", "ERROR"]
    assert len({record.run_id for record in mirrored.runs if record.run_id}) == 1


def test_how_a_run_ended_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for variable, value in (("WANDB_PROJECT", "ours"), ("WANDB_ENTITY", "team"), ("WANDB_RUN", "night")):
        monkeypatch.setenv(variable, value)
    run = written(1)
    with pytest.raises(Interrupted), mirroring(run, group="some-sweep") as said:
        raise Interrupted("Stopped.", 143)
    assert "W&B is offline. WANDB_MODE is offline." in said
    mirrored = read_mirrored(run.path)
    assert mirrored.exits == [143] and mirrored.summary["status"] == "interrupted"
    (record,) = mirrored.runs
    assert (record.project, record.entity, record.display_name) == ("ours", "team", "night/base")
    assert record.run_group == "some-sweep"
    assert "WANDB_DATA_DIR" not in os.environ


def test_stages_are_one_line_of_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    base, sft = written(1, "a,b=1"), written(1, "a,b=1", "sft")
    for run in (base, sft):
        write_text(run.model / "model.json", run.path.name)
        run.write_summary(step=30, val_bpb=1.5)
    write_text(sft.resolved, json.dumps({"parent": {"path": str(base.model), "stage": "base", "step": 30}}))
    mirror(base)
    mirror(sft)
    (made,) = read_mirrored(base.path).artifacts
    used, own = [artifact for artifact in read_mirrored(sft.path).artifacts if artifact.type == "model"]
    assert (made.name, made.use_after_commit) == ("a_b_1-base", False) and "step-30" in made.aliases
    assert (used.name, used.use_after_commit, used.digest) == (made.name, True, made.digest), "the same version"
    assert own.name == "a_b_1-sft" and json.loads(own.metadata)["val_bpb"] == 1.5
    write_text(base.model / "model.json", "trained longer")
    kept = [Path(entry.local_path) for entry in made.manifest.contents]
    assert [path.read_text() for path in kept] == ["base"], "what is sent later is what it was then"
    mirror(sft, artifact=False)
    assert len(read_mirrored(sft.path).artifacts) == 2


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_server_that_breaks_down_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training ends in time, and the next invocation makes up for what the server lacks."""
    run = written(30)
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_HOST", server.url)
        monkeypatch.delenv("WANDB_BASE_URL")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        with mirroring(run, wait_seconds=1.0) as said:
            until(lambda: len(server.lines) > 30)
            server.is_broken = True
            train(run, 31, 35)
        assert server.url in said[0] and "did not take all within 1 s" in said[-1] and "wandb sync" in said[-1]
        assert len(server.alerts) == 2 and server.refused
        train(run, 36, 40)
        announce(run, SPIKE)
        told = mirror(run, wait_seconds=1.0)
        assert "W&B does not take this run now" in told and "wandb sync" in told
        assert max(row["train/step"] for row in server.lines.values()) == 30
        server.is_broken = False
        train(run, 41, 50)
        mirror(run)
        rows = [server.lines[number] for number in sorted(server.lines)]
        assert [alert["title"].split(" at ")[0] for alert in server.alerts] == ["loss spike", "stuck", "loss spike"]
        (kept,) = run.path.glob("wandb/offline-run-*/*.wandb")
        assert kept.with_suffix(".wandb.synced").exists(), "`wandb sync` would send it a second time"
    given = {
        (row["train/step"], name): row[name] for row in rows for name in row if name.startswith(("train/", "val/"))
    }
    given = {key: value for key, value in given.items() if key[1] != "train/step"}
    assert given == {key: value for key, value in logged(run.path).items() if key[1].startswith(("train/", "val/"))}
    assert [row["_step"] for row in rows] == list(range(len(rows)))


def test_what_the_disk_has_no_room_for_is_given_when_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on the size of files plays the full disk: a part of a line fits."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr("nanochat_pl.callbacks.wandb.mirror.LOOK_EVERY_SECONDS", 0.1)
    run = written(30)
    journal, limits = run.path / "wandb.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    with mirroring(run):
        until(lambda: journal.exists() and '"alert": 1' in journal.read_text())
        before = journal.read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
        try:
            train(run, 31, 33)
            announce(run, SPIKE)
            until(lambda: len(journal.read_bytes()) > len(before))
            time.sleep(0.5)
            assert len(read_findings(run)) == 3 and len(journal.read_bytes()) == len(before) + 10
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    mirrored = read_mirrored(run.path)
    assert mirrored.figures() == logged(run.path) and max(mirrored.figures())[0] == 33
    assert len(mirrored.alerts) == 3


def test_metrics_are_read_as_they_grow() -> None:
    run = RunFolder.of("mine", "base")
    run.path.mkdir(parents=True)
    tail = MetricsTail(run.metrics)
    assert tail.read() == []
    metrics = MetricsCSV(run.metrics)
    metrics.log_metrics({"a": 1.0}, 1)
    metrics.log_metrics({"a": 2.0}, 2)
    assert tail.read() == [(1, {"a": 1.0}), (2, {"a": 2.0})] and tail.read() == []
    with run.metrics.open("a") as file:
        file.write("3,3")
    assert tail.read() == []
    with run.metrics.open("a") as file:
        file.write(".0\r\n")
    assert tail.read() == [(3, {"a": 3.0})]
    metrics.log_metrics({"b": 4.0}, 4)
    assert tail.read()[-1] == (4, {"b": 4.0})


@pytest.mark.parametrize("variable", ["WANDB_MODE=disabled", "WANDB_RUN=dummy"])
def test_switched_off(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*variable.split("="))
    run = written(1)
    assert "W&B is switched off" in mirror(run)
    assert not list(run.path.glob("wandb*"))


def test_mistakes_are_told_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(UserError, match="did you mean 'offline'"):
        WandbSpec()
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'nanochat-pl\[wandb\]'"):
        WandbSpec()


@pytest.mark.parametrize("chosen", ["wandb", "tensorboard", "[csv,tensorboard,wandb]", "[wandb]"])
def test_metrics_csv_is_always_written(chosen: str) -> None:
    loggers = compose([f"logger={chosen}"]).logger
    assert next(iter(loggers)) == "csv" and all(name in loggers for name in chosen.strip("[]").split(","))
