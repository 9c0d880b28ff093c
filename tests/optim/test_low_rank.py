"""MoleGrad's step: against an SVD, on planted gradients, through saving and loading, on several ranks."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.types import LowRank
from nanochat_pl.optim.low_rank import _random, low_rank_
from nanochat_pl.optim.muon import MuonAdamW, MuonAdamWSpec
from tests.reference.molegrad import MoleGrad

ROWS, COLS = 48, 40


def orthonormal(rows: int, columns: int, seed: int) -> Tensor:
    return torch.linalg.qr(torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)))[0]


class Training:
    """One matrix of zeros, which gets gradients as its layer would leave their sketches."""

    def __init__(
        self, rank: int, follows: bool = True, scaling: str = "muon", transposed: bool = False, **options: Any
    ):
        self.weight = torch.zeros(COLS, ROWS).mT if transposed else torch.zeros(ROWS, COLS)
        self.low = LowRank(
            self.weight,
            nn.Parameter(orthonormal(ROWS, rank, 1)),
            nn.Parameter(orthonormal(COLS, rank, 2), requires_grad=follows),
        )
        self.follows = follows
        options = {"weight_decay": 0.0, "momentum": 0.0} | options
        self.optimizer: MuonAdamW = MuonAdamWSpec(**options).build(
            [], {}, width=768, low_rank={"matrix": self.low},
            low_rank_values={"scaling": scaling, "warm_start_decay": 0.9},
        )  # fmt: skip

    def step(self, gradient: Tensor, of_right: Tensor | None = None) -> Tensor:
        """What one step takes off the weight; `of_right` is what Q sees in place of the gradient."""
        _, left, right = self.low
        left.grad = gradient @ right.detach()
        right.grad = (gradient if of_right is None else of_right).mT @ left.detach() if self.follows else None
        before = self.weight.clone()
        self.optimizer.step()
        assert left.grad is None and right.grad is None
        return before - self.weight

    def captured(self, gradient: Tensor) -> float:
        """The share of the gradient's energy that the subspace sees."""
        return float((gradient @ self.low.right.detach()).norm() ** 2 / gradient.norm() ** 2)


def momentum_of(training: Training) -> Tensor:
    """As a whole matrix."""
    _, left, right = training.low
    return training.optimizer.state[left]["momentum_buffer"] @ right.detach().mT


def noise(step: int, size: float = 1.0) -> Tensor:
    return size * torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(1000 + step))


def planted(rank: int, seed: int) -> Tensor:
    """A gradient of low rank and norm 1."""
    return orthonormal(ROWS, rank, seed) @ orthonormal(COLS, rank, seed + 1).mT / rank**0.5


