"""Which of two experiments is better, and whether that is more than chance."""

import math
import shlex
import statistics

import pytest

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.paths import runs_root
from nanochat_pl.reporting.experiments.comparing import compare, find_experiment, ranked, seeds_of
from nanochat_pl.reporting.experiments.ideas import ideas_from
from nanochat_pl.reporting.experiments.ledger import read_experiments
from tests.reporting.experiments.written import write_run


def judged(first: str, other: str, metric: str = "val_bpb"):
    experiments = read_experiments(runs_root())
    one, two = (find_experiment(name, experiments) for name in (first, other))
    return compare(one, two, experiments, metric)


def test_with_one_seed_it_may_be_chance() -> None:
    write_run("a", day=1, val_bpb=1.5)
    write_run("b", day=2, val_bpb=1.2, depth=6)
    judgement = judged("a", "b")
    assert judgement.better == "b/base" and judgement.by == pytest.approx(0.3) and judgement.standard_errors is None
    assert "by 0.3000 (20.0%)" in judgement.verdict and "not known" in judgement.verdict
    assert judgement.differences == [["model.depth", 4, 6]]
    assert judgement.results["val_bpb"] == [1.5, 1.2]
    assert judged("b", "a").better == "b/base"


def test_with_several_seeds_it_is_measured_by_their_spread() -> None:
    bpb = {4: (1.50, 1.52, 1.51), 6: (1.40, 1.44)}
    for depth, values in bpb.items():
        for seed, value in enumerate(values):
            write_run(f"d{depth}s{seed}", day=10 * depth // 4 + seed, depth=depth, seed=seed, val_bpb=value)
    judgement = judged("d4s0", "d6s1")
    pooled = math.sqrt((2 * statistics.variance(bpb[4]) + statistics.variance(bpb[6])) / 3)
    gap = statistics.mean(bpb[4]) - statistics.mean(bpb[6])
    assert judgement.by == pytest.approx(gap) and judgement.better == "d6s1/base"
    assert judgement.standard_errors == pytest.approx(gap / (pooled * math.sqrt(1 / 3 + 1 / 2)))
    assert "3 and 2 seeds" in judgement.verdict and "more than chance" in judgement.verdict
    assert "differ by chance" in judged("d4s0", "d4s1").verdict


def test_the_same_seed_twice_tells_nothing_of_the_spread() -> None:
    write_run("a", day=1, val_bpb=1.5)
    write_run("again", day=2, val_bpb=1.5)
    write_run("other", day=3, val_bpb=1.6, seed=1)
    experiments = read_experiments(runs_root())
    assert seeds_of(experiments[0], experiments, "val_bpb") == [1.5, 1.6]


def test_seeds_of_a_later_stage_begin_with_one_model_or_with_seeds_of_it() -> None:
    for number, (seed, depth) in enumerate([(1, 4), (2, 4), (1, 6)], 1):
        base = write_run(f"r{number}", day=number, seed=seed, depth=depth)
        write_run(
            f"r{number}", day=10 + number, seed=seed, stage="sft", began_with=f"{base.path}/model", val_bpb=number
        )
    write_run("r4", day=20, seed=4, stage="sft", began_with=str(runs_root() / "r1/base/model"), val_bpb=4)
    write_run("r5", day=21, seed=5, stage="sft", began_with="/elsewhere/model", val_bpb=5)
    experiments = read_experiments(runs_root())
    assert seeds_of(find_experiment("r1/sft", experiments), experiments, "val_bpb") == [1, 2, 4]
    assert seeds_of(find_experiment("r3/sft", experiments), experiments, "val_bpb") == [3]


def test_more_is_better_of_what_is_no_loss() -> None:
    write_run("a", day=1)
    write_run("b", day=2, depth=6)
    experiments = read_experiments(runs_root())
    experiments[0].results["core"], experiments[1].results["core"] = 0.1, 0.2
    assert compare(experiments[0], experiments[1], experiments, "core").better == "b/base"
    assert [one.name for one in ranked(experiments, "core")] == ["b/base", "a/base"]


def test_what_makes_a_comparison_doubtful_is_said() -> None:
    write_run("a", day=1)
    write_run("b", day=2, status="interrupted", val_bpb=1.0)
    write_run("c", day=3, stage="sft", val_bpb=1.0)
    assert judged("a", "b").cautions == ["b/base is interrupted, at step 8 of 24."]
    assert judged("a", "c").better == "" and "base and sft have other data" in judged("a", "c").verdict
    assert judged("a", "c", "tokens_per_second").verdict.startswith("They are equal")
    assert "b/base" not in [one.name for one in ranked(read_experiments(runs_root()), "val_bpb")]


def test_a_result_that_is_not_there() -> None:
    write_run("a", day=1)
    write_run("b", day=2)
    assert "a/base and b/base have no core" in judged("a", "b", "core").verdict
    with pytest.raises(UserError, match="did you mean 'val_bpb'"):
        ranked(read_experiments(runs_root()), "val_bbp")


def test_names() -> None:
    write_run("a", day=1)
    write_run("a", day=2, stage="sft")
    experiments = read_experiments(runs_root())
    for name in ("a", "a/sft", "a/sft/", str(runs_root() / "a"), str(runs_root() / "a/sft")):
        assert find_experiment(name, experiments).name == "a/sft"
    with pytest.raises(UserError, match="did you mean 'a/base'"):
        find_experiment("a/bass", experiments)


def test_ideas_follow_from_what_was_tried() -> None:
    write_run("a", day=1, lr_scale=0.2, val_bpb=1.5)
    write_run("b", day=2, lr_scale=0.4, val_bpb=1.4)
    write_run("k", day=3, status="killed", depth=8, val_bpb=9.0)
    write_run("n", day=4, status="diverged", lr_scale=3.0, val_bpb=9.0)
    ideas = ideas_from(read_experiments(runs_root()))
    assert [idea.text.split(":")[0] for idea in ideas[:2]] == ["Finish k/base", "n/base diverged"]
    commands = [idea.command for idea in ideas]
    assert commands[0].endswith("run.name=k") and commands[1].endswith("horizon.lr_scale=1.5")
    assert "python train.py -m model.depth=4 seed=43,44" in commands
    assert any(idea.text.startswith("Lower learning") for idea in ideas) is False
    assert not any("Higher learning" in idea.text for idea in ideas), "3.0 was tried, and diverged"
    assert not any("deeper" in idea.text for idea in ideas), "8 layers were tried"


def test_another_run_of_a_later_stage_begins_with_the_same_model() -> None:
    write_run("a", stage="sft", began_with="/runs/m,lr=1/base/model")
    [seeds, *_] = ideas_from(read_experiments(runs_root()))
    assert shlex.split(seeds.command)[-2:] == ["seed=43,44", 'stage.init_from="/runs/m,lr=1/base"']
