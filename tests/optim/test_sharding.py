"""MuonAdamW on one to four real processes against one that knows of no others, and who owns what."""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributed import ProcessGroup

from nanochat_pl.optim.sharding import SMALLEST_TABLE, Sharding
from tests.forks import FORKS
from tests.optim.ranks import CASES, FEW, GROUPS, MANY, RANKS, STEPS, Case, Training, run
from tests.reference import plain_muon

SAVED = CASES[:4]
SIZES = [len(ranks) for ranks in GROUPS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the processes have left what came out."""
    path = tmp_path_factory.mktemp("ranks")
    processes = [FORKS.Process(target=run, args=(rank, path)) for rank in range(RANKS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * RANKS
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    """Of each rank."""
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


@given(
    ranks=st.integers(1, 9),
    matrices=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=30),
    tables=st.lists(st.tuples(st.integers(1, 3000), st.sampled_from([1, 16, 5000])), max_size=4),
)
@settings(max_examples=50, deadline=None)
def test_everything_is_owned_and_the_work_is_balanced(ranks: int, matrices: list, tables: list) -> None:
    square = [torch.empty(shape, device="meta") for shape in matrices]
    flat = [torch.arange(rows).view(-1, 1).expand(rows, cols) for rows, cols in tables]
    shardings = [Sharding(ProcessGroup(rank, ranks) if ranks > 1 else None, square, flat) for rank in range(ranks)]
    costs = [[m.numel() * min(m.shape) for m in square if sharding.owns(m)] for sharding in shardings]
    assert sum(map(len, costs)) == len(square)
    loads = [sum(own) for own in costs]
    if square:
        assert max(loads) - min(loads) <= max(map(max, filter(None, costs)))
    for size in (1, 3):
        rounds = [[[id(m) for m in piece] for piece in sharding.in_rounds(square, size)] for sharding in shardings]
        assert all(other == rounds[0] for other in rounds)
        assert sorted(itertools.chain(*rounds[0])) == sorted(map(id, square))
        for sharding in shardings:
            assert all(sum(map(sharding.owns, piece)) <= size for piece in sharding.in_rounds(square, size))
    for table in flat:
        assert all(sharding.owns(table) for sharding in shardings)
        parts = [sharding.own(table, table) for sharding in shardings]
        if shardings[0].is_cut(table):
            assert table.numel() >= SMALLEST_TABLE
            assert torch.equal(torch.cat(parts), table)
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
        else:
            assert all(part is table for part in parts)


def of_all_ranks(found: list[dict[str, Any]], name: str, size: int) -> dict[str, Tensor]:
    """The parameters that a group has ended with, the same bit for bit on all of its ranks."""
    first, *others = (found[rank][name] for rank in GROUPS[size - 1])
    for other in others:
        for parameter, value in first.items():
            assert torch.equal(value, other[parameter]), parameter
    return first


def assert_equal(values: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Equal but for the last bits, which a product of stacked matrices may owe to the height of the stack, and the mean
    of the ranks' sketches to their number.
    """
    assert values.keys() == expected.keys()
    summed = 1e-5 if any(name.startswith("streamed") or name == "left" for name in expected) else 1e-6
    for name, value in expected.items():
        rounding = 1e-6 if value.dtype == torch.float32 else 0.008
        torch.testing.assert_close(values[name], value, rtol=rounding, atol=summed, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_any_number_of_ranks_trains_as_one_optimizer_does(found: list[dict[str, Any]], case: Case) -> None:
    alone = Training(case).steps(range(STEPS)).values()
    for size in SIZES:
        values = of_all_ranks(found, f"{case.name} on {size}", size)
        assert_equal(values, alone)


@pytest.mark.slow
def test_the_ranks_equal_the_plain_twin(found: list[dict[str, Any]]) -> None:
    training = Training(CASES[0])
    expected = {name: value.double() for name, value in training.values().items()}
    states: dict[str, dict] = {name: {} for name in expected}
    for step in range(STEPS):
        groups = {group["role"]: dict(group) for group in training.optimizer.param_groups}
        training.steps(range(step, step + 1))
        for name, parameter in training.parameters.items():
            role, _ = MANY[name]
            keys = ("lr", "weight_decay", *(("momentum", "beta2") if role == "matrix" else ("betas", "eps")))
            values = {key: groups[role][key] for key in keys}
            update = plain_muon.muon_step if role == "matrix" else plain_muon.adamw_step
            if parameter.grad is not None:
                expected[name] = update(expected[name], parameter.grad, states[name], **values)
    for name, value in of_all_ranks(found, "many on 4", 4).items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=2e-5, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("case", SAVED, ids=lambda case: case.name)
def test_what_two_ranks_have_saved_goes_on_on_any_number(found: list[dict[str, Any]], folder: Path, case: Case) -> None:
    through = found[GROUPS[1][0]][f"{case.name} saved"]
    assert_equal(through, Training(case).steps(range(STEPS)).values())
    assert_equal(Training(case).load(folder / f"{case.name}.pt").steps(range(3, STEPS)).values(), through)
    for size in SIZES:
        assert_equal(of_all_ranks(found, f"{case.name} loaded on {size}", size), through)


@pytest.mark.slow
@pytest.mark.parametrize("case", SAVED, ids=lambda case: case.name)
def test_what_two_ranks_save_is_what_one_does(folder: Path, case: Case) -> None:
    saved = torch.load(folder / f"{case.name}.pt", weights_only=True)["optimizer"]
    alone = Training(case).steps(range(3)).optimizer.state_dict()
    assert saved["param_groups"] == alone["param_groups"]
    assert saved["state"].keys() == alone["state"].keys()
    for index, state in alone["state"].items():
        assert {value.dtype for value in saved["state"][index].values()} == {torch.float32}
        assert_equal(saved["state"][index], state)


@pytest.mark.slow
def test_a_complete_state_is_there_once_and_until_the_next_step(found: list[dict[str, Any]]) -> None:
    first, *others = (found[rank]["dropped"] for rank in GROUPS[3])
    assert first == ["never consolidated", "saved", "stepped"]
    assert others == [["never consolidated", "consolidated", "saved", "stepped"]] * 3


@pytest.mark.slow
def test_the_state_is_held_once_but_for_what_is_small(found: list[dict[str, Any]]) -> None:
    alone = Training(CASES[0]).steps(range(STEPS)).state_bytes()
    small = sum(2 * 4 * numel + 4 for numel in (40 * 16, 4, 4, 1))
    tables = 4  # each rank counts the steps of each
    largest = 4 * (200 * 193 + 200)
    for size in SIZES:
        for what in ("many on", "many loaded on"):
            held = [found[rank][f"bytes of {what} {size}"] for rank in GROUPS[size - 1]]
            assert sum(held) == alone + (size - 1) * (small + 4 * tables)
            assert max(held) < alone / size + largest + small
    flat = [found[rank]["bytes of few on 3"] for rank in GROUPS[2]]
    assert flat[1] == flat[2] == 2 * 4 * 8192 + 4 + 2 * 4 * 2 + 4 and set(FEW) == {"only", "flat", "resid"}
