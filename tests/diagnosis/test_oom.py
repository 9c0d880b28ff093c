"""doctor oom: the largest settings that fit, against the plan's own arithmetic."""

import dataclasses
import json
from pathlib import Path

import pytest

from nanochat_pl.core.chips import CHIPS
from nanochat_pl.core.findings import Finding, announce
from nanochat_pl.core.hardware import Hardware
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.diagnosis import oom
from nanochat_pl.models.depth import NanoChatSpec
from nanochat_pl.optim.scaling import HorizonSpec
from nanochat_pl.planning.plan import Plan, make_plan

T = 1024
SPEC = NanoChatSpec(depth=4, n_embd=256, head_dim=64, sequence_len=T, window_pattern="L")
OVERRIDES = ["recipe=tiny", "run.name=x", "hw.tokens_per_device=2048"]


def planned(memory_bytes: int, rows: int = 16) -> Plan:
    """Of 16 rows a step, in micro-batches of `rows`, on a GPU with so much memory."""
    chip = dataclasses.replace(CHIPS["H100"], memory_bytes=memory_bytes)
    hardware = Hardware("cuda", "bfloat16", chip, tokens_per_device=rows * T, compile=False, attention="sdpa")
    horizon = HorizonSpec(steps=100, total_batch_tokens=16 * T)
    return make_plan(SPEC.config(512, "bfloat16"), SPEC.reference(512), horizon, hardware, 16, 1e12)


def needed(rows: int, recompute: bool = False) -> int:
    plan = planned(10**12, rows)
    hardware = dataclasses.replace(plan.hardware, recompute=recompute)
    return sum(dataclasses.replace(plan, hardware=hardware).memory_bytes.values())


def written(plan: Plan, status: str, **facts: object) -> RunFolder:
    run = RunFolder.of("x", "base")
    run.path.mkdir(parents=True)
    run.resolved.write_text(json.dumps(plan.as_dict()))
    run.record_invocation(command=["train.py", *OVERRIDES])
    run.write_summary(status=status, **facts)
    return run


def said(diagnosis: oom.Diagnosis) -> str:
    return "\n".join(f"{finding.severity}: {finding.what} {finding.advice}" for finding in diagnosis.findings)


def test_a_plan_is_read_back_as_it_was() -> None:
    plan = planned(3 * 10**9)
    run = written(plan, "finished")
    again = dataclasses.replace(oom.planned(run), horizon=plan.horizon, cost=plan.cost, flops_per_second=1e12)
    assert again == plan and again.memory_bytes == plan.memory_bytes
    diagnosis = oom.diagnose(run, lambda: SPEC)
    assert diagnosis.sound and "It is the one that is taken." in said(diagnosis)


def test_the_largest_that_fits_and_its_command() -> None:
    room = int(1.001 * needed(4) / 0.9)
    assert needed(8) > 0.9 * room > needed(8, recompute=True)
    diagnosis = oom.diagnose(written(planned(room), "failed"), lambda: SPEC)
    assert not diagnosis.sound and "error: Planned, in micro-batches of 16 row(s)" in said(diagnosis)
    plain, recomputing = (one for one in diagnosis.findings if one.what.startswith("Largest micro-batch"))
    assert "4 row(s)" in plain.what and "by 4 of them a step" in plain.what
    assert plain.advice.strip() == "python train.py recipe=tiny run.name=x hw.tokens_per_device=4096"
    assert recomputing.advice.strip().endswith("hw.recompute=true")
    rows = int(recomputing.advice.split("tokens_per_device=")[1].split()[0]) // T
    assert rows > 4 and needed(rows, True) <= 0.9 * room
    assert rows == 16 or needed(2 * rows, True) > 0.9 * room


def micro_batches(diagnosis: oom.Diagnosis) -> list[int]:
    """Rows of those that are proposed: with activations kept, and computed again."""
    commands = [one.advice for one in diagnosis.findings if one.what.startswith("Largest micro-batch")]
    return [int(command.split("tokens_per_device=")[1].split()[0]) // T for command in commands]


def test_what_was_held_counts_more_than_the_plan() -> None:
    room = int(1.2 * needed(16))
    run = written(planned(room), "failed", peak_memory_bytes=room)
    run.record_event("failed", error="The memory of H100 is full (CUDA out of memory).")
    diagnosis = oom.diagnose(run, lambda: SPEC)
    words = said(diagnosis)
    assert "error: The run ended because the memory was full: The memory of H100" in words
    assert "It held 1.2 times what was planned" in words
    assert needed(16) < 0.9 * room and micro_batches(diagnosis)[0] == 8
    run.write_summary(peak_memory_bytes=needed(16) // 2)  # and by its word all would fit
    assert micro_batches(oom.diagnose(run, lambda: SPEC)) == [8, 16]


def test_a_memory_that_others_filled_is_not_laid_to_the_plan() -> None:
    run = written(planned(10 * needed(16)), "failed")
    run.record_event("failed", error="The memory of H100 is full (CUDA out of memory).")
    words = said(oom.diagnose(run, lambda: SPEC))
    assert "warning: That is far from full: another program" in words
    assert "Not even one row" not in words and "times what was planned" not in words


def test_not_even_one_row() -> None:
    diagnosis = oom.diagnose_plan(planned(10**8), SPEC, OVERRIDES)
    assert "error: Not even one row fits." in said(diagnosis)


def test_killed_creeping_and_nearly_full() -> None:
    run = written(planned(10**10), "running", peak_memory_bytes=int(9.8e9))
    announce(run, Finding("memory_creep", 40, "The GPU's memory grows by 1 MB a step.", ""))
    words = said(oom.diagnose(run, lambda: SPEC))
    assert "was killed without a word" in words and "The monitor at step 40" in words and "98% of the device" in words


@pytest.mark.parametrize(
    "content", [None, "", "[]", "{}", '{"hardware": 1}', '{"hardware": {"chip": {}}}', "resolved", "rows"]
)
def test_damaged_records(content: str | None, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "base")
    run.path.mkdir()
    if content in ("resolved", "rows"):
        values = planned(10**12).as_dict()
        values |= {"rows_per_step": 0} if content == "rows" else {"model": {"n_layer": "two"}}
        content = json.dumps(values)
    if content is not None:
        run.resolved.write_text(content)
    run.invocations.write_text("\x00\n[]\n")
    assert oom.diagnose(run, lambda: SPEC).sound == (content is None)
