"""The rule by which checkpoints are kept, and what is sound."""

import os
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from nanochat_pl.checkpoint.saved import Keep, is_sound, point_last_to, resume_point, step_checkpoints

STEPS = st.integers(0, 40)
SIZES = st.dictionaries(STEPS, st.integers(1, 9), max_size=12)
BPB = st.dictionaries(STEPS, st.one_of(st.floats(0.5, 3), st.just(float("nan"))), max_size=12)
RULES = st.builds(
    Keep,
    last=st.integers(1, 5),
    best=st.integers(0, 4),
    every_n_steps=st.none() | st.integers(1, 9),
    budget_bytes=st.none() | st.integers(0, 60),
)


@given(RULES, SIZES, BPB)
def test_the_newest_always_stays_and_nothing_is_kept_without_a_reason(
    rule: Keep, sizes: dict[int, int], val_bpb: dict[int, float]
) -> None:
    kept = rule.chosen(sizes, val_bpb)
    assert kept <= sizes.keys()
    assert not sizes or max(sizes) in kept
    for step in kept:
        newer = sum(other > step for other in sizes)
        better = sum(val_bpb[other] < val_bpb[step] for other in sizes if other in val_bpb) if step in val_bpb else 99
        is_regular = rule.every_n_steps is not None and step % rule.every_n_steps == 0
        assert newer < rule.last or better < rule.best or is_regular


@given(RULES, SIZES, BPB)
def test_a_budget_is_held_by_dropping_what_is_worth_least(
    rule: Keep, sizes: dict[int, int], val_bpb: dict[int, float]
) -> None:
    free = Keep(rule.last, rule.best, rule.every_n_steps)
    wanted, kept = free.chosen(sizes, val_bpb), rule.chosen(sizes, val_bpb)
    if rule.budget_bytes is None:
        assert kept == wanted
        return
    taken = sum(sizes[step] for step in kept)
    assert kept <= wanted and (taken <= rule.budget_bytes or len(kept) == 1)
    of_last = sorted(sizes, reverse=True)[: rule.last]
    only_regular = {step for step in wanted if step not in of_last} - Keep(1, rule.best).chosen(sizes, val_bpb)
    assert kept == wanted or not (kept & only_regular) or set(of_last) <= kept  # the old regular ones go before these
    if dropped := wanted - kept:  # no room for the next one
        assert taken + max(sizes[step] for step in dropped) > rule.budget_bytes


@given(SIZES, st.integers(1, 5))
def test_the_default_rule_keeps_the_newest(sizes: dict[int, int], last: int) -> None:
    assert Keep(last).chosen(sizes, {}) == set(sorted(sizes)[-last:])


def test_the_rule_by_an_example() -> None:
    sizes = dict.fromkeys(range(10, 101, 10), 5)
    val_bpb = {10: 1.5, 20: 1.1, 30: 1.1, 40: float("nan"), 50: 1.3, 110: 1.0}
    rule = Keep(last=2, best=2, every_n_steps=40)
    assert rule.chosen(sizes, val_bpb) == {100, 90, 20, 30, 80, 40}
    for budget, kept in ((29, {100, 30, 20, 90, 80}), (24, {100, 30, 20, 90}), (19, {100, 30, 20}), (0, {100})):
        assert Keep(2, 2, 40, budget).chosen(sizes, val_bpb) == kept


@given(RULES, st.integers(1, 9), st.integers(1, 60))
def test_what_is_planned_for_is_never_exceeded(rule: Keep, size: int, steps: int) -> None:
    """A training of so many steps, each of which writes a checkpoint that is better than all before it."""
    there: dict[int, int] = {}
    for step in range(1, steps + 1):
        there[step] = size
        assert sum(there.values()) <= rule.most_bytes(size, steps)
        kept = rule.chosen(there, {step: 1 / step for step in there})
        there = {step: size for step in there if step in kept}


def test_damaged_ones_are_told_from_sound_ones_and_passed_over(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000, 5):  # beyond eight digits the order of names is not that of steps
        torch.save({"x": torch.arange(1000.0)}, tmp_path / f"step-{step:08d}.ckpt")
    (tmp_path / "step-x.ckpt").write_bytes(b"another program's")
    newest, middle, oldest = step_checkpoints(tmp_path)
    assert [path.name for path in (newest, middle, oldest)] == [
        "step-100000000.ckpt", "step-99999999.ckpt", "step-00000005.ckpt",
    ]  # fmt: skip
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    os.truncate(middle, middle.stat().st_size - 1)
    assert not is_sound(newest) and not is_sound(middle) and not is_sound(tmp_path / "nothing")
    point_last_to(newest)
    assert resume_point(tmp_path) == oldest and (tmp_path / "last.ckpt").resolve() == oldest
    assert sorted(path.name for path in tmp_path.glob("*.damaged")) == [
        "step-100000000.damaged", "step-99999999.damaged",
    ]  # fmt: skip
    oldest.write_bytes(b"")
    assert resume_point(tmp_path) is None