def test_by_eigh_the_singular_vectors_are_those_of_an_svd() -> None:
    members = [
        LowRank(nn.Parameter(torch.zeros(ROWS, COLS)), nn.Parameter(orthonormal(ROWS, 8, seed)),
                nn.Parameter(orthonormal(COLS, 8, seed + 1)))
        for seed in (3, 5)
    ]  # fmt: skip
    group = {"momentum": 0.0, "warm_start_decay": 0.9, "scaling": "muon"}
    for member in members:
        member.left.grad = noise(1) @ member.right.detach()
    states: list[dict[str, Tensor]] = [{}, {}]
    turned = low_rank_(group, members, states, [torch.empty(COLS, 0)] * 2)
    for member, update, left, right in zip(members, *turned):
        assert member.left.grad is not None
        u, _, v = torch.linalg.svd(member.left.grad, full_matrices=False)
        torch.testing.assert_close(update, u @ v * (COLS / 8) ** 0.5, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close((left.mT @ u).abs(), torch.eye(8), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close((right.mT @ member.right @ v.mT).abs(), torch.eye(8), rtol=1e-3, atol=1e-3)


def test_a_whole_space_gives_muons_step() -> None:
    gradient = noise(1)
    u, _, v = torch.linalg.svd(gradient, full_matrices=False)
    for follows in (False, True):
        taken = Training(COLS, follows, lr=1.0).step(gradient)
        torch.testing.assert_close(taken, u @ v * (ROWS / COLS) ** 0.5, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("follows", [False, True])
@pytest.mark.parametrize("scaling", ["muon", "energy", "plain"])
def test_steps_are_those_of_whole_matrices_in_float64(scaling: str, follows: bool, transposed: bool) -> None:
    training = Training(8, follows, scaling, lr=0.5, weight_decay=0.2, momentum=0.8, transposed=transposed)
    training.weight.copy_(noise(0))
    twin = MoleGrad(*(tensor.detach() for tensor in training.low), scaling, follows)
    for step in range(1, 7):
        gradient = planted(3, seed=10) + noise(step, 0.02)
        random = _random(training.low.right, f"matrix.left/{step}")
        assert random.size(1) == 1
        rate = 0.5 * (1.0 if transposed else (ROWS / COLS) ** 0.5)
        twin.step(gradient, random, rate=rate, momentum=0.8, decay=0.2, keep=0.9)
        training.step(gradient)
        torch.testing.assert_close(training.weight.double(), twin.weight, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("size", [1e-15, 1.0, 1e15])
@pytest.mark.parametrize("rank", [8, COLS])
@pytest.mark.parametrize("scaling", ["muon", "energy"])
def test_gradients_of_few_directions_and_of_any_size_are_no_noise(scaling: str, rank: int, size: float) -> None:
    training, gradient = Training(rank, scaling=scaling, lr=1.0), planted(4, seed=10)
    for _ in range(30):
        taken = training.step(size * gradient)
    cosine = (taken * gradient).sum() / (taken.norm() * gradient.norm())
    # A direction that the running mean does not know yet counts up to 1 / sqrt(1 - 0.9) times as much as others.
    assert cosine > (0.95 if scaling == "muon" else 0.5)


def test_clipping_measures_each_gradient_once() -> None:
    for clip in ({"grad_clip": 0.25}, {"param_clip": 0.25}):
        clipped, twin = Training(COLS, momentum=0.9, **clip), Training(COLS, momentum=0.9)
        gradient = planted(4, seed=10)
        clipped.step(gradient)
        twin.step(0.25 * gradient)
        momenta = [momentum_of(one) for one in (clipped, twin)]
        torch.testing.assert_close(*momenta, rtol=1e-4, atol=1e-5)
        assert momenta[0].norm() == pytest.approx(0.1 * 0.25, rel=1e-3)


@pytest.mark.parametrize("scaling", ["muon", "energy", "plain"])
def test_each_scaling_keeps_the_norm_of_a_dense_update(scaling: str) -> None:
    training = Training(8, scaling=scaling, lr=1.0)
    for step in range(3):
        taken = training.step(noise(step))
        assert taken.norm().item() == pytest.approx((COLS * ROWS / COLS) ** 0.5, rel=1e-3)


def test_planted_gradients_of_low_rank_are_recovered() -> None:
    gradient = planted(4, seed=10)
    training = Training(8)
    for _ in range(6):
        training.step(gradient)
    assert training.captured(gradient) > 0.99
    taken = training.step(gradient)
    cosine = (taken * gradient).sum() / (taken.norm() * gradient.norm())
    assert cosine > 0.95


def test_without_inputs_at_hand_renewal_finds_what_it_can() -> None:
    gradient = planted(4, seed=10)
    training = Training(8, follows=False)
    seen = [training.captured(gradient)]
    for _ in range(50):
        training.step(gradient)
        seen.append(training.captured(gradient))
    assert max(seen[-5:]) > max(0.6, 2 * seen[0])


@pytest.mark.parametrize("momentum", [0.0, 0.95])
@pytest.mark.parametrize("rank", [3, 12])
def test_a_direction_that_appears_is_found_within_50_steps(rank: int, momentum: float) -> None:
    """Where the subspace has room, and where it is full."""
    old, new = planted(rank, seed=10), planted(1, seed=20)
    training = Training(8, momentum=momentum)
    for step in range(60):
        training.step(old + noise(step, 0.02))
    before = training.captured(new)
    for step in range(50):
        training.step(old + new + noise(100 + step, 0.02))
    assert before < 0.5
    assert training.captured(new) > 0.9
    assert training.captured(old) > (0.9 if rank == 3 else 0.5)


def test_the_momentum_is_carried_over_when_the_subspace_turns() -> None:
    training = Training(8, momentum=0.9)
    gradient = planted(4, seed=10)
    for _ in range(30):
        training.step(gradient)
    torch.testing.assert_close(momentum_of(training), gradient * (1 - 0.9**30), rtol=0, atol=0.02)


def test_sketches_that_are_not_finite_change_nothing_and_are_counted() -> None:
    training, twin = (Training(8, momentum=0.9, weight_decay=0.5) for _ in range(2))
    for step in range(3):
        training.step(noise(step))
        twin.step(noise(step))
    weight, right = training.weight.clone(), training.low.right.detach().clone()
    for value in (float("nan"), float("inf"), 1e30):
        broken = noise(3)
        broken[0, 0] = value
        training.step(broken)
        training.step(noise(3), of_right=broken)
        assert torch.equal(training.weight, weight) and torch.equal(training.low.right, right)
    state, expected = (one.optimizer.state[one.low.left] for one in (training, twin))
    assert state["skipped"] == 6 and expected["skipped"] == 0
    assert torch.equal(state["momentum_buffer"], expected["momentum_buffer"])
    training.step(noise(4))
    assert training.weight.isfinite().all() and not torch.equal(training.weight, weight)


def test_what_is_saved_goes_on_bit_for_bit() -> None:
    training = Training(8, momentum=0.9)
    for step in range(3):
        training.step(noise(step))
    saved = {"optimizer": training.optimizer.state_dict(), "weight": training.weight}
    copied = torch.load(_written(saved), weights_only=True)
    for step in range(3, 6):
        training.step(noise(step))
    again = Training(8, momentum=0.9)
    again.optimizer.load_state_dict(copied["optimizer"])
    again.weight.data.copy_(copied["weight"])
    for step in range(3, 6):
        again.step(noise(step))
    for one, other in zip(training.low, again.low):
        assert torch.equal(one, other)


@pytest.mark.parametrize("rank", [4, 16])
def test_another_rank_goes_on_with_the_strongest_directions(rank: int, caplog: pytest.LogCaptureFixture) -> None:
    gradient = planted(3, seed=10)
    training = Training(8, momentum=0.9)
    for _ in range(20):
        training.step(gradient)
    again = Training(rank, momentum=0.9)
    with caplog.at_level("INFO"):
        again.optimizer.load_state_dict(training.optimizer.state_dict())
    assert f"8 directions go on with {rank}" in caplog.text
    assert again.captured(gradient) > 0.99
    torch.testing.assert_close(momentum_of(again), momentum_of(training), rtol=0, atol=0.01)
    again.step(gradient)


@pytest.mark.parametrize("name", ["left", "right", "momentum_buffer"])
def test_what_an_earlier_version_kept_otherwise_is_named(name: str) -> None:
    training = Training(8, momentum=0.9)
    training.step(planted(3, seed=10))
    saved = training.optimizer.state_dict()
    (state,) = (state for state in saved["state"].values() if name in state)
    state[name] = torch.zeros(COLS + 1, 8)
    with pytest.raises(UserError, match=rf"of {ROWS} x {COLS} is not kept as .*{name} \(41, 8\).*stage.momentum=false"):
        Training(8, momentum=0.9).optimizer.load_state_dict(saved)


def _written(saved: Any) -> Any:
    import io

    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return file
