"""metrics.csv across new metrics and resumes."""

import csv
import resource
from pathlib import Path

from nanochat_pl.callbacks.metrics_csv import MetricsCSV
from nanochat_pl.core.findings import read_findings
from nanochat_pl.core.run_folder import RunFolder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_new_metrics_add_columns_and_a_resume_cuts_what_lies_beyond(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    logger = MetricsCSV(path)
    logger.log_metrics({"train/loss": 0.1 + 0.2}, step=1)
    logger.log_metrics({"val/bpb": 2.0}, step=1)
    logger.log_metrics({"train/loss": 3.0}, step=2)
    assert rows(path)[0] == {"step": "1", "train/loss": "0.30000000000000004", "val/bpb": ""}
    with path.open("ab") as file:
        file.write(b"3,1.\xff")  # cut short by a kill, or by the machine's end
    logger = MetricsCSV(path, resumed_step=1)
    assert [row["step"] for row in rows(path)] == ["1", "1"]
    logger.log_metrics({"train/loss": 4.0, "epoch": 0}, step=2)
    assert rows(path)[-1] == {"step": "2", "train/loss": "4.0", "val/bpb": ""}
    MetricsCSV(path)
    assert rows(path) == []


def test_rows_that_the_disk_has_no_room_for_are_written_when_it_has(tmp_path: Path) -> None:
    """A limit on the size of files plays the full disk: half of a row fits."""
    path = tmp_path / "metrics.csv"
    logger = MetricsCSV(path)
    for step in range(1, 101):
        logger.log_metrics({"train/loss": step / 7}, step=step)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
    try:
        for step in range(101, 111):
            logger.log_metrics({"train/loss": step / 7}, step=step)
            assert path.read_bytes() == before
        logger.log_metrics({"val/bpb": 1.5}, step=110)  # a new column
        logger.save()
        assert path.read_bytes() == before and not list(tmp_path.glob(".*.tmp"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    [full] = read_findings(RunFolder(tmp_path))
    assert (full.kind, full.severity, full.step) == ("disk_full", "error", 101)
    logger.log_metrics({"train/loss": 111 / 7}, step=111)
    written = rows(path)
    assert [row["step"] for row in written] == [str(step) for step in [*range(1, 111), 110, 111]]
    assert all(float(row["train/loss"]) == int(row["step"]) / 7 for row in written if not row["val/bpb"])
    assert [row["val/bpb"] for row in written[109:]] == ["", "1.5", ""]
    told = read_findings(RunFolder(tmp_path))[-1]
    assert (told.severity, told.since_step, told.evidence) == ("info", 101, {"rows": 12})
