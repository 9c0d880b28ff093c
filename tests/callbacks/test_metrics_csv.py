"""metrics.csv across new metrics and resumes."""

import csv
from pathlib import Path

from nanochat_pl.callbacks.metrics_csv import MetricsCSV


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
    with path.open("a") as file:
        file.write("3,1.2")  # cut short by a kill
    logger = MetricsCSV(path, resumed_step=1)
    assert [row["step"] for row in rows(path)] == ["1", "1"]
    logger.log_metrics({"train/loss": 4.0, "epoch": 0}, step=2)
    assert rows(path)[-1] == {"step": "2", "train/loss": "4.0", "val/bpb": ""}
    MetricsCSV(path)
    assert rows(path) == []
