"""A run as trainings leave it behind, written through the run folder's own methods."""

import json
from typing import Any

import yaml

from nanochat_pl.core.paths import write_text
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.evals.scores import SuiteScore, TaskScore

HOSTILE = "<script>alert(1)</script><img src=http://example.com/x.png> ``` $_{$ | & \x1b[31m\u202e"
STEPS = 50


def suite(
    *correct: int, labels: tuple[str, ...] = ("sums", "letters"), name: str = "tiny", count: int = 100
) -> SuiteScore:
    """A suite's score: of each task, so many of 100 questions."""
    tasks = tuple(TaskScore(label, right, count, 0.0) for label, right in zip(labels, correct))
    return SuiteScore(name, "mean accuracy", sum(correct) / count / len(correct), 0.01, tasks)


def evaluate(run: RunFolder, step: int, score: SuiteScore, **facts: Any) -> None:
    run.record_evaluation(score.suite, step, score.as_dict() | facts)


def write_stage(name: str, stage: str, status: str = "finished", *, curves: bool = False, **config: Any) -> RunFolder:
    """One stage of the run `name`, trained for 50 of 50 steps, or of 100 where it did not finish.

    Args:
        curves: with metrics.csv, whose pictures take their time.
        config: of config.yaml.
    """
    run = RunFolder.of(name, stage)
    planned = STEPS if status == "finished" else 2 * STEPS
    model = {"n_layer": 4, "n_embd": 128, "n_head": 4, "sequence_len": 256, "vocab_size": 1024}
    samples = {"callbacks": {"samples": {"prompts": ["Hello", "Hell"]}}}
    write_text(run.config, yaml.safe_dump({"recipe_name": "tiny", "stage": {"init_from": None}} | samples | config))
    write_text(run.resolved, json.dumps({"model": model, "steps": planned, "total_batch_tokens": 2048}))
    write_text(run.plan, "     model  4 layers\n  hardware  2 x Abacus 3000, float32\n")
    command = ["train.py", f"stage={stage}", "tag=a b"]
    run.record_invocation(command=command, git_commit="abc123", versions={"torch": "9"})
    if curves:
        _write_metrics(run)
    run.record_samples(10, ["early"])
    run.record_samples(STEPS, [f"Hello -> {HOSTILE}\nits second line\n[step {STEPS}] forged\r[step 99] too", "Bye"])
    write_text(run.log, "one\nRuntimeError: the disk <broke>\n")
    run.write_summary(
        status=status, stage=stage, step=STEPS, tokens=102_400, parameters=1_310_850, world_size=2, wall_seconds=1800.0,
        peak_memory_bytes=630_000_000, train_loss=0.1, val_bpb=1.5,
    )  # fmt: skip
    return run


def _write_metrics(run: RunFolder) -> None:
    rows = [f"{step},{5 / step:.3f},1000,{'1.5' if step % 10 == 0 else ''}" for step in range(1, STEPS + 1)]
    write_text(run.metrics, "step,train/loss,speed/tokens_per_second,val/bpb\n" + "\n".join(rows) + "\n")
